"""Quotas: cells that the selection left short are filled up from the samples that came closest to being drawn."""

from collections.abc import Sequence

import polars as pl

from stillhouse.sections import Quota


def fill_quotas(eligible: pl.DataFrame, quotas: Sequence[Quota]) -> pl.DataFrame:
    """Return the samples kept for a quota and not drawn: columns `sample_id` and `quota` (the reason).

    `eligible` holds sample_id, perspective, task_type, domain, difficulty, drawn, draw and probability. In each cell
    with fewer kept samples than the minimum, the next ones by draw / probability are kept, until the minimum is met or
    no sample is left. That is sequential Poisson sampling: the order in which they would be drawn if the rate rose;
    those without a chance come last, the hardest first. Quotas add samples and never take one away; a later quota
    counts those of the earlier ones.
    """
    if not quotas:
        return pl.DataFrame(schema={"sample_id": pl.String, "quota": pl.String})
    rows = eligible.select(
        "sample_id", "perspective", "task_type", "domain", pl.col("drawn").alias("kept"),
        (pl.col("draw") / pl.col("probability")).alias("turn"), (-pl.col("difficulty")).alias("easiness"),
        pl.lit(None, pl.String).alias("quota"),
    )  # fmt: skip
    for quota in quotas:
        short = quota.minimum - pl.col("kept").sum().cast(pl.Int64).over(quota.over)
        place = pl.struct("turn", "easiness", "sample_id").rank("ordinal").over([*quota.over, "kept"])
        taken = ~pl.col("kept") & (place <= short)
        reason = pl.lit(f"kept for the quota of {quota.minimum} per {' x '.join(quota.over)}")
        rows = rows.with_columns(taken.alias("taken")).with_columns(
            pl.when("taken").then(reason).otherwise("quota").alias("quota"),
            (pl.col("kept") | pl.col("taken")).alias("kept"),
        )
    return rows.filter(pl.col("quota").is_not_null()).select("sample_id", "quota")
