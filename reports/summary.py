"""The figures that a report begins with, the teacher's work, and the words for both."""

from typing import Any

import polars as pl

from reports.content import KEPT, Content
from stillhouse.sections import OFFLINE_LLM

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
    """Return the coverage matrix: perspectives (most samples first), task types, domains, steps and cells."""
    if coverage is None or coverage.is_empty():
        return None
    steps = [name for name in ("paired", "valid", "unique", "scored", "kept") if name in coverage.columns]
    order = coverage.group_by("perspective").agg(pl.col("paired").sum())
    heads = order.sort(["paired", "perspective"], descending=[True, False])["perspective"].to_list()
    types, domains = (coverage[name].unique().sort().to_list() for name in ("task_type", "domain"))
    places = {name: {value: place for place, value in enumerate(values)}
              for name, values in (("perspective", heads), ("task_type", types), ("domain", domains))}  # fmt: skip
    cells = [
        [*(places[name][row[name]] for name in places), *(row[step] for step in steps)]
        for row in coverage.filter(pl.col("paired") > 0).iter_rows(named=True)
    ]
    possible = coverage.select("perspective", "task_type").unique().iter_rows()
    return {
        "perspectives": heads, "types": types, "domains": domains, "steps": steps, "cells": cells,
        "possible": [[places["perspective"][head], places["task_type"][kind]] for head, kind in possible],
    }  # fmt: skip
