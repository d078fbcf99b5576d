"""Affinity propagation: scikit-learn's result, in float32 and in place; weights stand for copies."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.cluster import AffinityPropagation
from sklearn.metrics import adjusted_rand_score

from pipelines.affinity import Floats, Labels, propagate


def points(count: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(8, 6)).repeat(-(-count // 8), axis=0)[:count] + 0.25 * rng.normal(size=(count, 6))).astype(
        np.float32
    )


def nearness(rows: Floats) -> Floats:
    return (-((rows[:, None] - rows[None]) ** 2).sum(axis=2)).astype(np.float32)


def net_similarity(similarities: Floats, labels: Labels, preference: float) -> float:
    """Sum of the similarities to the best exemplar of each cluster, and the preference per exemplar."""
    total = 0.0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        columns = similarities[np.ix_(members, members)].astype(np.float64)
        np.fill_diagonal(columns, 0)
        total += columns.sum(axis=0).max() + preference
    return total


@pytest.mark.parametrize(("count", "preference"), [(40, -3.0), (300, -10.0), (300, -1.0)])
def test_it_finds_what_scikit_learn_finds(count: int, preference: float) -> None:
    similarities = nearness(points(count, seed=count))
    labels = propagate(similarities.copy(), preference, damping=0.9, max_iterations=500, seed=0)
    model = AffinityPropagation(
        affinity="precomputed", preference=preference, damping=0.9, max_iter=500, random_state=0
    )
    theirs = model.fit_predict(similarities.astype(np.float64))
    assert 1 < len(np.unique(labels)) < count
    assert adjusted_rand_score(theirs, labels) == 1.0
    ours, reference = (net_similarity(similarities, found, preference) for found in (labels, theirs))
    assert ours == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_weighted_row_counts_as_so_many_copies(seed: int) -> None:
    rows, weights = points(12, seed), np.random.default_rng(seed).integers(1, 20, 12)
    labels = propagate(nearness(rows) * weights[:, None].astype(np.float32), -40.0, 0.9, 1000, seed=0)
    copies = np.repeat(np.arange(12), weights)
    found = net_similarity(nearness(rows)[np.ix_(copies, copies)], labels[copies], -40.0)
    choices = (list(choice) for size in range(1, 13) for choice in combinations(range(12), size))
    best = max((weights * nearness(rows)[:, choice].max(axis=1)).sum() - 40 * len(choice) for choice in choices)
    assert best * 1.05 <= found <= best + 1e-3, "both are negative"


def test_one_iteration_settles_nothing_and_says_so() -> None:
    labels = propagate(nearness(points(40, seed=1)), -1e6, damping=0.9, max_iterations=1, seed=0)
    assert (labels == -1).all()
