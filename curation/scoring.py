"""The `scores` table: every valid sample's difficulty, and a near-duplicate's most similar kept sample."""

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import polars as pl

from curation.difficulty import READ_AT_ONCE, Score, score_all
from curation.vectors import SampleVectors
from stillhouse.checkpoint import Checkpoint
from stillhouse.errors import RunError
from stillhouse.near_duplicates import NearDuplicates, find_across_blocks, find_near_duplicates
from stillhouse.places import Here, Place, Work
from stillhouse.progress import Progress
from stillhouse.schemas import SCORES, conform
from stillhouse.sections import Curation

GROUP = {"all": None, "instruction": "instruction_id", "text": "text_id"}
# Rows that a step on a cluster compares with as many: half a minute of a core, and 0.3 GB for three parts of 384.
BLOCK_ROWS = 65_536


def valid_samples(responses: pl.LazyFrame, texts: pl.LazyFrame, instructions: pl.LazyFrame) -> pl.LazyFrame:
    """Return the valid responses with their instruction and text. Raises RunError where there is none."""
    valid = responses.filter(pl.col("status") == "valid")
    if not valid.select(pl.len()).collect().item():
        reasons = responses.select("reason").collect().to_series()
        reason = reasons.drop_nulls().mode().sort().head(1).to_list()
        raise RunError(
            f"responses: none of {len(reasons)} is valid; the commonest reason: {reason[0] if reason else '?'}"
        )
    return valid.join(texts.select("text_id", "text"), on="text_id", maintain_order="left").join(
        instructions.select("instruction_id", "instruction"), on="instruction_id", maintain_order="left"
    )


def score_table(
    valid: pl.LazyFrame,
    vectors: SampleVectors,
    settings: Curation,
    make: Callable[[], Work[tuple[list[Score], int]]],
    checkpoint: Checkpoint,
    progress: Progress,
    place: Place,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the `scores` table of `valid_samples` and the counts `scored` and `unscored`.

    `make` returns a `Scorer`, wherever `place` wants one. Difficulties that `checkpoint` holds are not computed again.
    """
    near = near_duplicates(valid, vectors, settings, place)
    ids = valid.select("sample_id").collect().to_series()
    progress.start("scores", total=len(ids))
    # Nobody else holds the rows: they go when they are worded, before the scoring.
    keys = score_all(valid.select("prompt", "output").collect().iter_rows(), make, checkpoint, place, progress.update)
    table = _table(ids, keys, checkpoint, near)
    unscored = table["unscored_reason"].count()
    return table, {"scored": len(table) - unscored, "unscored": unscored}


def near_duplicates(valid: pl.LazyFrame, vectors: SampleVectors, settings: Curation, place: Place) -> NearDuplicates:
    """Find near-duplicates among all samples, or those of one instruction or text, by `curation.duplicates`."""
    column = GROUP[settings.duplicates]
    groups = valid.select(pl.col(column).rank("dense")).collect().to_series().to_numpy() if column else None
    rows = vectors.joined(valid.select("sample_id").collect().to_series())
    if isinstance(place, Here):
        return find_near_duplicates(rows, settings.similarity, groups)
    return find_across_blocks(rows, settings.similarity, place, BLOCK_ROWS, groups)


def _table(ids: pl.Series, keys: Sequence[str], checkpoint: Checkpoint, near: NearDuplicates) -> pl.DataFrame:
    schema = {field.name: SCORES[field.name] for field in fields(Score)}  # as `score_all` keeps them
    figures = pl.concat(
        pl.DataFrame([checkpoint.get(key) for key in keys[start : start + READ_AT_ONCE]], schema=schema, orient="row")
        for start in range(0, len(keys), READ_AT_ONCE)
    )
    known = {"nearest_id": ids.gather(np.maximum(near.nearest, 0)), "nearest_similarity": near.similarity}
    has_one = pl.when(pl.Series(near.nearest >= 0))
    neighbour = pl.DataFrame(known).with_columns(has_one.then(name).alias(name) for name in known)
    return conform(figures.with_columns(ids.alias("sample_id"), *neighbour.iter_columns()), SCORES, "scores")
