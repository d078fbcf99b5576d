"""Difficulty-prioritised selection: which share of the samples is kept, and with which probability."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from curation.diversity import facility_location, k_center
from stillhouse.draws import uniform, uniforms
from stillhouse.near_duplicates import Vectors
from stillhouse.sections import Curation

Floats = npt.NDArray[np.float64]
Control = Literal["random", "top", "diverse"]
VectorsOf = Callable[[Sequence[str]], Vectors]


def chances(eligible: pl.DataFrame, settings: Curation, seed: int, vectors: VectorsOf | None = None) -> pl.DataFrame:
    """Return `sample_id`, `probability` of being kept and `draw` of each eligible sample.

    A sample is kept where its draw is below its probability. Both depend on the set of samples and the seed, not on
    the order of rows. With scope `task` each instruction's samples are a set of their own.
    """
    eligible = eligible.select("sample_id", "instruction_id", "difficulty")
    groups = eligible.partition_by("instruction_id") if settings.scope == "task" else [eligible]
    parts = [eligible.select("sample_id").clear().with_columns(probability=pl.lit(0.0), draw=pl.lit(0.0))]
    for group in groups:
        if settings.strategy == "k-center" or settings.strategy == "facility":
            group = group.sort("sample_id")  # a tie goes to the lowest row
            probability = _spread(group, settings, seed, vectors)
        else:
            probability = selection_probability(_difficulty(group), settings.rate, settings.strategy, settings.peak)
        ids = group["sample_id"].to_list()
        parts.append(pl.DataFrame({"sample_id": ids, "probability": probability, "draw": draw(ids, seed)}))
    return pl.concat(parts)


def control_chances(
    eligible: pl.DataFrame, kind: Control, count: int, seed: int, vectors: VectorsOf | None = None
) -> pl.DataFrame:
    """Return as `chances` does, with probability 1 for exactly `count` samples, or all if there are fewer.

    `random`: by lot. `top`: the most difficult. `diverse`: by k-center, blind to difficulty.
    """
    eligible = eligible.select("sample_id", "difficulty").sort("sample_id")
    ids = eligible["sample_id"].to_list()
    draws = draw(ids, seed)
    if kind == "random":  # by other numbers than the cut's own, which would share its choice
        order = np.argsort(draw([f"control {sample_id}" for sample_id in ids], seed))
    elif kind == "top":
        order = np.argsort(-eligible["difficulty"].to_numpy(), kind="stable")
    else:
        order = k_center(_embedded(ids, vectors), count)
    probability = np.zeros(len(ids))
    probability[order[:count]] = 1.0
    return pl.DataFrame({"sample_id": ids, "probability": probability, "draw": draws})


def _difficulty(samples: pl.DataFrame) -> Floats:
    return samples["difficulty"].to_numpy().astype(np.float64)


def _spread(samples: pl.DataFrame, settings: Curation, seed: int, vectors: VectorsOf | None) -> Floats:
    """Return 1 for the samples that a strategy of diversity picks, else 0.

    Their number is rate * n, rounded up or down by chance, so that the rate holds in expectation.
    """
    ids = samples["sample_id"].to_list()
    budget = int(settings.rate * len(ids) + uniform(f"{seed} budget {ids[0]}")) if ids else 0
    matrix = _embedded(ids, vectors)
    if settings.strategy == "k-center":
        picks = k_center(matrix, budget)
    else:
        picks = facility_location(matrix, _difficulty(samples), budget, settings.diversity)
    probability = np.zeros(len(ids))
    probability[picks] = 1.0
    return probability


def _embedded(ids: list[str], vectors: VectorsOf | None) -> Vectors:
    if vectors is None:
        raise ValueError("a choice by diversity needs vectors")
    return vectors(ids)


def keep_probability(count: int, rate: float, peak: float = 1.0) -> Floats:
    """Return the chance of each of `count` samples, easiest first: F averaged over the sample's part of (0, 1).

    F(x) = (x/a)^b for x < a and ((1-x)/(1-a))^b from a on, with a = `peak` and b = 1/rate - 1 (CompEffDist,
    sampling). Its integral over (0, 1) is 1/(b+1) = rate for every a, so the chances' mean is the rate exactly,
    also for a handful of samples.
    """
    edges = np.linspace(0.0, 1.0, count + 1)
    power = 1.0 / rate  # b + 1
    rising = peak * (np.minimum(edges, peak) / peak) ** power
    left = np.divide(1.0 - np.maximum(edges, peak), 1.0 - peak, out=np.ones_like(edges), where=peak < 1.0)
    return count * rate * np.diff(rising + (1.0 - peak) * (1.0 - left**power))


def selection_probability(
    difficulty: Floats, rate: float, strategy: Literal["soft", "hard", "random"], peak: float
) -> Floats:
    """Return each sample's probability of being kept, shape (n,), of mean `rate`.

    `soft`: keep_probability of its place. `hard`: 1 for the rate * n most difficult, what is left of the number for
    the next, else 0. `random`: the rate. Samples of equal difficulty share the mean of their places.
    """
    count = len(difficulty)
    if strategy == "random":
        return np.full(count, rate)
    by_place = keep_probability(count, rate, peak)
    if strategy == "hard":
        by_place = np.clip(rate * count - np.arange(count)[::-1], 0.0, 1.0)
    _, group = np.unique(difficulty, return_inverse=True)
    shared = np.bincount(np.sort(group), weights=by_place) / np.bincount(group)
    return shared[group]


def draw(keys: list[str], seed: int) -> Floats:
    """Return a uniform number in [0, 1) per key that depends on key and seed only, not on the order of rows.

    A sample is kept when its number is below its probability, so the share kept is the rate in expectation.
    """
    return uniforms(f"{seed} {key}" for key in keys)
