"""Typed tasks: which answers are valid, and why the others are not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.tasks import FIELD_KINDS, Task, record_fields, record_schema, render, unrender

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
    "extraction": Task("extraction", verbatim=True),
    "phrases": Task("extraction"),
    "open": Task("classification"),
    "record": Task(
        "structured", schema=json.dumps(record_schema({"mood": ["good", "bad"], "words": "quote", "topics": "list"}))
    ),
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
        ("analysis", "The author \x1b[31m is angry.", "control characters"),
        ("open", "service", None),
        ("open", " \n ", "blank"),
        ("open", "x" * 40, "cut off at the length limit"),
        ("open", 3, "label not in the set"),
        ("phrases", ["slow service"], None),
        ("phrases", ["Service", "service "], "repeated item"),
        ("record", {"mood": "bad", "words": "cold", "topics": ["soup"]}, None),
        ("record", {"mood": "bad", "words": "warm", "topics": []}, "span not in the text"),
        ("record", {"mood": "bad", "words": "cold", "topics": [3]}, "does not fit the schema"),
        ("record", {"mood": "sad", "words": "cold", "topics": []}, "does not fit the schema"),
        ("record", {"mood": "bad", "words": "cold"}, "does not fit the schema"),
        ("classification", "positive", None),
        ("classification", "Positive", "label not in the set"),
        ("classification", ["positive"], "label not in the set"),
        ("scoring", 5, None),
        ("scoring", 6, "score not on the scale"),
        ("scoring", "5", "score not on the scale"),
        ("scoring", True, "score not on the scale"),
        ("scoring", 4.0, None),
        ("scoring", 4.5, "score not on the scale"),
        ("extraction", ["cold", "the waiter"], None),
        ("extraction", [], None),
        ("extraction", ["Cold"], "span not in the text"),
        ("extraction", [" "], "blank"),
        ("extraction", ["cold", "cold"], "repeated item"),
        ("extraction", "cold", "not a list of phrases"),
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


def test_spans_are_where_the_words_stand() -> None:
    assert TASKS["extraction"].spans(["cold", "the waiter"], TEXT) == [(13, 17), (19, 29)]
    value = {"mood": "bad", "words": "kind", "topics": ["cold"]}
    spans = TASKS["record"].spans(value, TEXT)
    assert [TEXT[start:end] for start, end in spans] == ["kind"]
    assert TASKS["classification"].spans("positive", TEXT) == []


def test_free_strings_are_what_the_teacher_worded() -> None:
    value = {"mood": "bad", "words": "kind", "topics": ["cold", "soup"]}
    assert TASKS["record"].free_strings(value) == ["cold", "soup"]
    assert TASKS["analysis"].free_strings("words") == ["words"]
    assert TASKS["classification"].free_strings("positive") == []


@given(st.dictionaries(st.text(min_size=1), st.lists(st.text(), min_size=2) | st.sampled_from(FIELD_KINDS), min_size=1))
def test_fields_of_a_record_come_back(fields: dict[str, Any]) -> None:
    assert record_fields(record_schema(fields)) == fields


@pytest.mark.parametrize(
    ("task_type", "sentence"),
    [
        ("analysis", ""),
        ("classification", "Answer with one of: positive, negative."),
        ("open", "Answer with a short label."),
        ("scoring", "Answer with a whole number from 1 (lowest) to 5 (highest)."),
        ("extraction", "Answer with a JSON list of exact words from the text, empty if there are none."),
        ("phrases", "Answer with a JSON list of short phrases, empty if there are none."),
        (
            "record",
            "Answer with a JSON object: mood (one of: good, bad), words (exact words of the text), "
            "topics (list of texts).",
        ),
    ],
)
def test_the_output_format_is_said_in_words(task_type: str, sentence: str) -> None:
    assert TASKS[task_type].output_format == sentence


@pytest.mark.parametrize(
    ("task_type", "value"),
    [
        ("analysis", "Words."),
        ("classification", "positive"),
        ("scoring", 4),
        ("extraction", ["a"]),
        ("record", {"mood": "bad"}),
    ],
)
def test_what_is_rendered_comes_back(task_type: str, value: Any) -> None:
    assert unrender(TASKS[task_type], render(value)) == value


def test_render_is_plain_for_text_and_numbers() -> None:
    assert [render(value) for value in (" yes ", 4, 3.0, ["é"], {"a": "b"})] == ["yes", "4", "3", '["é"]', '{"a": "b"}']
