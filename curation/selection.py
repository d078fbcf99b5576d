"""Difficulty-prioritised selection: which share of the samples is kept, and with which probability."""

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Strategy = Literal["soft", "hard", "random"]


def keep_probability(position: Floats, rate: float, peak: float = 1.0) -> Floats:
    """Return F(x): (x/a)^b for x < a, ((1-x)/(1-a))^b from a on, with b = 1/rate - 1 (CompEffDist, sampling).

    `position` is x in (0, 1), the place in the order of difficulty, easiest first; `peak` is a. The integral of F
    over (0, 1) is 1/(b+1) for every a, so the expected share is `rate`.
    """
    exponent = 1.0 / rate - 1.0
    falling = np.divide(1.0 - position, 1.0 - peak, out=np.ones_like(position), where=peak < 1.0)
    return np.where(position < peak, position / peak, falling) ** exponent


def selection_probability(difficulty: Floats, draws: Floats, rate: float, strategy: Strategy, peak: float) -> Floats:
    """Return each sample's probability of being kept, shape (n,); `draws` breaks ties of difficulty.

    `soft`: keep_probability of its place. `hard`: 1 for the round(rate * n) most difficult (at least one), else 0.
    `random`: the rate.
    """
    count = len(difficulty)
    order = np.lexsort((draws, difficulty))
    if strategy == "random":
        return np.full(count, rate)
    if strategy == "hard":
        probability = np.zeros(count)
        probability[order[count - max(1, round(rate * count)) :]] = 1.0
        return probability
    position = np.empty(count)
    position[order] = (np.arange(count) + 0.5) / count
    return keep_probability(position, rate, peak)


def draw(keys: list[str], seed: int) -> Floats:
    """Return a uniform number in [0, 1) per key that depends on key and seed only, not on the order of rows.

    A sample is kept when its number is below its probability, so the share kept is the rate in expectation.
    """
    digests = (hashlib.sha256(f"{seed} {key}".encode()).digest() for key in keys)
    # 53 bits fill a double exactly: 1.0 cannot come out.
    return np.array([(int.from_bytes(digest[:8], "big") >> 11) / 2**53 for digest in digests])
