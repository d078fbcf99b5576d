"""Near-duplicates over embeddings: exact, first wins, in bounded memory.

Most pairs are ruled out by an upper bound of their cosine. Let the columns of P, shape (d, k), be orthonormal, and
x, y of length 1. With q(x) = [P'x, |x - PP'x|] the Cauchy-Schwarz inequality in the space that P leaves out gives
q(x).q(y) >= x.y, so only pairs whose bound reaches the threshold need the product of all d dimensions. The bound is
tight where P spans the top principal directions; any other P costs time and changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stillhouse.errors import RunError
from stillhouse.places import Place

DIRECTIONS = 48
SAMPLE_ROWS = 4096  # principal directions are those of so many rows
POWER_ITERATIONS = 3
BLOCK_ROWS, BLOCK_COLUMNS = 256, 2048  # rows and kept rows compared at a time: 2 MB of bounds
PIECE_VALUES = 2**16  # of two operands at a time, where they are copied: these stay in the processor's cache
# A pair costs about as much to verify as 64 pairs in a matrix product of all dimensions.
VERIFIED_SHARE = 1 / 64
# Rounding moves a single-precision product of rows of length 1 by about sqrt(d) * 6e-8, 4e-6 for 4,096 dimensions, and
# a bound by a small multiple of that. This allowance is far above it and lets few more pairs through.
ROUNDING = 1e-3

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Rows(Protocol):
    """A matrix of float32: an array, or what reads its rows when they are asked for (an index, a slice, numbers)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return rows and dimensions."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, rows: Any) -> Vectors:
        """Return rows."""
        ...


@dataclass(frozen=True)
class NearDuplicates:
    """For each row: is it kept; if it is not, the most similar kept row before it (else -1), and their cosine (NaN)."""

    kept: Flags
    nearest: Numbers
    similarity: Floats


def find_near_duplicates(vectors: Rows, threshold: float, groups: Numbers | None = None) -> NearDuplicates:
    """Keep each row unless a kept row before it has cosine similarity of at least `threshold`.

    Exact greedy in row order. A dropped row is no longer compared with the rows after it, but still with all kept rows
    before it, so that `nearest` is the most similar of them (of equals the first).

    Args:
        vectors: Shape (n, d), rows of any length but 0, of which a few are read at a time.
        threshold: Cosine; that of equal rows is 1 exactly.
        groups: Shape (n,); only rows of the same group are compared. None: all rows are.

    Returns:
        Three arrays of shape (n,). Memory beyond the input is O(n * DIRECTIONS) for the bounds and some tens of MB.

    Raises:
        RunError: Some rows have no direction: they hold NaN or infinity, or zeros only.
    """
    search = _Search(vectors, threshold, groups)
    search.decide()
    return NearDuplicates(search.kept, search.nearest, np.where(search.kept, np.nan, search.similarity))


@dataclass(frozen=True)
class Block:
    """Some rows in walking order, by group, then by number."""

    vectors: Vectors
    groups: Numbers
    numbers: Numbers


@dataclass(frozen=True)
class Standing:
    """What is known of each row of a block so far.

    The number of the most similar kept row before it (else -1), its cosine (else -inf), and, once the block is
    decided, whether it is kept.
    """

    nearest: Numbers
    similarity: Floats
    kept: Flags


def find_across_blocks(
    vectors: Rows, threshold: float, place: Place, block_rows: int, groups: Numbers | None = None
) -> NearDuplicates:
    """Return exactly what `find_near_duplicates` does, from steps that other machines can take at the same time.

    The rows, in walking order, are cut into blocks of `block_rows`. A block is compared with the kept rows of each
    block before it that has rows of its groups (those steps of a block follow each other, but for different blocks
    they are independent), then with itself, which decides it. So b blocks of one group take b (b + 1) / 2 steps, of
    which up to b - 1 at once; where groups are small, nearly all steps are those of blocks with themselves.
    """
    n = len(vectors)
    of = np.zeros(n, np.int64) if groups is None else groups
    walk = np.argsort(of, kind="stable")
    pieces = [walk[piece] for piece in _pieces(n, block_rows)]
    blocks = [place.put(Block(vectors[numbers], of[numbers], numbers)) for numbers in pieces]
    states = [place.put(_unknown(len(numbers))) for numbers in pieces]
    for number, numbers in enumerate(pieces):
        states[number] = place.submit(compare_inside, threshold, blocks[number], states[number])
        for later in range(number + 1, len(pieces)):
            if of[pieces[later][0]] != of[numbers[-1]]:
                break
            given = (blocks[later], states[later], blocks[number], states[number])
            states[later] = place.submit(compare_across, threshold, *given)
    found = NearDuplicates(np.zeros(n, np.bool_), np.full(n, -1), np.full(n, np.nan))
    for numbers, state in zip(pieces, map(place.result, states), strict=True):
        found.kept[numbers], found.nearest[numbers] = state.kept, state.nearest
        found.similarity[numbers] = np.where(state.kept, np.nan, state.similarity)
    return found


def compare_across(threshold: float, block: Block, state: Standing, before: Block, decided: Standing) -> Standing:
    """Return what is known of a block once it is compared with the kept rows of a decided block before it."""
    kept = before.vectors[decided.kept]
    count = len(kept)
    groups = np.concatenate([before.groups[decided.kept], block.groups])
    search = _Search(np.concatenate([kept, block.vectors]), threshold, groups)
    search.kept[:count], search.moved = True, count
    search.similarity[count:] = state.similarity
    for start in range(count, len(groups), BLOCK_ROWS):
        search.compare_with_kept(start)
    nearest = _numbered(search.nearest[count:], before.numbers[decided.kept], state.nearest)
    return Standing(nearest, search.similarity[count:], state.kept)


def compare_inside(threshold: float, block: Block, state: Standing) -> Standing:
    """Decide a block that is compared with all before it."""
    search = _Search(block.vectors, threshold, block.groups)
    search.similarity[:] = state.similarity
    search.decide()
    return Standing(_numbered(search.nearest, block.numbers, state.nearest), search.similarity, search.kept)


def _numbered(places: Numbers, numbers: Numbers, known: Numbers) -> Numbers:
    """Return the numbers of the rows at `places`, and what is known where there is none."""
    fresh = places >= 0
    nearest = known.copy()
    nearest[fresh] = numbers[places[fresh]]
    return nearest


def _unknown(count: int) -> Standing:
    return Standing(np.full(count, -1), np.full(count, -np.inf), np.zeros(count, np.bool_))


def cosines(vectors: Rows, squares: Floats, rows: Numbers, columns: Numbers) -> Floats:
    """Return x.y / sqrt(x.x * y.y) for the pairs (rows[i], columns[i]), shape (pairs,); `squares` are the x.x.

    In double precision and one order of summation, so that no bit depends on the blocks in which a pair was found, or
    on the BLAS library.
    """
    found = np.empty(len(rows))
    for piece in _pieces(len(rows), PIECE_VALUES // vectors.shape[1]):
        products = _row_products(vectors[rows[piece]], vectors[columns[piece]])
        found[piece] = products / np.sqrt(squares[rows[piece]] * squares[columns[piece]])
    return found


def squared_lengths(vectors: Rows) -> Floats:
    """Return x.x of each row, shape (n,), summed as `cosines` sums. Raises RunError where a row has no direction."""
    squares = np.empty(len(vectors))
    for piece in _pieces(len(vectors), PIECE_VALUES // vectors.shape[1]):
        rows = vectors[piece]
        squares[piece] = _row_products(rows, rows)
    broken = np.count_nonzero(~(np.isfinite(squares) & (squares > 0)))
    if broken:
        raise RunError(
            f"embeddings: {broken} of {len(vectors)} rows hold NaN, infinity or only zeros; check the encoder"
        )
    return squares


def _row_products(left: Vectors, right: Vectors) -> Floats:
    products: Floats = np.multiply(left, right, dtype=np.float64, order="C").sum(axis=1)
    return products


class _Search:
    """A walk over the rows, group by group, in blocks of BLOCK_ROWS."""

    def __init__(self, vectors: Rows, threshold: float, groups: Numbers | None) -> None:
        n = len(vectors)
        self.vectors, self.threshold = vectors, threshold
        self.squares = squared_lengths(vectors)
        self.order = np.arange(n) if groups is None else np.argsort(groups, kind="stable")
        self.first = np.zeros(n, np.int64) if groups is None else _first_of_group(groups[self.order])
        # In walking order. Those of kept rows move to the front, over rows that are done with.
        self.bounding = _bounding_rows(vectors, self.squares, self.order)
        self.moved = 0
        self.kept = np.zeros(n, np.bool_)
        self.nearest = np.full(n, -1, np.int64)
        self.similarity = np.full(n, -np.inf)

    def decide(self) -> None:
        """Compare all rows with those before them."""
        for start in range(0, len(self.order), BLOCK_ROWS):
            self.compare_with_kept(start)
            self.compare_within(start)

    def compare_with_kept(self, start: int) -> None:
        """Compare the block at `start` with the kept rows before it.

        These are of the group of the block's first row; all other groups begin inside the block.
        """
        first = self.first[start]
        block = slice(start, start + np.count_nonzero(self.first[start : start + BLOCK_ROWS] == first))
        rows, before = self.order[block], self.order[first:start]
        before = before[self.kept[before]]
        bounding = self.bounding[self.moved - len(before) : self.moved]
        for piece in _pieces(len(before), BLOCK_COLUMNS):
            columns = before[piece]
            hits = self._may_reach(rows, columns, self.bounding[block] @ bounding[piece].T)
            row, column, similarity = self._verify(rows, columns, hits)
            self._take_nearest(rows[row], columns[column], similarity)

    def compare_within(self, start: int) -> None:
        """Compare the rows of the block at `start` with each other, and decide which are kept."""
        block = slice(start, start + BLOCK_ROWS)
        rows, first, bounding = self.order[block], self.first[block], self.bounding[block]
        kept = np.isneginf(self.similarity[rows])
        left = np.flatnonzero(kept)
        hits = self._may_reach(rows, rows[left], bounding @ bounding[left].T)
        hits &= (left < np.arange(len(rows))[:, None]) & (first[left] == first[:, None])
        row, column, similarity = self._verify(rows, rows[left], hits)
        near = np.zeros((len(rows), len(rows)), np.bool_)
        near[row, left[column]] = True
        for number in np.flatnonzero(near.any(axis=1)):
            kept[number] &= not (near[number] & kept).any()
        of_kept = kept[left[column]]
        self._take_nearest(rows[row[of_kept]], rows[left[column[of_kept]]], similarity[of_kept])
        self.kept[rows] = kept
        self.bounding[self.moved : self.moved + kept.sum()] = bounding[kept]
        self.moved += kept.sum()

    def _may_reach(self, rows: Numbers, columns: Numbers, bounds: Vectors) -> Flags:
        """Say which pairs may have a cosine of the threshold or, if higher, of the nearest row found: (rows, columns).

        Where the bounds rule out too few, the products of all dimensions do.
        """
        needed = (np.maximum(self.threshold, self.similarity[rows]) - ROUNDING).astype(np.float32)[:, None]
        hits: Flags = bounds >= needed
        if np.count_nonzero(hits) > VERIFIED_SHARE * hits.size:
            unit = _unit_rows(self.vectors, self.squares, rows)
            hits = unit @ _unit_rows(self.vectors, self.squares, columns).T >= needed
        return hits

    def _verify(self, rows: Numbers, columns: Numbers, hits: Flags) -> tuple[Numbers, Numbers, Floats]:
        """Return the pairs among `hits` that reach the threshold, as positions in `rows` and `columns`, and cosines."""
        row, column = np.divmod(np.flatnonzero(hits), max(1, len(columns)))  # ten times as fast as nonzero in 2-D
        similarity = cosines(self.vectors, self.squares, rows[row], columns[column])
        reached = similarity >= self.threshold
        return row[reached], column[reached], similarity[reached]

    def _take_nearest(self, rows: Numbers, columns: Numbers, similarity: Floats) -> None:
        """Take each row's most similar column, of equals the first, if it is nearer than the nearest found."""
        order = np.lexsort((-similarity, rows))  # keeps the order of columns among equals
        best = order[np.unique(rows[order], return_index=True)[1]]
        best = best[similarity[best] > self.similarity[rows[best]]]
        self.nearest[rows[best]] = columns[best]
        self.similarity[rows[best]] = similarity[best]


def _bounding_rows(vectors: Rows, squares: Floats, order: Numbers) -> Vectors:
    """Return q(x) of each row in `order`, scaled to length 1, shape (n, k + 1)."""
    basis = _principal_directions(vectors)
    bounding = np.empty((len(order), basis.shape[1] + 1), np.float32)
    for piece in _pieces(len(order), BLOCK_ROWS):
        unit = _unit_rows(vectors, squares, order[piece])
        inside = unit @ basis
        bounding[piece, :-1] = inside
        bounding[piece, -1] = np.linalg.norm(unit - inside @ basis.T, axis=1)
    return bounding


def _principal_directions(vectors: Rows) -> Vectors:
    """Return the top directions of (a sample of) the rows, uncentred, by power iteration: shape (d, DIRECTIONS)."""
    sample = vectors[:: -(-len(vectors) // SAMPLE_ROWS) or 1]
    basis = sample[:DIRECTIONS].T
    for _ in range(POWER_ITERATIONS):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    return basis


def _unit_rows(vectors: Rows, squares: Floats, rows: Numbers) -> Vectors:
    return vectors[rows] / np.sqrt(squares[rows]).astype(np.float32)[:, None]


def _first_of_group(groups: Numbers) -> Numbers:
    """Return the position at which the group of each of these sorted rows begins."""
    return np.searchsorted(groups, groups)


def _pieces(count: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, start + size) for start in range(0, count, size))
