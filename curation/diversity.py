"""Diversity of unit vectors: subsets that cover a set, alone or together with difficulty, and how diverse a set is.

Similarity is the dot product of rows of length 1. The selections round coordinates to multiples of STEP, which moves
a similarity by 2e-4 (standard deviation). Products are then multiples of STEP^2 below 4: float32 holds them and their
sums exactly, so that a choice does not depend on the order of additions, and copies tie. A tie goes to the lowest row:
where rows come in the order of their ids, it does not depend on how they were stored either.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stillhouse.near_duplicates import BLOCK_ROWS, Vectors

STEP = np.float32(2**-11)
POOL_ROWS = 1024
DENSE_ROWS = 4096  # up to here all similarities are held: 67 MB
NEIGHBOURS = 64
BLOCK_PRODUCTS = 2**24  # 67 MB of similarities at once, and twice that for their order

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
# For each row: the rows that it covers, and its similarity to each of them.
Covers = Sequence[tuple[npt.NDArray[np.int32] | slice, Vectors]]


def k_center(vectors: Vectors, budget: int) -> Indices:
    """Return rows by farthest-first traversal, in order of choice: shape (min(budget, n),).

    The first is the row most similar to the mean; each further one is the row least similar to its most similar
    chosen row (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"). Cosine distance orders
    pairs as the angle does, which is a metric: the largest angle to a chosen row is at most twice the smallest
    possible for the number of rows. `vectors` has shape (n, d); memory beyond the input is its copy and O(n).
    """
    budget = min(budget, len(vectors))
    if budget == 0:
        return np.empty(0, dtype=np.int64)
    vectors = _in_steps(vectors)
    mean = _in_steps(vectors.mean(axis=0, dtype=np.float64).astype(np.float32))
    fresh = [int((vectors @ mean).argmax())]
    chosen = fresh[:]
    nearest = np.full(len(vectors), -np.inf, dtype=np.float32)
    while len(chosen) < budget:
        _update_nearest(nearest, vectors, fresh)
        fresh = _farthest(nearest, vectors, len(vectors) - len(chosen), min(POOL_ROWS, budget - len(chosen)))
        chosen += fresh
    return np.array(chosen)


def _farthest(nearest: Vectors, vectors: Vectors, left: int, budget: int) -> list[int]:
    """Return the next picks, at least one and at most `budget`, of the `left` rows whose `nearest` is finite.

    They are found among the POOL_ROWS farthest rows alone: rows outside the pool can only come nearer to a chosen
    row, so a pick is the farthest of all as long as it is no nearer than all of them were at first. Rows as far as
    the pool's last belong to it too, so that ties are seen.
    """
    edge = min(POOL_ROWS, left) - 1
    bound = np.partition(nearest, edge)[edge]
    pool = np.flatnonzero(nearest <= bound)
    rows, near = vectors[pool], nearest[pool]
    picks: list[int] = []
    while len(picks) < budget and near.min() <= bound:
        farthest = int(near.argmin())
        picks.append(int(pool[farthest]))
        np.maximum(near, rows @ rows[farthest], out=near)
        near[farthest] = np.inf
    return picks


def _update_nearest(nearest: Vectors, vectors: Vectors, fresh: list[int]) -> None:
    """Update each row's similarity to its nearest chosen row in place; a chosen row's is infinite."""
    centres = vectors[fresh]
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        highest = (centres @ vectors[block].T).max(axis=0)
        np.maximum(nearest[block], highest, out=nearest[block])
    nearest[fresh] = np.inf


def facility_location(vectors: Vectors, values: Floats, budget: int, weight: float) -> Indices:
    """Return rows of high value that cover all rows, in order of choice: shape (min(budget, n),).

    They are chosen greedily to maximise, with w = `weight` in [0, 1] and `values` v >= 0 of shape (n,),

        F(S) = (1 - w) sum_{i in S} v_i / V + w sum_j max_{i in S} max(0, s_ij) / n

    where V is the sum of the `budget` highest values, so that both parts are at most 1 (facility location as in Lin
    & Bilmes 2011, "A class of submodular functions for document summarization"). F is monotone and submodular, so
    the greedy set reaches 1 - 1/e of the best (Nemhauser, Wolsey & Fisher 1978). s_ij is the cosine similarity;
    above DENSE_ROWS rows it counts only where i is among the NEIGHBOURS rows most similar to j, else as 0.
    """
    vectors = _in_steps(vectors)
    covers = all_covers(vectors) if len(vectors) <= DENSE_ROWS else nearest_covers(vectors, NEIGHBOURS)
    return lazy_greedy(covers, values, budget, weight)


def all_covers(vectors: Vectors) -> Covers:
    """Return each row's similarity to all rows; memory is O(n^2)."""
    everything = slice(None)
    return [(everything, row) for row in vectors @ vectors.T]


def nearest_covers(vectors: Vectors, neighbours: int) -> Covers:
    """Return what each row covers if a row is covered by the `neighbours` rows most similar to it only.

    Exact, by matrix products of BLOCK_PRODUCTS entries; memory beyond the input is O(n neighbours). The result is
    views of compressed sparse rows. Which of several equally similar rows come last among the most similar is open.
    """
    n, k = len(vectors), min(neighbours, len(vectors))
    coverers = np.empty((n, k), dtype=np.int32)
    similarity = np.empty((n, k), dtype=np.float32)
    rows = max(1, BLOCK_PRODUCTS // max(n, 1))
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        products = vectors[block] @ vectors.T
        coverers[block] = np.argpartition(products, n - k, axis=1)[:, n - k :]
        similarity[block] = np.take_along_axis(products, coverers[block], axis=1)
    order = np.argsort(coverers, axis=None, kind="stable")
    covered = (order // max(k, 1)).astype(np.int32)
    similarity = similarity.ravel()[order]
    ends = np.cumsum(np.bincount(coverers.ravel(), minlength=n)).tolist()
    return [(covered[start:end], similarity[start:end]) for start, end in pairwise([0, *ends])]


def lazy_greedy(covers: Covers, values: Floats, budget: int, weight: float) -> Indices:
    """Return the greedy choice for F of `facility_location`, in order of choice: shape (min(budget, n),).

    A gain can only fall as rows are chosen, so an old gain is a bound, and a row whose new gain is still above all
    bounds is the best (Minoux 1978, "Accelerated greedy algorithms"). Once no row adds anything, the highest values
    fill the budget.
    """
    n = len(covers)
    budget = min(budget, n)
    best_sum = np.sort(values)[n - budget :].sum()
    worth = (1 - weight) * values / best_sum if best_sum > 0 else np.zeros(n)
    cover = np.zeros(n, dtype=np.float32)  # from 0 on: a negative similarity covers nothing

    def loss(row: int) -> float:
        covered, similarity = covers[row]
        return -float(worth[row] + weight * np.maximum(similarity - cover[covered], 0).sum(dtype=np.float64) / n)

    bounds = [(loss(row), row) for row in range(n)]
    heapify(bounds)
    chosen: list[int] = []
    while len(chosen) < budget and bounds[0][0] < 0:
        row = bounds[0][1]
        renewed = (loss(row), row)
        heapreplace(bounds, renewed)
        if renewed == bounds[0] and renewed[0] < 0:
            covered, similarity = covers[row]
            cover[covered] = np.maximum(cover[covered], similarity)
            chosen.append(row)
            heapreplace(bounds, (0.0, row))
    by_value = np.argsort(-values, kind="stable")
    return np.append(chosen, by_value[~np.isin(by_value, chosen)][: budget - len(chosen)]).astype(np.int64)


def vendi_score(vectors: Vectors) -> float:
    """Return the effective number of different rows, from 1 (all alike) to n (all orthogonal); 0 for no rows.

    exp(-sum_i l_i ln l_i) over the eigenvalues l of K/n, K the Gram matrix of the rows (Friedman & Dieng 2023, "The
    Vendi score", definition 3.1). The (d, d) matrix of the columns has the same ones but for zeros: the smaller of
    the two is decomposed. `vectors` has shape (n, d); memory beyond the input is O(min(n, d)^2 + BLOCK_ROWS d).
    """
    n, d = vectors.shape
    if n == 0:
        return 0.0
    if n <= d:
        gram = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    else:
        gram = np.zeros((d, d))
        for start in range(0, n, BLOCK_ROWS):
            block = vectors[start : start + BLOCK_ROWS].astype(np.float64)
            gram += block.T @ block
    eigenvalues = np.linalg.eigvalsh(gram / n)
    positive = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def mean_distance(vectors: Vectors) -> float:
    """Return the mean cosine distance over the pairs of distinct rows of `vectors`, shape (n, d); 0 for no pair.

    The pairs' similarities add up to (|sum_i x_i|^2 - sum_i |x_i|^2) / 2, in O(n d).
    """
    n = len(vectors)
    if n < 2:
        return 0.0
    total = vectors.sum(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->", vectors, vectors, dtype=np.float64)
    return float(1 - (total @ total - squares) / (n * (n - 1)))


def _in_steps(vectors: Vectors) -> Vectors:
    rounded = vectors / STEP
    np.rint(rounded, out=rounded)
    rounded *= STEP
    return rounded
