"""Questions to the teacher whose answers are checked: an invalid one is asked for again, with its fault told."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from pipelines.calls import Answer, JsonSchema, UnusableAnswerError, parse_answer
from pipelines.engine import Engine
from pipelines.prompting import Asker, Prompt

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
FAILED = "teacher call failed"


@dataclass(frozen=True)
class Question:
    """What is asked: the prompt, the JSON Schema of the answer, and how the teacher samples."""

    prompt: Prompt
    schema: JsonSchema
    temperature: float
    max_tokens: int


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What came of a question: a value, or the reason why the last answer is none.

    `calls` are the ids of all attempts that were answered, `answer` is the last one's (None: the call failed).
    """

    value: Value | None = None
    reason: str | None = None
    answer: Answer | None = None
    calls: tuple[str, ...] = field(default=())


def ask_checked(
    questions: Mapping[Key, Question], check: Callable[[Key, Any], Value], stage: str, asker: Asker, engine: Engine
) -> dict[Key, Outcome[Value]]:
    """Ask all questions until each has a valid answer, at most `teacher.corrections` times more.

    `check` turns the JSON value of an answer into a value, or raises UnusableAnswerError with the reason. A call that
    fails is not repeated here: the journal keeps its cause, and the next run asks it again.
    """
    outcomes: dict[Key, Outcome[Value]] = {}
    open_questions = dict(questions)
    for attempt in range(1 + asker.teacher.corrections):
        calls = {
            key: asker.call(question.prompt, question.schema, question.temperature, question.max_tokens)
            for key, question in open_questions.items()
        }
        answers = engine.ask(stage, list(calls.values()), stage if attempt == 0 else f"{stage} again")
        again: dict[Key, Question] = {}
        for key, call in calls.items():
            if call.call_id not in answers:
                outcomes.setdefault(key, Outcome(reason=FAILED))  # an earlier attempt's fault says more
                continue
            calls_so_far = (*outcomes[key].calls, call.call_id) if key in outcomes else (call.call_id,)
            answer = answers[call.call_id]
            value, fault = _checked(key, answer, check)
            outcomes[key] = Outcome(value, fault, answer, calls_so_far)
            if fault:
                question = open_questions[key]
                again[key] = replace(question, prompt=question.prompt.corrected(answer.text, fault))
        open_questions = again
        if not open_questions:
            break
    return outcomes


def _checked(key: Key, answer: Answer, check: Callable[[Key, Any], Value]) -> tuple[Value | None, str | None]:
    try:
        return check(key, parse_answer(answer)), None
    except UnusableAnswerError as reason:
        return None, str(reason)
