"""Attributes: any answer gives rows or a reason, a name counts once per text, the domain is the recipe's."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale_run import open_instant
from pipelines.attributes import _items, _question, _template, enumerate_attributes, fold
from pipelines.calls import Answer, UnusableAnswerError, parse_answer
from pipelines.engine import Engine
from pipelines.prompting import Asker
from stillhouse import schemas
from stillhouse.progress import Counts, Unseen
from stillhouse.recipe import load_recipe
from stillhouse.sections import Attributes, Domain, Runtime, Teacher
from stillhouse.texts import text_id
from tests.conftest import ROOT, outcome
from tests.measuring import bytes_per_row

ITEM = {"name": "Tone", "description": "how it sounds", "value": "calm"}


def test_a_name_counts_once_per_answer() -> None:
    found = _items("t", {"attributes": [ITEM, {**ITEM, "name": "tone / mood", "value": "other"}]})
    assert [(item["name"], item["value"]) for item in found] == [("tone", "calm"), ("mood", "other")]


def test_folded_names_count_once_per_text() -> None:
    rows = [("a", "concerns"), ("a", "concern"), ("b", "concern"), ("c", "concern")]
    table = pl.DataFrame(
        [{"text_id": text, "name": name, "description": "d", "value": "v", "call_id": "c"} for text, name in rows]
    )
    assert fold(table).select("text_id", "name").rows() == [("a", "concern"), ("b", "concern"), ("c", "concern")]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "not a list of attributes"),
        ({"attributes": "tone"}, "not a list of attributes"),
        ({"attributes": [{**ITEM, "value": 3}]}, "not a list of attributes"),
        ({"attributes": []}, "no attribute with a name"),
        ({"attributes": [{**ITEM, "name": "12 / !"}]}, "no attribute with a name"),
        ({"attributes": [{**ITEM, "name": "x" * 61}]}, "no attribute with a name"),
        ({"attributes": [{**ITEM, "description": "y" * 10_000}]}, "attribute too long"),
        ({"attributes": [{**ITEM, "value": "a\x1b[31mb"}]}, "control characters"),
    ],
)
def test_unusable_answers_say_why(value: Any, reason: str) -> None:
    with pytest.raises(UnusableAnswerError, match=reason):
        _items("t", value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["attributes", "name", "value"]), inner)
    ),
)
NEAR_MISSES = st.fixed_dictionaries(
    {"attributes": st.lists(st.fixed_dictionaries({"name": st.text(), "description": st.text(), "value": st.text()}))}
)


@given(st.text() | JSON.map(json.dumps) | NEAR_MISSES.map(json.dumps))
def test_any_answer_gives_names_or_a_reason(text: str) -> None:
    found, reason = outcome(lambda: _items("t", parse_answer(Answer(text, "stop", 1, 1, 0.1))))
    assert found or reason
    assert all(0 < len(item["name"]) <= 60 for item in found or [])


def test_the_domain_of_the_recipe_replaces_sentiment() -> None:
    domain = load_recipe(ROOT / "recipes" / "support.yaml").domain
    prompt = _question("0", "T", _template(domain), domain, Attributes()).prompt
    assert "attributes of support requests" in prompt.instruction
    assert "sentiment" not in prompt.completion()
    assert "affected function" in prompt.completion()
    default = Domain()
    usual = _question("0", "T", _template(default), default, Attributes()).prompt
    assert "sentiment-related attributes" in usual.instruction


def enumerated(count: int, journal: Path) -> tuple[pl.DataFrame, pl.DataFrame, Counts]:
    """Return so many texts, and what a teacher that answers at once finds in them."""
    texts = pl.DataFrame({"text": [f"Room {number} was cold, and nobody cared." for number in range(count)]})
    texts = texts.with_columns(text_id=pl.Series([text_id(text) for text in texts["text"]]))
    teacher = Teacher(backend="endpoint", base_url="http://localhost:1/v1", model="instant", api="chat")
    with Engine(teacher, Runtime(concurrency=4), journal, Unseen(), open_instant) as engine:
        return texts, *enumerate_attributes(texts, Domain(), Attributes(), Asker(teacher, 1), engine)


def test_rows_come_text_by_text_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for batch in (1, 7, 1000):
        monkeypatch.setattr(schemas, "BATCH_ROWS", batch)
        texts, table, counts = enumerated(120, tmp_path / "journal.sqlite")
        assert table["text_id"].unique(maintain_order=True).to_list() == texts["text_id"].to_list()
        assert counts["parsed"] == table.filter(pl.col("name").is_not_null())["text_id"].n_unique()
        tables.append(table)
    assert all(table.equals(tables[0]) for table in tables)


def test_memory_holds_no_row_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "BATCH_ROWS", 50)

    grown = bytes_per_row(lambda count: enumerated(count, tmp_path / f"{count}.sqlite"))
    assert grown < 800, "bytes per text; outcomes took 2,500"
