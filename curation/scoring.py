"""The `scores` table: every valid sample's difficulty, and a near-duplicate's most similar kept sample."""

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from curation.difficulty import score_samples
from stillhouse.encoder import Encoder
from stillhouse.errors import RunError
from stillhouse.near_duplicates import Vectors, find_near_duplicates
from stillhouse.progress import Progress
from stillhouse.recipe import Curation
from stillhouse.schemas import SCORES, table_of
from stillhouse.series import SERIES


def score_responses(
    responses: pl.DataFrame,
    texts: pl.DataFrame,
    instructions: pl.DataFrame,
    settings: Curation,
    encoder: Encoder,
    student: tuple[Any, Any],
    progress: Progress,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Score all valid responses under the student (model, tokenizer).

    Returns the `scores` table and the counts `scored` and `unscored`. Raises RunError where no response is valid.
    """
    valid = (
        responses.filter(pl.col("status") == "valid")
        .join(texts.select("text_id", "text"), on="text_id", maintain_order="left")
        .join(instructions.select("instruction_id", "instruction"), on="instruction_id", maintain_order="left")
    )
    if valid.is_empty():
        raise RunError(f"responses: none of {len(responses)} is valid; see the reasons in responses.parquet")
    progress.start("scores", total=len(valid))
    near = find_near_duplicates(sample_vectors(valid, encoder), settings.similarity)
    pairs = list(valid.select("prompt", "output").iter_rows())
    template = SERIES[settings.series].template if settings.series else {}
    scores = score_samples(pairs, *student, settings.max_length, progress.update, template)
    ids = valid["sample_id"].to_list()
    rows: list[dict[str, object]] = []
    for sample_id, score, nearest, similarity in zip(ids, scores, near.nearest, near.similarity, strict=True):
        figures = asdict(score)
        figures["unscored_reason"] = figures.pop("reason")
        neighbour = {"nearest_id": ids[nearest], "nearest_similarity": float(similarity)} if nearest >= 0 else {}
        rows.append({"sample_id": sample_id, **figures, **neighbour})
    unscored = sum(score.reason is not None for score in scores)
    return table_of(rows, SCORES, "scores"), {"scored": len(rows) - unscored, "unscored": unscored}


def sample_vectors(samples: pl.DataFrame, encoder: Encoder) -> Vectors:
    """Embed samples (columns instruction, text, output) so that cosine is the mean over the three parts.

    A long shared instruction would otherwise make every pair of its samples look alike. Each distinct part is
    embedded once. Shape (samples, 3 d), rows of length 1.
    """
    parts = [_embed_distinct(samples[column], encoder) for column in ("instruction", "text", "output")]
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(3))


def _embed_distinct(column: pl.Series, encoder: Encoder) -> Vectors:
    distinct = column.unique(maintain_order=True)
    position = {value: number for number, value in enumerate(distinct)}
    return encoder.encode(distinct.to_list())[[position[value] for value in column]]
