"""The figures that a report begins with, the teacher's work, and the words for both."""

from typing import Any

import polars as pl

from reports.content import KEPT, Content
from stillhouse.coverage import STEPS
from stillhouse.schemas import AUDIT
from stillhouse.sections import OFFLINE_LLM

MATRIX = {"perspective": 400, "task_type": 24, "domain": 200}  # the most that are shown of each
JUDGED = 200
STAGE_FIGURES = ("seconds", "calls", "prompt_tokens", "output_tokens", "cost")


def headline(content: Content, samples: pl.DataFrame) -> list[dict[str, str]]:
    """Return what a reader looks for first, as label, value and remark."""
    kept, valid = samples.filter(pl.col("fate") == KEPT), samples.filter(pl.col("status") == "valid")
    totals = _totals(content)
    found = [("texts", f"{content.funnel.get('texts', 0):,}", "real user texts")]
    if "perspectives" in content.funnel:
        names = f"of {content.funnel.get('attributes', 0):,} mentions of attributes"
        found.append(("perspectives", f"{content.funnel['perspectives']:,}", names))
    if "instructions" in content.funnel:
        found.append(("instructions", f"{content.funnel['instructions']:,}", "kept"))
    if len(samples):
        share = f"{len(valid) / len(samples):.1%} of the teacher's answers are valid"
        found.append(("answers", f"{len(samples):,}", share))
    if "decisions" in content.tables:
        found.append(("kept", f"{len(kept):,}", f"{len(kept) / max(len(samples), 1):.1%} of the answers"))
    if content.findings:
        found.append(("audit", str(content.findings["decision"]), str(content.findings["why"])))
    found.append(("time", _duration(totals["seconds"]), "in all stages"))
    if totals["calls"]:
        tokens = totals["prompt_tokens"] + totals["output_tokens"]
        money = [f"{cost:,.2f} {currency}" for currency, cost in totals["money"].items()]
        found.append(("teacher calls", f"{totals['calls']:,}", ", ".join([f"{tokens:,} tokens", *money])))
    return [dict(zip(("label", "value", "remark"), entry, strict=True)) for entry in found]


def _totals(content: Content) -> dict[str, Any]:
    stages = content.manifest["stages"].values()
    money: dict[str, float] = {}
    for entry in stages:
        if "currency" in entry:
            money[entry["currency"]] = money.get(entry["currency"], 0.0) + entry["cost"]
    names = ("seconds", "calls", "prompt_tokens", "output_tokens")
    return {"money": money, **{name: sum(entry.get(name) or 0 for entry in stages) for name in names}}


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"


def cautions(content: Content, samples: pl.DataFrame) -> list[str]:
    """Return what a reader has to know before the figures are believed, or the page is passed on."""
    found = []
    if content.gates is None:
        found.append(
            "Personal data and evaluation sets have not been looked for yet (stage gates): do not pass this page on."
        )
    if content.findings is None or content.findings["decision"] != "accepted":
        found.append("No audit by people accepts this data yet: whether the answers are right is not known.")
    if content.recipe["teacher"]["model"] == OFFLINE_LLM and not content.recipe["imported"]:
        found.append("The teacher is the small offline one: its answers are modest, and so is what they can teach.")
    if len(samples) and not content.recipe["imported"]:
        invalid = 1 - (samples["status"] == "valid").mean()  # type: ignore[operator]
        if invalid > 0.2:
            found.append(f"{invalid:.0%} of the answers are invalid: see the reasons under Filters and Teacher.")
    found += [
        f"A quota is not met: {quota['kept']} of {quota['minimum']} kept in "
        + ", ".join(str(value) for key, value in quota.items() if key not in ("kept", "minimum"))
        for quota in content.unmet_quotas
    ]
    return found


def validity(samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return per task type how the teacher's answers fare, and how many times it was asked."""
    status = pl.col("status")
    rows = samples.group_by("task_type").agg(
        pl.len().alias("samples"),
        *((status == name).sum().alias(name) for name in ("valid", "invalid", "failed")),
        (pl.col("attempts") > 1).sum().alias("asked again"),
        ((pl.col("attempts") > 1) & (status == "valid")).sum().alias("mended"),
        pl.col("output_tokens").median().alias("median tokens"),
    )
    return rows.sort("task_type").to_dicts()


def judged(content: Content, samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the samples that people corrected or rejected, without their words."""
    audit = content.table("audit", AUDIT).filter(pl.col("outcome") != "accepted")
    rows = audit.select("sample_id", "outcome", pl.col("faults").fill_null([]), why="reason")
    return rows.join(samples.select("sample_id", "task"), on="sample_id", how="left").head(JUDGED).to_dicts()


def stages(content: Content) -> list[dict[str, Any]]:
    """Return per stage its time, calls, tokens, cost and what it counted."""
    return [
        {
            "stage": name,
            **{key: entry.get(key) for key in STAGE_FIGURES},
            "currency": entry.get("currency", ""),
            "counts": ", ".join(f"{key} {value:,}" for key, value in entry.get("counts", {}).items()),
        }
        for name, entry in content.manifest["stages"].items()
    ]


def matrix(coverage: pl.DataFrame | None) -> dict[str, Any] | None:
    """Return the coverage matrix, most samples first: names of its sides, steps, cells, and which cells are possible.

    A cell has the places of its perspective, task type and domain (-1: of one beyond those listed) and a count a step.
    """
    if coverage is None or coverage.is_empty():
        return None
    steps = [name for name in STEPS if name in coverage.columns]
    names = {column: _names(coverage, column, most) for column, most in MATRIX.items()}
    shown = coverage.filter(pl.col(column).is_in(names[column]) for column in ("perspective", "task_type"))
    cells = shown.with_columns(
        pl.col(column).replace_strict({name: place for place, name in enumerate(some)}, default=-1)
        for column, some in names.items()
    )
    sums = cells.group_by(list(MATRIX)).agg(pl.col(steps).sum()).sort(list(MATRIX))
    return {
        "names": names,
        "more": {column: coverage[column].n_unique() - len(some) for column, some in names.items()},
        "steps": steps,
        "cells": [list(row) for row in sums.filter(pl.col("paired") > 0).iter_rows()],
        "possible": [list(row) for row in sums.select("perspective", "task_type").unique().sort(pl.all()).iter_rows()],
    }


def _names(coverage: pl.DataFrame, column: str, most: int) -> list[str]:
    order = coverage.group_by(column).agg(pl.col("paired").sum())
    return order.sort(["paired", column], descending=[True, False])[column].head(most).to_list()
