"""Selections equal their naive greedy versions and reach their bounds; diversity figures equal their definitions."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vendi_score import vendi

from curation import diversity
from curation.diversity import (
    Covers,
    all_covers,
    facility_location,
    k_center,
    lazy_greedy,
    mean_distance,
    nearest_covers,
    vendi_score,
)

Array = np.ndarray[Any, np.dtype[Any]]
WEIGHTS = st.sampled_from([0.0, 0.3, 0.5, 1.0])


def exact_vectors(count: int, seed: int) -> Array:
    """Unit vectors of four halves among zeros: products are exact quarters, in any order, and many tie."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros((count, 8), dtype=np.float32)
    for row in vectors:
        row[rng.permutation(8)[:4]] = rng.choice([-0.5, 0.5, 0.5], 4)
    return vectors


def clustered_vectors(count: int, seed: int, d: int = 32) -> Array:
    """Unit vectors around one centre for every 20, rounded as the selections do."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(1 + count // 20, d))[rng.integers(0, 1 + count // 20, count)]
    vectors = vectors + 0.7 * rng.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (np.rint(vectors / diversity.STEP) * diversity.STEP).astype(np.float32)


def naive_k_center(vectors: Array, budget: int, start: int) -> list[int]:
    chosen = [start]
    while len(chosen) < budget:
        nearest = (vectors @ vectors[chosen].T).max(axis=1)
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
    return chosen


def matrix_of(covers: Covers) -> Array:
    matrix = np.zeros((len(covers), len(covers)))
    for row, (covered, similarity) in enumerate(covers):
        matrix[row, covered] = similarity
    return matrix


def coverage(similarity: Array, rows: list[int]) -> float:
    return float(similarity[rows].max(axis=0, initial=0).sum())


def objective(similarity: Array, values: Array, rows: list[int], weight: float) -> float:
    best_sum = np.sort(values)[len(values) - len(rows) :].sum()
    value = values[rows].sum() / best_sum if best_sum > 0 else 0
    return float((1 - weight) * value + weight * coverage(similarity, rows) / len(values))


def naive_greedy(similarity: Array, values: Array, budget: int, weight: float) -> list[int]:
    n = len(values)
    best_sum = np.sort(values)[n - budget :].sum()
    worth = (1 - weight) * values / best_sum if best_sum > 0 else np.zeros(n)
    chosen: list[int] = []
    for _ in range(budget):
        left = [row for row in range(n) if row not in chosen]
        covered = coverage(similarity, chosen)
        gains = [worth[row] + weight * (coverage(similarity, [*chosen, row]) - covered) / n for row in left]
        best = int(np.argmax(gains if max(gains) > 0 else values[left]))
        chosen.append(left[best])
    return chosen


@pytest.mark.parametrize("d", [4, 384, 4096])
def test_products_of_rounded_rows_are_exact(d: int) -> None:
    vectors = clustered_vectors(100, 6, d)
    wide = vectors.astype(np.float64)
    assert np.array_equal(vectors @ vectors.T, wide @ wide.T)
    assert np.array_equal(vectors @ vectors[7], wide @ wide[7])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 80), st.integers(0, 1000), st.integers(1, 90), st.sampled_from([1, 3, 16, 1024]))
def test_k_center_picks_equal_the_naive_ones(count: int, seed: int, budget: int, pool: int) -> None:
    vectors = exact_vectors(count, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diversity, "POOL_ROWS", pool)
        found = k_center(vectors, budget).tolist()
    assert found == naive_k_center(vectors, min(budget, count), found[0])
    to_all = (vectors @ vectors.T).sum(axis=1)
    assert to_all[found[0]] == pytest.approx(to_all.max())


def test_k_center_across_blocks_and_pools() -> None:
    vectors = clustered_vectors(3000, 1)
    found = k_center(vectors, 600).tolist()
    assert found == naive_k_center(vectors, 600, found[0])
    assert k_center(vectors, 60).tolist() == found[:60]


def test_selections_read_rounded_rows() -> None:
    vectors, values = exact_vectors(500, 7), np.zeros(500)
    noise = np.random.default_rng(7).uniform(-0.4, 0.4, vectors.shape).astype(np.float32) * diversity.STEP
    assert k_center(vectors + noise, 100).tolist() == k_center(vectors, 100).tolist()
    found = facility_location(vectors + noise, values, 100, 1.0)
    assert found.tolist() == facility_location(vectors, values, 100, 1.0).tolist()


def test_k_center_does_not_depend_on_the_order_of_rows() -> None:
    vectors = clustered_vectors(400, 2)
    order = np.random.default_rng(0).permutation(400)
    assert order[k_center(vectors[order], 50)].tolist() == k_center(vectors, 50).tolist()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 24), st.integers(0, 1000), st.integers(0, 26), WEIGHTS, st.data())
def test_facility_location_picks_equal_the_naive_ones(
    count: int, seed: int, budget: int, weight: float, data: st.DataObject
) -> None:
    vectors = exact_vectors(count, seed)
    values = np.array(data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    similarity = np.maximum(vectors @ vectors.T, 0)
    expected = naive_greedy(similarity, values, min(budget, count), weight)
    assert facility_location(vectors, values, budget, weight).tolist() == expected
    assert lazy_greedy(nearest_covers(vectors, count), values, budget, weight).tolist() == expected
    sparse = nearest_covers(vectors, 5)
    expected = naive_greedy(matrix_of(sparse), values, min(budget, count), weight)
    assert lazy_greedy(sparse, values, budget, weight).tolist() == expected


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(0, 1000), st.integers(1, 9), WEIGHTS)
def test_the_greedy_value_is_within_its_bound_of_the_best(count: int, seed: int, budget: int, weight: float) -> None:
    vectors = clustered_vectors(count, seed, d=4)
    values = np.random.default_rng(seed).uniform(size=count)
    similarity, size = matrix_of(all_covers(vectors)), min(budget, count)
    best = max(objective(similarity, values, list(rows), weight) for rows in combinations(range(count), size))
    found = objective(similarity, values, facility_location(vectors, values, budget, weight).tolist(), weight)
    assert (1 - 1 / np.e) * best <= found <= best + 1e-9
    assert best <= 1.001  # the rounded rows' lengths are not quite 1


def test_a_row_is_covered_by_the_rows_most_similar_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "BLOCK_PRODUCTS", 70 * 300)
    vectors = clustered_vectors(300, 3)
    found = np.sort(matrix_of(nearest_covers(vectors, 8)), axis=0)
    assert not found[:-8].any()
    similarity = np.sort(np.maximum(vectors @ vectors.T, 0), axis=0)
    assert np.allclose(found[-8:], similarity[-8:], atol=2e-6)


def test_large_sets_use_the_nearest_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "DENSE_ROWS", 299)
    monkeypatch.setattr(diversity, "NEIGHBOURS", 8)
    vectors, values = clustered_vectors(300, 4), np.random.default_rng(4).uniform(size=300)
    expected = naive_greedy(matrix_of(nearest_covers(vectors, 8)), values, 30, 0.5)
    assert facility_location(vectors, values, 30, 0.5).tolist() == expected


def test_the_weight_goes_from_values_to_cover() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), [5, 3, 2], axis=0)
    values = np.arange(10.0)
    assert facility_location(vectors, values, 3, 0.0).tolist() == [9, 8, 7]
    assert facility_location(vectors, values, 3, 1.0).tolist() == [0, 5, 8]
    assert facility_location(vectors, values, 5, 1.0).tolist() == [0, 5, 8, 9, 7]  # nothing is left to cover


def test_a_row_that_adds_nothing_waits_for_higher_values() -> None:
    ones, rows = np.ones(2, dtype=np.float32), np.arange(2, dtype=np.int32)
    covers = [(rows[:1], ones[:1]), (rows, ones), (rows[:0], ones[:0])]
    assert lazy_greedy(covers, np.array([0.0, 0.0, 1.0]), 2, 1.0).tolist() == [1, 2]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_opposite_rows_do_not_count_against_each_other(weight: float) -> None:
    vectors = np.array([[1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    assert facility_location(vectors, np.zeros(3), 2, weight).tolist() == [0, 1]
    assert k_center(vectors, 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("budget", [0, 1, 7, 9])
def test_identical_rows_are_chosen_in_order(count: int, budget: int) -> None:
    vectors = clustered_vectors(1, 5, d=384)[np.zeros(count, dtype=int)]
    expected = list(range(min(count, budget)))
    assert k_center(vectors, budget).tolist() == expected
    assert facility_location(vectors, np.ones(count), budget, 0.5).tolist() == expected
    sparse = lazy_greedy(nearest_covers(vectors, 3), np.ones(count), budget, 0.5).tolist()
    assert sorted({*sparse}) == sorted(sparse)
    assert len(sparse) == len(expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(0, 1000), st.sampled_from([3, 16, 48]))
def test_vendi_score_equals_the_package(count: int, seed: int, d: int) -> None:
    vectors = clustered_vectors(count, seed, d)
    gram = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    assert vendi_score(vectors) == pytest.approx(float(vendi.score_K(gram)), rel=1e-6)


def test_vendi_score_counts_different_rows() -> None:
    orthonormal = np.eye(12, dtype=np.float32)
    assert vendi_score(orthonormal) == pytest.approx(12)
    assert vendi_score(np.repeat(orthonormal, 300, axis=0)) == pytest.approx(12)
    assert vendi_score(orthonormal[[3] * 40]) == pytest.approx(1)
    assert vendi_score(orthonormal[:1]) == pytest.approx(1)
    assert vendi_score(orthonormal[:0]) == 0


@given(st.integers(2, 40), st.integers(0, 1000))
def test_mean_distance_equals_the_mean_over_pairs(count: int, seed: int) -> None:
    vectors = clustered_vectors(count, seed)
    wide = vectors.astype(np.float64)
    pairs = [1 - float(wide[i] @ wide[j]) for i in range(count) for j in range(i)]
    assert mean_distance(vectors) == pytest.approx(np.mean(pairs), abs=1e-9)


def test_mean_distance_of_no_pair_is_zero() -> None:
    assert mean_distance(np.zeros((0, 4), dtype=np.float32)) == 0
    assert mean_distance(np.eye(4, dtype=np.float32)[:1]) == 0
    assert mean_distance(np.eye(4, dtype=np.float32)) == pytest.approx(1)
