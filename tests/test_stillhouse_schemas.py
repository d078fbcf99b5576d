"""Rows become a table a few at a time: the same table whatever the batch, and few of them are Python objects."""

import tracemalloc
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse import schemas
from stillhouse.schemas import DECISIONS, RESPONSES, Rows


def filled(count: int) -> pl.DataFrame:
    """Return a table of `count` rows that came last first."""
    rows = Rows(RESPONSES, "responses")
    for place in reversed(range(count)):
        spans = [{"start": place, "end": place + 1}] * (place % 3)
        rows.add(place, {"sample_id": f"s{place}", "prompt": f"{place} " * 50, "spans": spans, "status": "valid"})
    return rows.table()


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_table_has_the_same_bytes_whatever_the_batch(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(100).write_parquet(tmp_path / "usual.parquet")
    monkeypatch.setattr(schemas, "BATCH_ROWS", batch)
    filled(100).write_parquet(tmp_path / "other.parquet")
    assert (tmp_path / "other.parquet").read_bytes() == (tmp_path / "usual.parquet").read_bytes()
    assert filled(100)["sample_id"].to_list() == [f"s{place}" for place in range(100)]


@given(st.lists(st.integers(0, 5), max_size=30))
def test_rows_are_in_the_order_of_their_places_and_of_coming(places: list[int]) -> None:
    rows = Rows(DECISIONS, "decisions")
    for number, place in enumerate(places):
        rows.add(place, {"sample_id": f"{place} {number}"})
    table = rows.table()
    assert table.schema == DECISIONS
    assert table["sample_id"].to_list() == [
        f"{places[n]} {n}" for n in sorted(range(len(places)), key=places.__getitem__)
    ]


def test_rows_do_not_stay_python_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "BATCH_ROWS", 100)

    def peak(count: int) -> int:
        tracemalloc.start()
        filled(count)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(200)
    assert (peak(4200) - peak(200)) / 4000 < 30, "bytes per row; a dictionary alone takes 200"
