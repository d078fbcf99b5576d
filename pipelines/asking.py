"""Questions to the teacher whose answers are checked: an invalid one is asked for again, with its fault told."""

from collections.abc import Callable, Collection, Hashable, Iterable
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

    `calls` are the ids of all attempts that were made, `answer` is the last one's (None: the call failed).
    """

    value: Value | None = None
    reason: str | None = None
    answer: Answer | None = None
    calls: tuple[str, ...] = field(default=())


def ask_checked(
    keys: Iterable[Key],
    question: Callable[[Key], Question],
    check: Callable[[Key, Any], Value],
    stage: str,
    asker: Asker,
    engine: Engine,
    label: str | None = None,
) -> dict[Key, Outcome[Value]]:
    """Ask as `ask_each` does, and return the outcomes in the order of the keys: for as many as memory holds."""
    outcomes: dict[Key, Outcome[Value]] = dict.fromkeys(keys, Outcome(reason=FAILED))
    ask_each(outcomes, question, check, outcomes.__setitem__, stage, asker, engine, label)
    return outcomes


def ask_each(
    keys: Collection[Key],
    question: Callable[[Key], Question],
    check: Callable[[Key, Any], Value],
    keep: Callable[[Key, Outcome[Value]], None],
    stage: str,
    asker: Asker,
    engine: Engine,
    label: str | None = None,
) -> None:
    """Ask a question per key until it has a valid answer, at most `teacher.corrections` times more.

    `question` is called when a row's turn comes, so that few prompts are held at a time. `check` turns the JSON value
    of an answer into a value, or raises UnusableAnswerError with the reason. `keep` is given the outcome of each key
    as soon as it is there, in any order; nothing else holds it. Where a call fails the journal keeps its cause, and the
    next run asks it again; where a correction fails, the fault before it stands. `label` is what the progress is shown
    under, the stage unless given.
    """

    async def settle(key: Key) -> bool | None:
        asked, outcome = question(key), Outcome[Value](reason=FAILED)
        calls: tuple[str, ...] = ()
        for attempt in range(asker.teacher.corrections + 1):
            call = asker.call(asked.prompt, asked.schema, asked.temperature, asked.max_tokens)
            answer = await engine.answer(call, optional=attempt > 0)
            if answer is None:
                break
            calls = (*calls, call.call_id)
            value, fault = _checked(key, answer, check)
            outcome = Outcome(value, fault, answer, calls)
            if fault is None:
                break
            asked = replace(asked, prompt=asked.prompt.corrected(answer.text, fault))
        keep(key, outcome)
        return outcome.reason is None if calls else None

    engine.each(keys, settle, stage, len(keys), label)


def _checked(key: Key, answer: Answer, check: Callable[[Key, Any], Value]) -> tuple[Value | None, str | None]:
    try:
        return check(key, parse_answer(answer)), None
    except UnusableAnswerError as reason:
        return None, str(reason)
