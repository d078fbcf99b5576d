"""Clusters of attribute names: three methods behind one function, on unit vectors and counts."""

import warnings

import numpy as np
import numpy.typing as npt

from stillhouse.errors import RunError
from stillhouse.recipe import Perspectives

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

SEARCH_STEPS = 12  # halvings of the preference's range in the search for a number of clusters
CLOSE_ENOUGH = 0.05  # share by which the number found may miss the number wanted


def cluster(vectors: Vectors, counts: Floats, settings: Perspectives, seed: int) -> Labels:
    """Return a cluster label per vector, shape (n,).

    `vectors` has shape (n, d) and rows of length 1; `counts`, shape (n,), is how often each name occurs. Affinity
    propagation and k-means weigh a name by 1 + floor(log1p(count)), the paper's number of copies, without making
    copies; agglomerative clustering (average linkage, cosine) knows no weights. Raises RunError where affinity
    propagation does not settle.
    """
    if len(vectors) == 1:
        return np.zeros(1, dtype=np.int64)
    weights = 1.0 + np.floor(np.log1p(counts))
    wanted = min(settings.clusters, len(vectors)) if settings.clusters else None
    if settings.method == "affinity":
        return _affinity(vectors, weights, settings, wanted, seed)
    from sklearn.cluster import AgglomerativeClustering, KMeans

    labels: Labels
    if settings.method == "kmeans":
        model = KMeans(n_clusters=wanted, n_init=4, random_state=seed)
        labels = model.fit(vectors, sample_weight=weights).labels_.astype(np.int64)
    else:
        labels = AgglomerativeClustering(n_clusters=wanted, metric="cosine", linkage="average").fit_predict(vectors)
    return labels


def weighted_similarities(vectors: Vectors, weights: Floats) -> Floats:
    """Return w(i) * -(euclidean distance)^2, shape (n, n): what a name loses when it is counted under another.

    Copies of a name would each add their distance to the net similarity that affinity propagation maximises, so a
    weight on the row does the same at n^2 memory instead of (sum of weights)^2. Weights are scaled to a mean of 1,
    so that the preference keeps its meaning.
    """
    similarities = 2.0 * (vectors @ vectors.T).astype(np.float64) - 2.0
    return np.asarray(similarities * (weights / weights.mean())[:, None])


def _affinity(vectors: Vectors, weights: Floats, settings: Perspectives, wanted: int | None, seed: int) -> Labels:
    similarities = weighted_similarities(vectors, weights)
    preference = float(np.percentile(similarities, settings.preference_percentile))
    if wanted is None:
        return _propagate(similarities, preference, settings, seed)
    low, high = float(similarities.min()) * len(vectors), 0.0  # one cluster; each its own
    best = _propagate(similarities, preference, settings, seed)
    for _ in range(SEARCH_STEPS):
        found = int(best.max()) + 1
        if abs(found - wanted) <= CLOSE_ENOUGH * wanted:
            break
        low, high = (preference, high) if found < wanted else (low, preference)
        preference = -float(np.sqrt(low * high)) if high < 0 else preference / 2
        best = _closer(best, _propagate(similarities, preference, settings, seed), wanted)
    return best


def _closer(one: Labels, other: Labels, wanted: int) -> Labels:
    return min(one, other, key=lambda labels: abs(int(labels.max()) + 1 - wanted))


def _propagate(similarities: Floats, preference: float, settings: Perspectives, seed: int) -> Labels:
    from sklearn.cluster import AffinityPropagation
    from sklearn.exceptions import ConvergenceWarning

    model = AffinityPropagation(
        affinity="precomputed",
        preference=preference,
        damping=settings.damping,
        max_iter=settings.max_iterations,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels: Labels = model.fit_predict(similarities)
    if (labels < 0).any():
        raise RunError("perspectives: affinity propagation found no exemplars; raise perspectives.max_iterations")
    return labels
