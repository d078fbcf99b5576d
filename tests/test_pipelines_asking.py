"""An invalid answer is asked for again with its fault told, up to the limit; what fails keeps its reason."""

import asyncio
import weakref
from typing import Any

import pytest

from pipelines.asking import FAILED, Outcome, Question, ask_checked, ask_each
from pipelines.calls import Answer, Call, UnusableAnswerError
from pipelines.prompting import Asker, Prompt
from stillhouse.sections import Teacher


class _ScriptedEngine:
    """Answers each call by a function of its prompt; stands where the teacher's answers come in."""

    def __init__(self, script: Any) -> None:
        self.script = script
        self.asked: list[Call] = []

    def each(self, items: Any, handle: Any, stage: str, total: int, label: str | None) -> None:
        async def work() -> None:
            self.found = [await handle(item) for item in items]

        asyncio.run(work())

    async def answer(self, call: Call, optional: bool) -> Answer | None:
        assert optional == bool(self.asked), "a correction may fail"
        self.asked.append(call)
        text = self.script(str(call.prompt))
        return None if text is None else Answer(text, "stop", 1, 1, 0.1)


def ask(script: Any, corrections: int = 2, **teacher: Any) -> tuple[Outcome[int], _ScriptedEngine]:
    def check(_: str, value: Any) -> int:
        if not isinstance(value, int):
            raise UnusableAnswerError("not a number")
        return value

    engine = _ScriptedEngine(script)
    asker = Asker(Teacher(corrections=corrections, **teacher), seed=1)
    question = Question(Prompt("Count.", (), "How many?"), {"type": "integer"}, 0.5, 10)
    outcomes = ask_checked(["q"], lambda _: question, check, "stage", asker, engine)  # type: ignore[arg-type]
    return outcomes["q"], engine


def test_a_valid_answer_is_not_asked_again() -> None:
    outcome, engine = ask(lambda prompt: "7")
    assert (outcome.value, outcome.reason, len(outcome.calls), len(engine.asked)) == (7, None, 1, 1)


def test_the_fault_is_told_and_the_second_answer_counts() -> None:
    outcome, engine = ask(lambda prompt: "7" if "not valid: not a number" in prompt else '"seven"')
    assert (outcome.value, outcome.reason) == (7, None)
    assert list(outcome.calls) == [call.call_id for call in engine.asked]
    assert '"seven"' in str(engine.asked[1].prompt)


def test_after_the_limit_the_last_reason_stays() -> None:
    outcome, engine = ask(lambda prompt: "no" if "not a number" in prompt else '"seven"', corrections=3)
    assert (outcome.value, outcome.reason, len(engine.asked)) == (None, "not JSON", 4)
    assert outcome.answer is not None
    assert outcome.answer.text == "no"
    outcome, engine = ask(lambda prompt: "no", corrections=0)
    assert (outcome.reason, len(engine.asked)) == ("not JSON", 1)


def test_a_failed_call_is_not_repeated_and_hides_no_earlier_fault() -> None:
    outcome, engine = ask(lambda prompt: None)
    assert (outcome.reason, outcome.answer, len(engine.asked)) == (FAILED, None, 1)
    assert engine.found == [None]
    outcome, engine = ask(lambda prompt: None if "not valid" in prompt else "no")
    assert (outcome.reason, len(outcome.calls), len(engine.asked)) == ("not JSON", 1, 2)
    assert engine.found == [False]


def test_a_refused_answer_is_shown_short_and_printable() -> None:
    prompt = Prompt("I", (), "Q").corrected("\x1b[31m" + "x" * 10_000, "too long")
    answer, complaint = prompt.refused[0]
    assert len(answer) == 400
    assert answer.isprintable()
    assert "too long" in complaint
    assert [turn["role"] for turn in prompt.messages()] == ["system", "user", "assistant", "user"]
    assert prompt.completion().endswith("\nAnswer:")


@pytest.mark.parametrize(("constrained", "schema"), [(True, {"type": "integer"}), (False, None)])
def test_decoding_is_constrained_unless_switched_off(constrained: bool, schema: Any) -> None:
    _, engine = ask(lambda prompt: "7", structured_output=constrained)
    assert engine.asked[0].schema == schema


def test_outcomes_are_handed_over_and_not_held() -> None:
    engine, asker = _ScriptedEngine(lambda prompt: "7"), Asker(Teacher(corrections=0), seed=1)
    question = Question(Prompt("Count.", (), "How many?"), {"type": "integer"}, 0.5, 10)
    alive: weakref.WeakSet[Outcome[int]] = weakref.WeakSet()
    most, keys = 0, []

    def keep(key: int, outcome: Outcome[int]) -> None:
        nonlocal most
        alive.add(outcome)
        most = max(most, len(alive))
        keys.append((key, outcome.value))

    engine.answer = _always_seven  # type: ignore[method-assign]
    ask_each(range(50), lambda _: question, lambda _, value: int(value), keep, "stage", asker, engine)  # type: ignore[arg-type]
    assert keys == [(number, 7) for number in range(50)]
    assert most <= 2


async def _always_seven(call: Call, optional: bool) -> Answer | None:
    return Answer("7", "stop", 1, 1, 0.1)
