"""Near-duplicates over embeddings: exact, first wins, in bounded memory."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 1024

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NearDuplicates:
    """For each row: is it kept, the most similar kept row before it (-1: none), and their similarity (NaN: none)."""

    kept: npt.NDArray[np.bool_]
    nearest: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]


def find_near_duplicates(vectors: Vectors, threshold: float) -> NearDuplicates:
    """Keep each row unless a kept row before it has cosine similarity of at least `threshold`.

    `vectors` has shape (n, d) and rows of length 1. Exact greedy in row order, by matrix products of BLOCK_ROWS
    rows; memory beyond the input is O(n + BLOCK_ROWS^2).
    """
    n = len(vectors)
    kept = np.zeros(n, dtype=np.bool_)
    nearest = np.full(n, -1, dtype=np.int64)
    similarity = np.full(n, -np.inf)
    for start in range(0, n, BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, n))
        for other in range(0, start, BLOCK_ROWS):
            before = np.flatnonzero(kept[other : other + BLOCK_ROWS]) + other
            _raise_nearest(vectors[block] @ vectors[before].T, before, nearest[block], similarity[block])
        within = vectors[block] @ vectors[block].T
        for row in range(block.stop - start):
            before = np.flatnonzero(kept[start : start + row])
            mine = slice(start + row, start + row + 1)
            _raise_nearest(within[row : row + 1, before], before + start, nearest[mine], similarity[mine])
            kept[start + row] = similarity[start + row] < threshold
    return NearDuplicates(kept, nearest, np.where(nearest < 0, np.nan, similarity))


def _raise_nearest(
    products: Vectors,
    columns: npt.NDArray[np.int64],
    nearest: npt.NDArray[np.int64],
    similarity: npt.NDArray[np.float64],
) -> None:
    """Update nearest row and similarity in place, where `products` (rows, columns) has a higher one."""
    if not len(columns):
        return
    best = products.argmax(axis=1)
    values = products[np.arange(len(products)), best]
    higher = values > similarity
    nearest[higher] = columns[best[higher]]
    similarity[higher] = values[higher]
