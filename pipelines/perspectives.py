"""Perspectives: frequent attribute names, embedded and clustered by affinity propagation (method, step 2)."""

import hashlib
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from stillhouse.encoder import Encoder
from stillhouse.errors import RunError
from stillhouse.recipe import Perspectives
from stillhouse.schemas import PERSPECTIVES, table_of

Vectors = npt.NDArray[np.float32]


def find_perspectives(
    attributes: pl.DataFrame, texts: int, min_share: float, settings: Perspectives, encoder: Encoder, seed: int
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Cluster the attribute names that more than `min_share` of the texts show.

    Returns the `perspectives` table, most mentions first, and the counts `names`, `frequent`, `clusters`.
    Raises RunError where no name is frequent enough.
    """
    names = count_names(attributes)
    frequent = names.filter(pl.col("count") > min_share * texts)
    if frequent.is_empty():
        raise RunError(
            f"attributes.min_share {min_share:g} of {texts} texts leaves none of {len(names)} attribute names; lower it"
        )
    vectors = encoder.encode(frequent["name"].to_list())
    labels = cluster(vectors, settings, seed)
    rows = [_row(frequent, vectors, labels == label) for label in np.unique(labels)]
    table = table_of(_place(rows), PERSPECTIVES, "perspectives").sort(["mentions", "head"], descending=[True, False])
    counts = {"names": len(names), "frequent": len(frequent), "clusters": len(table)}
    return table.head(settings.max_count or len(table)), counts


def count_names(attributes: pl.DataFrame) -> pl.DataFrame:
    """Return name, count of texts and most frequent description, most frequent name first."""
    descriptions = (
        attributes.group_by("name", "description")
        .len("uses")
        .sort(["uses", "description"], descending=[True, False])
        .group_by("name", maintain_order=True)
        .agg(pl.col("description").first())
    )
    counts = attributes.group_by("name").agg(pl.col("text_id").n_unique().cast(pl.Int64).alias("count"))
    return counts.join(descriptions, on="name").sort(["count", "name"], descending=[True, False])


def cluster(vectors: Vectors, settings: Perspectives, seed: int) -> npt.NDArray[np.int64]:
    """Return a cluster label per vector, shape (n,): affinity propagation on -(euclidean distance)^2."""
    from sklearn.cluster import AffinityPropagation
    from sklearn.exceptions import ConvergenceWarning

    if len(vectors) == 1:
        return np.zeros(1, dtype=np.int64)
    similarities = 2.0 * (vectors @ vectors.T).astype(np.float64) - 2.0
    model = AffinityPropagation(
        affinity="precomputed",
        preference=np.percentile(similarities, settings.preference_percentile),
        damping=settings.damping,
        max_iter=settings.max_iterations,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels: npt.NDArray[np.int64] = model.fit_predict(similarities)
    if (labels < 0).any():
        raise RunError("perspectives: affinity propagation found no exemplars; raise perspectives.max_iterations")
    return labels


def _row(names: pl.DataFrame, vectors: Vectors, mine: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Describe one cluster; its most frequent name is its head."""
    members = names.filter(pl.Series(mine))
    centre = vectors[mine].mean(axis=0)
    head = members["name"][0]
    return {
        "perspective_id": "p" + hashlib.sha256(head.encode()).hexdigest()[:11],
        "head": head,
        "members": members.select("name", "description", "count").to_dicts(),
        "mentions": int(members["count"].sum()),
        "coherence": float((vectors[mine] @ (centre / np.linalg.norm(centre))).mean()),
        "centre": centre,
    }


def _place(rows: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Add each cluster's position on the plane of the two main directions (PCA)."""
    from sklearn.decomposition import PCA

    centres = np.stack([row.pop("centre") for row in rows])
    plane = np.zeros((len(rows), 2))
    if len(rows) > 2:
        plane = PCA(n_components=2, svd_solver="full").fit_transform(centres)
    return [{**row, "x": float(x), "y": float(y)} for row, (x, y) in zip(rows, plane, strict=True)]
