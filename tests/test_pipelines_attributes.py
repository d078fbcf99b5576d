"""Attribute names are normalised as documented; answers of any shape give rows or a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.attributes import _rows, normalise_name
from pipelines.calls import Answer, UnusableAnswerError


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("Tone", ["tone"]),
        ("Tone: how it sounds", ["tone"]),
        ("Tone/Mood", ["tone", "mood"]),
        ("use of irony", ["irony"]),
        ("Use of emoji / the use of slang", ["emoji", "slang"]),
        ("  Overall \t sentiment. ", ["overall sentiment"]),
        (" / ", []),
    ],
)
def test_normalise_name(name: str, names: list[str]) -> None:
    assert normalise_name(name) == names


@given(st.text())
def test_normalised_names_are_clean(name: str) -> None:
    for part in normalise_name(name):
        assert part == part.lower().strip()
        assert "/" not in part
        assert "  " not in part


def test_a_name_counts_once_per_text() -> None:
    item = {"name": "Tone", "description": "d", "value": "v"}
    answer = Answer(json.dumps({"attributes": [item, {**item, "name": "tone / mood"}]}), "stop", 1, 1, 0.1)
    assert [row["name"] for row in _rows("t", "c", answer)] == ["tone", "mood"]


@given(
    st.text()
    | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(json.dumps)
)
def test_any_answer_gives_rows_or_a_reason(text: str) -> None:
    with pytest.raises(UnusableAnswerError):
        list(_rows("t", "c", Answer(text, "stop", 1, 1, 0.1)))
