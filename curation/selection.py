"""Difficulty-prioritised selection: which share of the samples is kept, and with which probability."""

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

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


def selection_probability(difficulty: Floats, draws: Floats, rate: float, strategy: Strategy, peak: float) -> Floats:
    """Return each sample's probability of being kept, shape (n,), of mean `rate`; `draws` breaks ties of difficulty.

    `soft`: keep_probability of its place. `hard`: 1 for the rate * n most difficult, what is left of the number for
    the next, else 0. `random`: the rate.
    """
    count = len(difficulty)
    order = np.lexsort((draws, difficulty))
    probability = np.full(count, rate)
    if strategy == "hard":
        probability[order[::-1]] = np.clip(rate * count - np.arange(count), 0.0, 1.0)
    elif strategy == "soft":
        probability[order] = keep_probability(count, rate, peak)
    return probability


def draw(keys: list[str], seed: int) -> Floats:
    """Return a uniform number in [0, 1) per key that depends on key and seed only, not on the order of rows.

    A sample is kept when its number is below its probability, so the share kept is the rate in expectation.
    """
    digests = (hashlib.sha256(f"{seed} {key}".encode()).digest() for key in keys)
    # 53 bits fill a double exactly: 1.0 cannot come out.
    return np.array([(int.from_bytes(digest[:8], "big") >> 11) / 2**53 for digest in digests])
