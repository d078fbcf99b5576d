"""Clusters of attribute names: three methods behind one function, on embeddings, spelling and counts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipelines.affinity import propagate
from stillhouse.errors import RunError
from stillhouse.sections import Perspectives

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

SPELLING = 0.2  # share of the spelling's cosine that is added to the embeddings'
PREFERENCE_SCALE = 1.2  # makes up for the nearness that shared stems add: the paper's names give the paper's number
BLOCK_ROWS = 256
SEARCH_STEPS = 8
CLOSE_ENOUGH = 0.02  # share by which the number found may miss the number wanted


def cluster(names: Sequence[str], vectors: Vectors, counts: Floats, settings: Perspectives, seed: int) -> Labels:
    """Return a cluster label per name, shape (n,).

    `vectors` has shape (n, d) and rows of length 1; `counts`, shape (n,), is how often each name occurs. Affinity
    propagation and k-means weigh a name by 1 + floor(log1p(count)), the number of copies that CompEffDist makes;
    agglomerative clustering (average linkage) knows no weights. Affinity propagation and agglomerative clustering see
    how the names are spelt, too. On the 1,786 published names: 183 clusters for 180 wanted, adjusted Rand 0.88 when 5 %
    of the names are removed (benchmarks/perspectives.py). Raises RunError where affinity propagation does not settle.
    """
    if len(names) == 1:
        return np.zeros(1, dtype=np.int64)
    from sklearn.cluster import AgglomerativeClustering, KMeans

    weights = 1.0 + np.floor(np.log1p(counts))
    wanted = min(settings.clusters, len(names)) if settings.clusters else None
    if settings.method == "kmeans":
        model = KMeans(n_clusters=wanted, n_init=4, random_state=seed).fit(vectors, sample_weight=weights)
        return np.asarray(model.labels_, dtype=np.int64)
    nearness = name_nearness(names, vectors)
    if settings.method == "agglomerative":
        model = AgglomerativeClustering(n_clusters=wanted, metric="precomputed", linkage="average").fit(-nearness)
        return np.asarray(model.labels_, dtype=np.int64)
    return _affinity(nearness, weights, wanted, settings, seed)


def name_nearness(names: Sequence[str], vectors: Vectors) -> Vectors:
    """Return -(2 - 2 s), at most 0, shape (n, n): s is cosine of the embeddings + SPELLING x cosine of the spelling.

    Without the spelling this is -(euclidean distance)^2, the paper's similarity. The spelling is TF-IDF of character
    3- to 5-grams: small encoders miss that names share a stem. One array of float32, filled in place.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    spelling = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32)
    grams = spelling.fit_transform(names)
    nearness: Vectors = vectors @ vectors.T
    for start in range(0, len(names), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        nearness[rows] += SPELLING * (grams[rows] @ grams.T).toarray()
    nearness *= 2
    nearness -= 2
    np.minimum(nearness, 0, out=nearness)
    np.fill_diagonal(nearness, 0)
    return nearness


def _affinity(nearness: Vectors, weights: Floats, wanted: int | None, settings: Perspectives, seed: int) -> Labels:
    """Run affinity propagation on weighted rows, as often as it takes to find about the number wanted.

    A name of weight w loses w times its distance when it is counted under another, as w copies of it would; that takes
    n^2 memory where copies take (sum of weights)^2. The preference is scaled by the mean weight, so that weights do
    not change how many clusters there are. Overwrites `nearness`.
    """
    others = nearness[~np.eye(len(nearness), dtype=bool)]
    base = float(np.percentile(others, settings.preference_percentile)) * float(weights.mean())
    del others
    weighted = np.multiply(nearness, weights[:, None].astype(np.float32), out=nearness)
    scale = PREFERENCE_SCALE
    best = labels = _propagate(weighted, base * scale, settings, seed)
    if wanted is None:
        return labels
    low, high = 0.05, 50.0  # the larger the scale, the fewer the clusters
    for _ in range(SEARCH_STEPS):
        found = len(np.unique(labels))
        if abs(found - wanted) <= CLOSE_ENOUGH * wanted:
            break
        low, high = (scale, high) if found > wanted else (low, scale)
        margin = 0.05 * (high - low)
        scale = float(np.clip(scale * (found / wanted) ** 1.2, low + margin, high - margin))
        labels = _propagate(weighted, base * scale, settings, seed)
        best = min(best, labels, key=lambda some: abs(len(np.unique(some)) - wanted))
    return best


def _propagate(similarities: Vectors, preference: float, settings: Perspectives, seed: int) -> Labels:
    labels = propagate(similarities, preference, settings.damping, settings.max_iterations, seed)
    if (labels < 0).any():
        raise RunError("perspectives: affinity propagation found no exemplars; raise perspectives.max_iterations")
    return labels
