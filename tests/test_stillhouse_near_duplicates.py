"""Kept rows and their nearest kept rows equal those of the naive greedy, whatever the data, groups and blocks."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse import near_duplicates
from stillhouse.encoder import Encoder
from stillhouse.errors import RunError
from stillhouse.near_duplicates import (
    NearDuplicates,
    cosines,
    find_across_blocks,
    find_near_duplicates,
    squared_lengths,
)
from stillhouse.places import Here

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


def naive(vectors: Vectors, threshold: float, groups: Numbers | None = None) -> NearDuplicates:
    """Row by row, each with all kept rows of its group before it."""
    n = len(vectors)
    groups = np.zeros(n, np.int64) if groups is None else groups
    squares = squared_lengths(vectors)
    near = NearDuplicates(np.zeros(n, np.bool_), np.full(n, -1), np.full(n, np.nan))
    for row in range(n):
        before = np.flatnonzero(near.kept[:row] & (groups[:row] == groups[row]))
        found = cosines(vectors, squares, np.full(len(before), row), before)
        near.kept[row] = not (found >= threshold).any()
        if not near.kept[row]:
            near.nearest[row], near.similarity[row] = before[found.argmax()], found.max()
    return near


def assert_equals_naive(vectors: Vectors, threshold: float, groups: Numbers | None = None) -> NearDuplicates:
    found, expected = find_near_duplicates(vectors, threshold, groups), naive(vectors, threshold, groups)
    assert found.kept.tolist() == expected.kept.tolist()
    assert found.nearest.tolist() == expected.nearest.tolist()
    assert np.array_equal(found.similarity, expected.similarity, equal_nan=True)
    return found


def clustered(count: int, dimensions: int, seed: int, noise: float = 0.25) -> Vectors:
    """Unit rows around a third as many centres, drawn with repeats, some rows exactly twice."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 3), dimensions))
    vectors = centres[rng.integers(0, len(centres), count)] + noise * rng.normal(size=(count, dimensions))
    vectors = vectors[rng.integers(0, max(1, count), count)] if seed % 2 else vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=100)
@given(
    count=st.integers(0, 90),
    dimensions=st.sampled_from([1, 2, 8, 60]),
    seed=st.integers(0, 100),
    threshold=st.sampled_from([-0.5, 0.5, 0.9, 1.0]),
    group_count=st.sampled_from([None, 1, 3, 40]),
    block_rows=st.integers(1, 100),
)
def test_steps_across_blocks_find_the_same(
    count: int, dimensions: int, seed: int, threshold: float, group_count: int | None, block_rows: int
) -> None:
    vectors = clustered(count, dimensions, seed)
    groups = None if group_count is None else np.random.default_rng(seed).integers(0, group_count, count)
    found, expected = (
        find_across_blocks(vectors, threshold, Here(), block_rows, groups),
        find_near_duplicates(vectors, threshold, groups),
    )
    assert found.kept.tolist() == expected.kept.tolist()
    assert found.nearest.tolist() == expected.nearest.tolist()
    assert np.array_equal(found.similarity, expected.similarity, equal_nan=True)


def test_blocks_of_other_groups_are_not_compared() -> None:
    """As many steps as blocks where every group is one, and all pairs of blocks where there is one group."""
    taken: list[str] = []

    class Counted(Here):
        def submit(self, step: Any, *given: Any) -> Any:
            taken.append(step.__name__)
            return step(*given)

    vectors = clustered(60, 8, 1)
    find_across_blocks(vectors, 0.9, Counted(), 10, np.arange(60) // 10)
    assert (taken.count("compare_inside"), taken.count("compare_across")) == (6, 0)
    find_across_blocks(vectors, 0.9, Counted(), 10)
    assert (taken.count("compare_inside"), taken.count("compare_across")) == (12, 15)


@settings(deadline=None, max_examples=100)
@given(
    count=st.integers(0, 90),
    dimensions=st.sampled_from([1, 2, 8, 60, 130]),
    seed=st.integers(0, 100),
    threshold=st.sampled_from([-0.5, 0.1, 0.5, 0.9, 0.999, 1.0]),
    group_count=st.sampled_from([None, 1, 3, 40]),
)
def test_any_rows_in_any_groups(
    count: int, dimensions: int, seed: int, threshold: float, group_count: int | None
) -> None:
    groups = None if group_count is None else np.random.default_rng(seed).integers(0, group_count, count) * 7 - 5
    assert_equals_naive(clustered(count, dimensions, seed), threshold, groups)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 90), st.integers(0, 100), st.data())
def test_a_threshold_that_some_pair_has_exactly(count: int, seed: int, data: st.DataObject) -> None:
    vectors = clustered(count, 60, seed)
    pair = data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2).map(np.array))
    assert_equals_naive(vectors, float(cosines(vectors, squared_lengths(vectors), pair[:1], pair[1:])[0]))


@pytest.mark.parametrize("dimensions", [1, 40, 384, 1152])
@pytest.mark.parametrize("noise", [0, 1e-4, 0.3])
def test_bounds_are_no_lower_than_cosines(dimensions: int, noise: float) -> None:
    vectors = clustered(600, dimensions, 2, noise)
    bounding = near_duplicates._bounding_rows(vectors, squared_lengths(vectors), np.arange(600))
    assert ((bounding @ bounding.T) - vectors.astype(np.float64) @ vectors.T).min() > -near_duplicates.ROUNDING / 100


@pytest.mark.parametrize("threshold", [0.3, 0.9])
@pytest.mark.parametrize("group_count", [1, 2, 700])
def test_across_blocks_in_a_space_that_the_directions_do_not_span(threshold: float, group_count: int) -> None:
    groups = np.random.default_rng(2).integers(0, group_count, 3000)
    found = assert_equals_naive(clustered(3000, 120, 1, noise=0.3), threshold, groups)
    assert 0 < found.kept.sum() < 3000


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(1000, 120, 4)
    expected = find_near_duplicates(vectors, 0.9)
    for rows, columns, values, share in ((7, 11, 1, 1.0), (300, 100, 10_000, 0.0), (5000, 5000, 10**6, 1.0)):
        monkeypatch.setattr(near_duplicates, "BLOCK_ROWS", rows)
        monkeypatch.setattr(near_duplicates, "BLOCK_COLUMNS", columns)
        monkeypatch.setattr(near_duplicates, "PIECE_VALUES", values)
        monkeypatch.setattr(near_duplicates, "VERIFIED_SHARE", share)
        found = find_near_duplicates(vectors, 0.9)
        assert found.nearest.tolist() == expected.nearest.tolist()
        assert np.array_equal(found.similarity, expected.similarity, equal_nan=True)


def test_rows_with_a_flat_spectrum() -> None:
    vectors = np.random.default_rng(0).normal(size=(2000, 384)).astype(np.float32)
    vectors[1500:] = vectors[:500] + 0.3 * vectors[500:1000]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = assert_equals_naive(vectors, 0.9)
    assert 0 < np.count_nonzero(~found.kept) <= 500
    assert_equals_naive(vectors, 0.1)


def test_real_texts(encoder: Encoder) -> None:
    texts = ["The room was clean.", "Terrible service!", "The room was very clean.", "The room was clean.", "So bad."]
    texts += [f"The soup was {word}." for word in ("hot", "warm", "cold", "great", "good", "fine")]
    found = assert_equals_naive(encoder.encode(texts), 0.9)
    assert found.kept[:5].tolist() == [True, True, False, False, True]
    assert found.nearest[:5].tolist() == [-1, -1, 0, 0, -1]


@pytest.mark.parametrize("count", [1, 2, 5000])
@pytest.mark.parametrize("dimensions", [1, 384])
def test_equal_rows_leave_the_first_at_any_threshold(count: int, dimensions: int) -> None:
    row = np.random.default_rng(0).normal(size=(1, dimensions))
    vectors = np.repeat(row / np.linalg.norm(row), count, axis=0).astype(np.float32)
    found = find_near_duplicates(vectors, 1.0)
    assert found.kept.tolist() == [True] + [False] * (count - 1)
    assert found.nearest.tolist() == [-1] + [0] * (count - 1)
    assert found.similarity[1:].tolist() == [1.0] * (count - 1)
    assert find_near_duplicates(vectors, 1.0, np.arange(count)).kept.all()


def test_of_equally_near_rows_the_first_is_the_nearest() -> None:
    axes = np.eye(300)  # some in the block of the rows that are as near to each of them, some in the block before
    found = find_near_duplicates(np.concatenate([axes, np.ones((5, 300))]).astype(np.float32), 0.05)
    assert found.kept[:300].all()
    assert found.nearest[300:].tolist() == [0] * 5


def test_rows_of_any_length_have_the_cosines_of_their_directions() -> None:
    vectors = clustered(300, 60, 3)
    longer = (vectors * np.random.default_rng(0).uniform(0.01, 100, (300, 1))).astype(np.float32)
    expected = find_near_duplicates(vectors, 0.9).nearest.tolist()
    assert find_near_duplicates(longer, 0.9).nearest.tolist() == expected
    assert find_near_duplicates(np.asfortranarray(vectors), 0.9).nearest.tolist() == expected


def test_rows_without_a_direction_are_counted() -> None:
    vectors = clustered(10, 8, 0)
    vectors[2, 3], vectors[5, 0], vectors[7] = np.nan, np.inf, 0
    with pytest.raises(RunError, match="3 of 10 rows hold NaN, infinity or only zeros"):
        find_near_duplicates(vectors, 0.9)


def test_memory_is_that_of_the_bounds_and_some_blocks() -> None:
    vectors = clustered(20_000, 384, 2)
    tracemalloc.start()
    find_near_duplicates(vectors, 0.9, np.arange(20_000) // 3)
    find_near_duplicates(vectors[:5000], 0.2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
