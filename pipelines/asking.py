"""Questions to the teacher whose answers are checked: an invalid one is asked for again, with its fault told."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from pipelines.calls import Answer, Call, JsonSchema, UnusableAnswerError, parse_answer
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
    questions: Mapping[Key, Question],
    check: Callable[[Key, Any], Value],
    stage: str,
    asker: Asker,
    engine: Engine,
    label: str | None = None,
) -> dict[Key, Outcome[Value]]:
    """Ask all questions until each has a valid answer, at most `teacher.corrections` times more.

    `check` turns the JSON value of an answer into a value, or raises UnusableAnswerError with the reason. Where a call
    fails the journal keeps its cause, and the next run asks it again; where a correction fails, the fault before it
    stands. `label` is what the progress is shown under, the stage unless given.
    """
    outcomes: dict[Key, Outcome[Value]] = {}
    attempts = {key: _attempt(question, asker) for key, question in questions.items()}
    keys = {attempt.call.call_id: key for key, attempt in attempts.items()}

    def follow_up(call: Call, answer: Answer) -> Call | None:
        """Return the call that asks again at once, without waiting for the other questions."""
        key = keys[call.call_id]
        attempt = _next(attempts[key], answer, _checked(key, answer, check)[1], asker)
        if attempt is None:
            return None
        attempts[key], keys[attempt.call.call_id] = attempt, key
        return attempt.call

    again = ""
    while attempts:
        calls = [attempt.call for attempt in attempts.values()]
        answers = engine.ask(stage, calls, follow_up, (label or stage) + again, optional=bool(again))
        further: dict[Key, _Attempt] = {}
        for key, attempt in attempts.items():
            answer = answers.get(attempt.call.call_id)
            if answer is None:
                outcomes.setdefault(key, Outcome(reason=FAILED))  # an earlier attempt's fault says more
                continue
            value, fault = _checked(key, answer, check)
            outcomes[key] = Outcome(value, fault, answer, attempt.calls)
            after = _next(attempt, answer, fault, asker)
            further.update({key: after} if after else {})
        attempts, again = further, " again"
        keys = {attempt.call.call_id: key for key, attempt in attempts.items()}
    return outcomes


@dataclass(frozen=True)
class _Attempt:
    """A question as it is asked now, its call, and the ids of all calls so far, this one included."""

    question: Question
    call: Call
    calls: tuple[str, ...]


def _attempt(question: Question, asker: Asker, before: tuple[str, ...] = ()) -> _Attempt:
    call = asker.call(question.prompt, question.schema, question.temperature, question.max_tokens)
    return _Attempt(question, call, (*before, call.call_id))


def _next(attempt: _Attempt, answer: Answer, fault: str | None, asker: Asker) -> _Attempt | None:
    """Return the attempt after an invalid answer, with its fault told; None where there is no fault or no try left."""
    if fault is None or len(attempt.calls) > asker.teacher.corrections:
        return None
    prompt = attempt.question.prompt.corrected(answer.text, fault)
    return _attempt(replace(attempt.question, prompt=prompt), asker, attempt.calls)


def _checked(key: Key, answer: Answer, check: Callable[[Key, Any], Value]) -> tuple[Value | None, str | None]:
    try:
        return check(key, parse_answer(answer)), None
    except UnusableAnswerError as reason:
        return None, str(reason)
