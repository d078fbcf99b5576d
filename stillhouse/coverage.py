"""Funnel and coverage: the rows each step left, in all and per perspective x task type x domain."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from stillhouse.sections import Quota

CELL = ["perspective", "task_type", "domain"]
STEPS = ("paired", "valid", "unique", "scored", "kept")
Table = pl.DataFrame | pl.LazyFrame  # of which only what is counted is read
# The steps of the funnel, by the table that tells them.
COUNTED: dict[str, dict[str, pl.Expr]] = {
    "texts": {"texts": pl.len()},
    "attributes": {"attributes": pl.col("name").count()},
    "perspectives": {"perspectives": pl.len()},
    "instructions": {"instructions": pl.col("kept").sum()},
    "responses": {"responses": pl.len(), "valid": (pl.col("status") == "valid").sum()},
    "decisions": {
        "unique": (~pl.col("stage").is_in(["validity", "near_duplicate"])).sum(),
        "kept": pl.col("kept").sum(),
    },
}


def funnel(tables: Mapping[str, Table]) -> dict[str, int]:
    """Return the number of rows that each step left, in the order of the steps; absent tables are left out."""
    counts: dict[str, int] = {}
    for name, figures in COUNTED.items():
        if name in tables:
            counts |= tables[name].lazy().select(**figures).collect().row(0, named=True)
    return counts


def coverage(tables: Mapping[str, Table]) -> pl.DataFrame:
    """Return one row per cell, with the samples left at each of STEPS; needs the tables up to `responses`.

    A cell is there when an instruction and a text could fill it, also where no sample does. The steps after `valid`
    need `decisions`.
    """
    table = {name: frame.lazy() for name, frame in tables.items()}
    heads = table["perspectives"].select("perspective_id", pl.col("head").alias("perspective"))
    covers = (
        table["instructions"].filter("kept").join(heads, on="perspective_id", maintain_order="left")
        .select("instruction_id", "perspective", "task_type")
    )  # fmt: skip
    domains = table["texts"].select("text_id", "domain")
    samples = table["responses"].join(covers, on="instruction_id").join(domains, on="text_id")
    steps = [pl.len().alias("paired"), (pl.col("status") == "valid").sum().alias("valid")]
    if "decisions" in table:
        samples = samples.join(table["decisions"].select("sample_id", "stage", "kept"), on="sample_id")
        past = pl.col("stage")  # `audit` leaves samples out that the selection kept
        steps += [
            past.is_in(["difficulty", "selection", "audit"]).sum().alias("unique"),
            past.is_in(["selection", "audit"]).sum().alias("scored"),
            pl.col("kept").sum(),
        ]
    counted = samples.group_by(CELL).agg(steps)
    cells = covers.select("perspective", "task_type").unique().join(domains.select("domain").unique(), how="cross")
    found = cells.join(counted, on=CELL, how="left").fill_null(0).sort(CELL).collect()
    return found.with_columns(pl.col(step).cast(pl.Int64) for step in STEPS if step in found.columns)


def unmet_quotas(found: pl.DataFrame, quotas: Sequence[Quota]) -> list[dict[str, Any]]:
    """Return the cells of `coverage` that have fewer kept samples than a quota asks for."""
    unmet = []
    for quota in quotas:
        cells = found.group_by(quota.over).agg(pl.col("kept").sum()).sort(quota.over)
        short = cells.filter(pl.col("kept") < quota.minimum)
        unmet += [{"minimum": quota.minimum, **row} for row in short.iter_rows(named=True)]
    return unmet
