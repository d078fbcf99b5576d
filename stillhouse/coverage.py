"""Funnel and coverage: the rows each step left, in all and per perspective x task type x domain."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from stillhouse.sections import Quota

CELL = ["perspective", "task_type", "domain"]
STEPS = ("paired", "valid", "unique", "scored", "kept")


def funnel(tables: Mapping[str, pl.DataFrame]) -> dict[str, int]:
    """Return the number of rows that each step left, in the order of the steps; absent tables are left out."""
    first = ("texts", "attributes", "perspectives", "instructions")
    counts: dict[str, int] = {name: len(tables[name]) for name in first if name in tables}
    if "attributes" in tables:
        counts["attributes"] = tables["attributes"]["name"].count()
    if "instructions" in tables:
        counts["instructions"] = tables["instructions"].filter("kept").height
    if "responses" in tables:
        counts["responses"] = len(tables["responses"])
        counts["valid"] = tables["responses"].filter(pl.col("status") == "valid").height
    if "decisions" in tables:
        decisions = tables["decisions"]
        counts["unique"] = decisions.filter(~pl.col("stage").is_in(["validity", "near_duplicate"])).height
        counts["kept"] = decisions.filter("kept").height
    return counts


def coverage(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return one row per cell, with the samples left at each of STEPS; needs the tables up to `responses`.

    A cell is there when an instruction and a text could fill it, also where no sample does. The steps after `valid`
    need `decisions`.
    """
    heads = tables["perspectives"].select("perspective_id", pl.col("head").alias("perspective"))
    covers = (
        tables["instructions"].filter("kept").join(heads, on="perspective_id", maintain_order="left")
        .select("instruction_id", "perspective", "task_type")
    )  # fmt: skip
    domains = tables["texts"].select("text_id", "domain")
    samples = tables["responses"].join(covers, on="instruction_id").join(domains, on="text_id")
    steps = [pl.len().alias("paired"), (pl.col("status") == "valid").sum().alias("valid")]
    if "decisions" in tables:
        samples = samples.join(tables["decisions"].select("sample_id", "stage", "kept"), on="sample_id")
        past = pl.col("stage")  # `audit` leaves samples out that the selection kept
        steps += [
            past.is_in(["difficulty", "selection", "audit"]).sum().alias("unique"),
            past.is_in(["selection", "audit"]).sum().alias("scored"),
            pl.col("kept").sum(),
        ]
    counted = samples.group_by(CELL).agg(steps)
    cells = (
        covers.select("perspective", "task_type").unique().join(tables["texts"].select("domain").unique(), how="cross")
    )
    found = cells.join(counted, on=CELL, how="left").fill_null(0).sort(CELL)
    return found.with_columns(pl.col(step).cast(pl.Int64) for step in STEPS if step in found.columns)


def unmet_quotas(found: pl.DataFrame, quotas: Sequence[Quota]) -> list[dict[str, Any]]:
    """Return the cells of `coverage` that have fewer kept samples than a quota asks for."""
    unmet = []
    for quota in quotas:
        cells = found.group_by(quota.over).agg(pl.col("kept").sum()).sort(quota.over)
        short = cells.filter(pl.col("kept") < quota.minimum)
        unmet += [{"minimum": quota.minimum, **row} for row in short.iter_rows(named=True)]
    return unmet
