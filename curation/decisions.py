"""The ledger: every sample has exactly one row that says whether it is kept, by which filter, and why."""

import numpy as np
import polars as pl

from curation.quotas import fill_quotas
from curation.selection import draw, selection_probability
from stillhouse.errors import RunError
from stillhouse.progress import Counts
from stillhouse.recipe import Curation
from stillhouse.schemas import DECISIONS, conform

# The filters in their order; `selection` has the last word.
STAGES = ("validity", "near_duplicate", "difficulty", "selection")


def decide(tables: dict[str, pl.DataFrame], settings: Curation, seed: int) -> tuple[pl.DataFrame, Counts]:
    """Return the `decisions` table, one row per response in their order, and the counts dropped by each filter.

    Reads `texts`, `instructions`, `responses` and `scores`. Raises RunError naming the filter that left nothing.
    """
    samples = _samples(tables).with_columns(
        pl.concat_str("perspective", "task_type", separator="|").alias("stratum"), _verdict(settings)
    )
    samples = samples.unnest("verdict")
    eligible = samples.filter(pl.col("stage") == "selection")
    table = samples.join(
        _probabilities(eligible, settings, seed), on="sample_id", how="left", maintain_order="left"
    ).with_columns(pl.col("draw").lt(pl.col("probability")).fill_null(value=False).alias("drawn"))
    quota = fill_quotas(table.filter(pl.col("stage") == "selection"), settings.quotas)
    table = table.join(quota, on="sample_id", how="left", maintain_order="left").with_columns(
        (pl.col("drawn") | pl.col("quota").is_not_null()).alias("kept")
    )
    drawn = pl.when("drawn").then(pl.lit("selected")).otherwise(pl.lit(f"not drawn at rate {settings.rate:g}"))
    reason = pl.when(pl.col("stage") == "selection").then(pl.coalesce("quota", drawn)).otherwise("verdict_reason")
    table = table.with_columns(reason.alias("reason")).select(DECISIONS.names())
    counts = {f"dropped by {stage}": table.filter(~pl.col("kept"), pl.col("stage") == stage).height for stage in STAGES}
    _refuse_empty(table, counts)
    added = {"kept for a quota": len(quota)} if settings.quotas else {}
    return conform(table, DECISIONS, "decisions"), {**counts, **added, "kept": int(table["kept"].sum())}


def _samples(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the responses with their scores and what they cover: perspective (its id), task type, domain."""
    covers = tables["instructions"].select("instruction_id", pl.col("perspective_id").alias("perspective"), "task_type")
    return (
        tables["responses"]
        .join(tables["scores"], on="sample_id", how="left", maintain_order="left")
        .join(covers, on="instruction_id", maintain_order="left")
        .join(tables["texts"].select("text_id", "domain"), on="text_id", maintain_order="left")
    )


def _verdict(settings: Curation) -> pl.Expr:
    """Return, as a struct, the first filter that drops a sample and the reason; `selection` where none does."""
    near = pl.col("nearest_similarity") >= settings.similarity
    neighbour = pl.format("similarity {} to {}", pl.col("nearest_similarity").round(3), pl.col("nearest_id"))
    stage = (
        pl.when(pl.col("status") != "valid")
        .then(pl.lit("validity"))
        .when(near)
        .then(pl.lit("near_duplicate"))
        .when(pl.col("difficulty").is_null())
        .then(pl.lit("difficulty"))
        .otherwise(pl.lit("selection"))
    )
    reason = pl.when(pl.col("status") != "valid").then("reason").when(near).then(neighbour).otherwise("unscored_reason")
    return pl.struct(stage.alias("stage"), reason.alias("verdict_reason")).alias("verdict")


def _probabilities(eligible: pl.DataFrame, settings: Curation, seed: int) -> pl.DataFrame:
    groups = eligible.partition_by("instruction_id") if settings.scope == "task" else [eligible]
    parts = []
    for group in groups:
        draws = draw(group["sample_id"].to_list(), seed)
        difficulty = group["difficulty"].to_numpy().astype(np.float64)
        probability = selection_probability(difficulty, settings.rate, settings.strategy, settings.peak)
        parts.append(group.select("sample_id", pl.Series("probability", probability), pl.Series("draw", draws)))
    schema = {"sample_id": pl.String, "probability": pl.Float64, "draw": pl.Float64}
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


def _refuse_empty(table: pl.DataFrame, counts: dict[str, int]) -> None:
    if table["kept"].any():
        return
    left = len(table)
    for stage in STAGES:
        left -= counts[f"dropped by {stage}"]
        if left == 0:
            remedy = "raise curation.rate" if stage == "selection" else "see the reasons in responses and scores"
            raise RunError(f"curation: filter {stage} dropped the last of {len(table)} samples; {remedy}")
