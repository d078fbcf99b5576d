"""Random numbers that depend on a key and nothing else: the same in every run, on every machine, in any order."""

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def uniform(key: str) -> float:
    """Return the number in [0, 1) that belongs to `key`."""
    return float(uniforms([key])[0])


def uniforms(keys: Iterable[str]) -> "npt.NDArray[np.float64]":
    """Return the numbers in [0, 1) that belong to keys, shape (keys,)."""
    import numpy as np

    digests = b"".join(sha256(key.encode()).digest() for key in keys)
    first = np.frombuffer(digests, ">u8")[::4]  # of the four words of each digest
    # 53 bits fill a double exactly: 1.0 cannot come out.
    return (first >> np.uint64(11)).astype(np.float64) / 2**53
