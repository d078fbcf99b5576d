"""Perspectives: frequent attribute names, embedded and clustered (method, step 2)."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.clustering import Vectors, cluster
from stillhouse.encoder import Encoder
from stillhouse.errors import RunError
from stillhouse.progress import Counts
from stillhouse.schemas import PERSPECTIVES, table_of
from stillhouse.sections import Perspectives

SAME_PERSPECTIVE = 0.5  # share of mentions in common, of those in either, above which a perspective is the same


def find_perspectives(
    attributes: pl.DataFrame,
    texts: int,
    min_share: float,
    settings: Perspectives,
    encoder: Encoder,
    seed: int,
    previous: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, Counts]:
    """Cluster the attribute names that more than `min_share` of the texts show.

    Returns the `perspectives` table, most mentions first, and the counts `names`, `frequent`, `clusters` and
    `mentions covered` (share of all attribute mentions). The id of a perspective is made of its head, unless
    `previous`, the table of an earlier run, has the same perspective: then the id stays. Raises RunError where no
    name is frequent enough.
    """
    names = count_names(attributes.drop_nulls("name"))
    frequent = names.filter(pl.col("count") > min_share * texts)
    if frequent.is_empty():
        raise RunError(
            f"attributes.min_share {min_share:g} of {texts} texts leaves none of {len(names)} attribute names; lower it"
        )
    members = frequent["name"].to_list()
    vectors = encoder.encode(members)
    labels = cluster(members, vectors, frequent["count"].to_numpy().astype(np.float64), settings, seed)
    total = int(names["count"].sum())
    rows = [_row(frequent, vectors, labels == label, total) for label in np.unique(labels)]
    rows.sort(key=lambda row: (-row["mentions"], row["head"]))
    kept = _place(_keep_ids(rows[: settings.max_count], previous))
    covered = round(sum(row["mentions"] for row in kept) / total, 3)
    counts = {"names": len(names), "frequent": len(frequent), "clusters": len(rows), "mentions covered": covered}
    return table_of(kept, PERSPECTIVES, "perspectives"), counts


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


def _row(names: pl.DataFrame, vectors: Vectors, mine: npt.NDArray[np.bool_], total: int) -> dict[str, Any]:
    """Describe one cluster; its most frequent name is its head."""
    members = names.filter(pl.Series(mine))
    centre = vectors[mine].mean(axis=0)
    head = members["name"][0]
    return {
        "perspective_id": _id_of(head),
        "head": head,
        "members": members.select("name", "description", "count").to_dicts(),
        "mentions": int(members["count"].sum()),
        "share": int(members["count"].sum()) / total,
        "coherence": float((vectors[mine] @ (centre / np.linalg.norm(centre))).mean()),
        "centre": centre,
    }


def _id_of(name: str) -> str:
    return "p" + hashlib.sha256(name.encode()).hexdigest()[:11]


def _keep_ids(rows: list[dict[str, Any]], previous: pl.DataFrame | None) -> list[dict[str, Any]]:
    """Give a row the id of the previous perspective with which it shares more than half of the mentions.

    Measured as the weighted Jaccard index, so that at most one row fits a previous perspective, and the reverse.
    """
    if previous is None:
        return rows
    known = {row["perspective_id"]: _mentions(row) for row in previous.iter_rows(named=True)}
    taken: set[str] = set()
    for row in rows:
        mine = _mentions(row)
        same = [key for key, theirs in known.items() if _overlap(mine, theirs) > SAME_PERSPECTIVE]
        row["perspective_id"], row["is_new"] = (same[0], False) if same else (row["perspective_id"], True)
        taken.update(same)
    for row in rows:
        if row.pop("is_new") and row["perspective_id"] in taken:  # its head has left a perspective that goes on
            row["perspective_id"] = _id_of(" ".join(_mentions(row)))
    return rows


def _mentions(row: dict[str, Any]) -> dict[str, float]:
    """Return each member's share of the perspective's mentions: texts may have been added to the run."""
    return {member["name"]: member["count"] / row["mentions"] for member in row["members"]}


def _overlap(one: dict[str, float], other: dict[str, float]) -> float:
    """Return the weighted Jaccard index of two sets of shares, from 0 to 1."""
    common = sum(min(share, other.get(name, 0.0)) for name, share in one.items())
    return common / (2.0 - common)


def _place(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add each cluster's position on the plane of the two main directions (PCA)."""
    from sklearn.decomposition import PCA

    centres = np.stack([row.pop("centre") for row in rows])
    plane = np.zeros((len(rows), 2))
    if len(rows) > 2:
        plane = PCA(n_components=2, svd_solver="full").fit_transform(centres)
    return [{**row, "x": float(x), "y": float(y)} for row, (x, y) in zip(rows, plane, strict=True)]
