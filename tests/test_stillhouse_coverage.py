"""What `status` counts it counts from narrow columns: words of texts, prompts and answers are not read for it."""

from pathlib import Path

import polars as pl
import pytest

from stillhouse.coverage import coverage, funnel
from stillhouse.store import RunFolder

WORDS = {"texts": ["text"], "responses": ["prompt", "output"], "instructions": ["instruction", "examples", "demos"]}


def test_counts_are_those_of_the_whole_tables_without_their_words(offline_run: Path) -> None:
    run = RunFolder(offline_run)

    def refuse(column: pl.Series) -> pl.Series:
        raise AssertionError(f"{column.name} was read")

    whole = {name: run.read_table(name) for name in run.made()}
    guarded = {
        name: run.scan_table(name).with_columns(
            pl.col(word).map_batches(refuse, return_dtype=whole[name].schema[word]) for word in WORDS.get(name, [])
        )
        for name in whole
    }
    with pytest.raises(Exception, match="was read"):
        guarded["responses"].collect()
    assert funnel(guarded) == funnel(whole)
    assert coverage(guarded).equals(coverage(whole))
    assert funnel(whole)["kept"] == whole["decisions"]["kept"].sum()
