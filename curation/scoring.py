"""The `scores` table: every valid sample's difficulty, and a near-duplicate's most similar kept sample."""

from collections.abc import Sequence
from dataclasses import asdict

import polars as pl

from curation.difficulty import Score, score_samples
from curation.student import Student
from curation.vectors import SampleVectors
from stillhouse.checkpoint import Checkpoint
from stillhouse.errors import RunError
from stillhouse.near_duplicates import NearDuplicates, find_near_duplicates
from stillhouse.progress import Progress
from stillhouse.schemas import SCORES, table_of
from stillhouse.sections import Curation

GROUP = {"all": None, "instruction": "instruction_id", "text": "text_id"}


def valid_samples(responses: pl.DataFrame, texts: pl.DataFrame, instructions: pl.DataFrame) -> pl.DataFrame:
    """Return the valid responses with their instruction and text. Raises RunError where there is none."""
    valid = (
        responses.filter(pl.col("status") == "valid")
        .join(texts.select("text_id", "text"), on="text_id", maintain_order="left")
        .join(instructions.select("instruction_id", "instruction"), on="instruction_id", maintain_order="left")
    )
    if valid.is_empty():
        reason = responses["reason"].drop_nulls().mode().sort().head(1).to_list()
        raise RunError(
            f"responses: none of {len(responses)} is valid; the commonest reason: {reason[0] if reason else '?'}"
        )
    return valid


def score_table(
    valid: pl.DataFrame,
    vectors: SampleVectors,
    settings: Curation,
    student: Student,
    checkpoint: Checkpoint,
    progress: Progress,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the `scores` table of `valid_samples` and the counts `scored` and `unscored`.

    Difficulties that `checkpoint` holds are not computed again.
    """
    near = near_duplicates(valid, vectors, settings)
    progress.start("scores", total=len(valid))
    pairs = list(valid.select("prompt", "output").iter_rows())
    scores = score_samples(pairs, student, settings.max_length, checkpoint, progress.update)
    unscored = sum(score.unscored_reason is not None for score in scores)
    return _table(valid["sample_id"].to_list(), scores, near), {"scored": len(valid) - unscored, "unscored": unscored}


def near_duplicates(valid: pl.DataFrame, vectors: SampleVectors, settings: Curation) -> NearDuplicates:
    """Find near-duplicates among all samples, or those of one instruction or text, by `curation.duplicates`."""
    column = GROUP[settings.duplicates]
    groups = valid[column].rank("dense").to_numpy() if column else None
    return find_near_duplicates(vectors.dense(valid["sample_id"].to_list()), settings.similarity, groups)


def _table(ids: list[str], scores: Sequence[Score], near: NearDuplicates) -> pl.DataFrame:
    rows: list[dict[str, object]] = []
    for sample_id, score, nearest, similarity in zip(ids, scores, near.nearest, near.similarity, strict=True):
        neighbour = {"nearest_id": ids[nearest], "nearest_similarity": float(similarity)} if nearest >= 0 else {}
        rows.append({"sample_id": sample_id, **asdict(score), **neighbour})
    return table_of(rows, SCORES, "scores")
