"""Typed tasks: which answers are valid, and why the others are not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.tasks import Task, render

TEXT = "The soup was cold, the waiter was kind."
RECORD = {
    "type": "object",
    "properties": {"mood": {"type": "string", "enum": ["good", "bad"]}},
    "required": ["mood"],
    "additionalProperties": False,
}
TASKS = {
    "analysis": Task("analysis"),
    "classification": Task("classification", labels=("positive", "negative")),
    "scoring": Task("scoring", scale=(1, 5)),
    "extraction": Task("extraction"),
    "structured": Task("structured", schema=json.dumps(RECORD)),
}


@pytest.mark.parametrize(
    ("task_type", "value", "fault"),
    [
        ("analysis", "The author praises the waiter.", None),
        ("analysis", "short", "not a text of fitting length"),
        ("analysis", "x" * 401, "not a text of fitting length"),
        ("analysis", "a word " * 57 + "x", "cut off at the length limit"),
        ("analysis", "12345 67890!", "no words"),
        ("analysis", TEXT.upper() + " ", "echoes the text"),
        ("classification", "positive", None),
        ("classification", "Positive", "label not in the set"),
        ("classification", ["positive"], "label not in the set"),
        ("scoring", 5, None),
        ("scoring", 6, "score not on the scale"),
        ("scoring", "5", "score not on the scale"),
        ("scoring", True, "score not on the scale"),
        ("extraction", ["cold", "the waiter"], None),
        ("extraction", [], None),
        ("extraction", ["Cold"], "span not in the text"),
        ("extraction", [" "], "blank span"),
        ("extraction", ["cold", "cold"], "repeated span"),
        ("extraction", "cold", "not a list of spans"),
        ("structured", {"mood": "good"}, None),
        ("structured", {"mood": "fine"}, "does not fit the schema"),
        ("structured", {"mood": "good", "more": 1}, "does not fit the schema"),
    ],
)
def test_fault(task_type: str, value: Any, fault: str | None) -> None:
    assert TASKS[task_type].fault(value, TEXT) == fault


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON, st.text(), st.sampled_from(sorted(TASKS)))
def test_any_value_is_judged_without_a_crash(value: Any, text: str, task_type: str) -> None:
    fault = TASKS[task_type].fault(value, text)
    assert fault is None or isinstance(fault, str)


def test_render_is_plain_for_text_and_numbers() -> None:
    assert [render(value) for value in (" yes ", 4, ["é"], {"a": "b"})] == ["yes", "4", '["é"]', '{"a": "b"}']
