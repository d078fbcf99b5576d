"""The ledger: every sample has exactly one row that says whether it is kept, by which filter, and why."""

from collections.abc import Mapping, Sequence

import polars as pl

from curation.quotas import fill_quotas
from curation.selection import Control, VectorsOf, chances, control_chances
from stillhouse.errors import RunError
from stillhouse.progress import Counts
from stillhouse.schemas import DECISIONS, conform
from stillhouse.sections import Curation, Quota

# The filters in their order; `selection` has the last word.
STAGES = ("validity", "near_duplicate", "difficulty", "selection")


def decide(
    samples: pl.DataFrame, settings: Curation, seed: int, vectors: VectorsOf | None = None
) -> tuple[pl.DataFrame, Counts]:
    """Return the `decisions` table, one row per sample in their order, and the counts dropped by each filter.

    `samples` are those of `samples_of`; `vectors` embeds samples by their ids, for the strategies that look at
    diversity. Raises RunError naming the filter that left nothing.
    """
    judged = _judged(samples, settings)
    found = chances(judged.filter(pl.col("stage") == "selection"), settings, seed, vectors)
    return _ledger(judged, found, settings.quotas, f"not drawn at rate {settings.rate:g}")


def control(
    samples: pl.DataFrame, settings: Curation, kind: Control, count: int, seed: int, vectors: VectorsOf | None = None
) -> tuple[pl.DataFrame, Counts]:
    """Return the `decisions` of a baseline of `count` samples, after the same filters: see `control_chances`."""
    judged = _judged(samples, settings)
    found = control_chances(judged.filter(pl.col("stage") == "selection"), kind, count, seed, vectors)
    return _ledger(judged, found, [], f"not among the {count} of the control {kind}")


def _judged(samples: pl.DataFrame, settings: Curation) -> pl.DataFrame:
    stratum = pl.concat_str("perspective", "task_type", separator="|").alias("stratum")
    return samples.with_columns(stratum, _verdict(settings)).unnest("verdict")


def _ledger(
    judged: pl.DataFrame, found: pl.DataFrame, quotas: Sequence[Quota], not_drawn: str
) -> tuple[pl.DataFrame, Counts]:
    table = judged.join(found, on="sample_id", how="left", maintain_order="left").with_columns(
        pl.col("draw").lt(pl.col("probability")).fill_null(value=False).alias("drawn")
    )
    quota = fill_quotas(table.filter(pl.col("stage") == "selection"), quotas)
    table = table.join(quota, on="sample_id", how="left", maintain_order="left")
    drawn = pl.when("drawn").then(pl.lit("selected")).otherwise(pl.lit(not_drawn))
    selected = pl.col("stage") == "selection"
    table = table.with_columns(
        (pl.col("drawn") | pl.col("quota").is_not_null()).alias("kept"),
        pl.when(selected).then(pl.coalesce("quota", drawn)).otherwise("verdict_reason").alias("reason"),
        pl.when(selected).then("probability").otherwise("verdict_threshold").alias("threshold"),
        pl.col("nearest_similarity").alias("similarity"),
    )
    table = conform(table.select(DECISIONS.names()), DECISIONS, "decisions")
    counts = {f"dropped by {stage}": table.filter(~pl.col("kept"), pl.col("stage") == stage).height for stage in STAGES}
    _refuse_empty(table, counts)
    added = {"kept for a quota": len(quota)} if quotas else {}
    return table, {**counts, **added, "kept": int(table["kept"].sum())}


def tables_for(settings: Curation) -> tuple[str, ...]:
    """Return the tables that decisions are made of: `texts` tell the domain, which only quotas ask for."""
    return ("instructions", "responses", "scores", *(("texts",) if settings.quotas else ()))


def samples_of(tables: Mapping[str, pl.DataFrame | pl.LazyFrame]) -> pl.DataFrame:
    """Return what decisions are made of, a row per response: its verdict, its scores and what it covers.

    Reads the tables of `tables_for`, and of these only the narrow columns.
    """
    table = {name: frame.lazy() for name, frame in tables.items()}
    responses = table["responses"].select(
        "sample_id", "instruction_id", "text_id", "status", pl.col("reason").alias("invalid_reason")
    )
    scores = table["scores"].select("sample_id", "difficulty", "unscored_reason", "nearest_id", "nearest_similarity")
    covers = table["instructions"].select("instruction_id", pl.col("perspective_id").alias("perspective"), "task_type")
    samples = responses.join(scores, on="sample_id", how="left", maintain_order="left").join(
        covers, on="instruction_id", how="left", maintain_order="left"
    )
    if "texts" in table:
        domains = table["texts"].select("text_id", "domain")
        samples = samples.join(domains, on="text_id", how="left", maintain_order="left")
    return samples.drop("text_id").collect()


def _verdict(settings: Curation) -> pl.Expr:
    """Return, as a struct, the first filter that drops a sample, the reason and what it was compared with.

    The filter is `selection` where no other drops it.
    """
    invalid, near = pl.col("status") != "valid", pl.col("nearest_similarity") >= settings.similarity
    neighbour = pl.format("similarity {} to {}", pl.col("nearest_similarity").round(3), pl.col("nearest_id"))
    unscored = pl.col("difficulty").is_null()
    stage = (
        pl.when(invalid).then(pl.lit("validity")).when(near).then(pl.lit("near_duplicate"))
        .when(unscored).then(pl.lit("difficulty")).otherwise(pl.lit("selection"))
    )  # fmt: skip
    reason = (
        pl.when(invalid)
        .then("invalid_reason")
        .when(near)
        .then(neighbour)
        .otherwise(pl.coalesce("unscored_reason", pl.lit("not scored")))
    )
    threshold = pl.when(near & ~invalid).then(pl.lit(settings.similarity))
    return pl.struct(stage.alias("stage"), reason.alias("verdict_reason"), threshold.alias("verdict_threshold")).alias(
        "verdict"
    )


def _refuse_empty(table: pl.DataFrame, counts: Counts) -> None:
    if table["kept"].any():
        return
    left = len(table)
    for stage in STAGES:
        left -= int(counts[f"dropped by {stage}"])
        if left == 0:
            remedy = "raise curation.rate" if stage == "selection" else "see the reasons in responses and scores"
            raise RunError(f"curation: filter {stage} dropped the last of {len(table)} samples; {remedy}")
