"""Pairing is even and without repeats for any size; definitions become typed tasks or a reason."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.calls import Answer, UnusableAnswerError
from pipelines.instructions import _typed
from pipelines.responses import _judge, pair_evenly
from stillhouse.tasks import Task


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4000), st.integers(0, 9))
def test_pairs_are_distinct_and_even(texts: int, instructions: int, samples: int, seed: int) -> None:
    pairs = pair_evenly([f"t{n}" for n in range(texts)], [f"i{n}" for n in range(instructions)], samples, seed)
    assert len(pairs) == len(set(pairs)) == min(samples, texts * instructions)
    for side, ids in ((0, [f"t{n}" for n in range(texts)]), (1, [f"i{n}" for n in range(instructions)])):
        uses = Counter(pair[side] for pair in pairs)
        assert max(uses[name] for name in ids) - min(uses[name] for name in ids) <= 1


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("classification", {"labels": ["Good", "good "]}, "label set of one"),
        ("structured", {"fields": [{"name": "a", "values": []}, {"name": "a", "values": []}]}, "record of one field"),
        (
            "structured",
            {"fields": [{"name": "a", "values": ["x", "X"]}, {"name": "b", "values": []}]},
            "label set of one",
        ),
    ],
)
def test_unusable_definitions_say_why(kind: str, value: dict[str, object], reason: str) -> None:
    with pytest.raises(UnusableAnswerError, match=reason):
        _typed(kind, value)


@pytest.mark.parametrize(
    ("text", "finish", "judgement"),
    [
        ('{"answer": "good"}', "stop", ("good", "valid", None)),
        ('{"answer": "fine"}', "stop", ("fine", "invalid", "label not in the set")),
        ('{"answer": "good"', "stop", ('{"answer": "good"', "invalid", "not JSON")),
        ('{"answer": "go', "length", ('{"answer": "go', "invalid", "truncated: the teacher stopped for `length`")),
        ('{"answer": "good", "b": 1}', "stop", ('{"answer": "good", "b": 1}', "invalid", "not the fields asked for")),
        ("good", "stop", ("good", "invalid", "not JSON")),
    ],
)
def test_answers_are_judged_with_a_reason(text: str, finish: str, judgement: tuple[str, str, str | None]) -> None:
    task = Task("classification", labels=("good", "bad"))
    assert _judge(task, "a text", Answer(text, finish, 1, 1, 0.1)) == judgement


def test_a_failed_call_is_a_failed_row() -> None:
    assert _judge(Task("analysis"), "a text", None) == (None, "failed", "teacher call failed")
