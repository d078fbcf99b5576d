"""Results of SentiBench: per set, per category and in all, means over seeds with bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from training.sentibench.prompts import Row
from training.sentibench.scores import Counts, Interval, bootstrap, metrics_of, row_counts, unparseable
from training.sentibench.sets import SETS

TAIL = 2.5  # percent on each side of an interval


def summarise(
    rows: Mapping[str, Sequence[Row]], predictions: Mapping[str, Sequence[Sequence[str]]], seeds: Sequence[int | str]
) -> dict[str, Any]:
    """Return `sets`, `categories` and `mean`: F1 in [0, 1] with its interval, of predictions by set and seed.

    A category's figure is the mean of its sets that were evaluated. Sets are resampled independently of each other.
    """
    sets: dict[str, Any] = {}
    draws: dict[str, Counts] = {}
    for name, by_seed in predictions.items():
        counts = [row_counts(name, rows[name], texts) for texts in by_seed]
        interval, draws[name] = bootstrap(name, counts, seed=len(draws))
        figures = [metrics_of(name, one.sum(axis=0)).tolist() for one in counts]
        sets[name] = {
            "category": SETS[name].category,
            "rows": len(rows[name]),
            "f1": asdict(interval),
            "by_seed": {
                str(seed): dict(zip(("precision", "recall", "f1"), found, strict=True))
                for seed, found in zip(seeds, figures, strict=True)
            },
            "unparseable": float(np.mean([unparseable(name, texts) / len(texts) for texts in by_seed])),
        }
    categories = {}
    for category in dict.fromkeys(one["category"] for one in sets.values()):
        categories[category] = _mean([name for name in sets if sets[name]["category"] == category], sets, draws)
    return {"sets": sets, "categories": categories, "mean": _mean(list(sets), sets, draws)}


def _mean(names: Sequence[str], sets: Mapping[str, Any], draws: Mapping[str, Counts]) -> dict[str, Any]:
    low, high = np.percentile(np.mean([draws[name] for name in names], axis=0), [TAIL, 100 - TAIL])
    value = float(np.mean([sets[name]["f1"]["value"] for name in names]))
    return {"sets": len(names), "f1": asdict(Interval(value, float(low), float(high)))}
