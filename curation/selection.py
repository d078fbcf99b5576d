"""Difficulty-prioritised selection: which share of the samples is kept, and with which probability."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from stillhouse.draws import uniform

Floats = npt.NDArray[np.float64]
Strategy = Literal["soft", "hard", "random"]


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


def selection_probability(difficulty: Floats, rate: float, strategy: Strategy, peak: float) -> Floats:
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
    return np.array([uniform(f"{seed} {key}") for key in keys])
