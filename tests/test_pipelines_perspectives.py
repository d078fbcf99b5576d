"""Perspectives: names that mean alike come together under their most frequent one, and keep their id over changes."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from pipelines.clustering import cluster, name_nearness
from pipelines.perspectives import count_names, find_perspectives
from stillhouse.encoder import Encoder, load_encoder
from stillhouse.errors import RunError
from stillhouse.sections import OFFLINE_ENCODER, Perspectives
from tests.conftest import ROOT, published_names

GROUPS = (
    ("anger", "rage", "fury", "irritation"),
    ("price", "cost", "expense", "value for money"),
    ("politeness", "courtesy", "good manners", "respect"),
)
# With few names the 0.5th percentile is an outlier; the median asks for moderately many clusters.
SETTINGS = Perspectives(preference_percentile=50)


def attributes() -> pl.DataFrame:
    rows = [
        {"text_id": f"{name} {number}", "name": name, "description": f"about {name}", "value": "v", "call_id": "c"}
        for group in GROUPS
        for rank, name in enumerate(group)
        for number in range(8 - rank)
    ]
    return pl.DataFrame(rows)


def test_names_are_counted_by_text_with_their_most_frequent_description() -> None:
    rows = [("a", "tone", "x"), ("b", "tone", "y"), ("c", "tone", "y"), ("c", "mood", "z")]
    table = pl.DataFrame(rows, schema=["text_id", "name", "description"], orient="row")
    assert count_names(table).rows() == [("tone", 3, "y"), ("mood", 1, "z")]


def test_names_that_mean_alike_come_together(encoder: Encoder) -> None:
    table, counts = find_perspectives(attributes(), 100, 0.0, SETTINGS, encoder, seed=1)
    members = [{member["name"] for member in row["members"]} for row in table.to_dicts()]
    assert counts["frequent"] == 12
    assert sorted(name for group in members for name in group) == sorted(name for group in GROUPS for name in group)
    assert all(any(group <= set(known) for known in GROUPS) for group in members), members
    for row in table.to_dicts():
        assert row["head"] == max(row["members"], key=lambda member: member["count"])["name"]
        assert 0 < row["coherence"] <= 1.0001
        assert np.isfinite([row["x"], row["y"]]).all()


def test_the_same_input_gives_the_same_perspectives(encoder: Encoder) -> None:
    first, _ = find_perspectives(attributes(), 100, 0.0, SETTINGS, encoder, seed=1)
    second, _ = find_perspectives(attributes().sample(fraction=1, shuffle=True, seed=3), 100, 0.0, SETTINGS, encoder, 1)
    assert first.equals(second)


def test_rare_names_are_left_out_and_one_name_is_enough(encoder: Encoder) -> None:
    one = attributes().filter(pl.col("name") == "anger")
    table, _ = find_perspectives(one, 100, 0.0, SETTINGS, encoder, seed=1)
    assert table["head"].to_list() == ["anger"]
    with pytest.raises(RunError, match=r"min_share 0\.5 of 100 texts leaves none of 1"):
        find_perspectives(one, 100, 0.5, SETTINGS, encoder, seed=1)


def test_shares_and_counts_are_of_all_mentions(encoder: Encoder) -> None:
    rare = pl.DataFrame([{"text_id": "x", "name": "zebra crossing", "description": "d", "value": "v", "call_id": "c"}])
    everything = pl.concat([attributes(), rare])
    table, counts = find_perspectives(everything, 100, 0.02, SETTINGS, encoder, seed=1)
    total = len(attributes()) + 1
    assert table["share"].to_list() == pytest.approx([mentions / total for mentions in table["mentions"]])
    assert counts["mentions covered"] == pytest.approx(len(attributes()) / total, abs=1e-3)
    fewer, counts = find_perspectives(everything, 100, 0.02, SETTINGS.model_copy(update={"max_count": 1}), encoder, 1)
    assert len(fewer) == 1
    assert counts["mentions covered"] == pytest.approx(fewer["share"][0], abs=1e-3)


@pytest.mark.parametrize("method", ["affinity", "agglomerative", "kmeans"])
def test_each_method_finds_the_groups_when_told_their_number(encoder: Encoder, method: Any) -> None:
    settings = Perspectives(method=method, clusters=3)
    table, _ = find_perspectives(attributes(), 100, 0.0, settings, encoder, seed=1)
    found = [{member["name"] for member in row["members"]} for row in table.to_dicts()]
    assert sorted(map(sorted, found)) == sorted(map(sorted, GROUPS))


def ids_by_member(table: pl.DataFrame) -> dict[str, str]:
    return {member["name"]: row["perspective_id"] for row in table.to_dicts() for member in row["members"]}


def test_ids_survive_other_heads_and_lost_members(encoder: Encoder) -> None:
    settings = Perspectives(clusters=3)
    before, _ = find_perspectives(attributes(), 100, 0.0, settings, encoder, seed=1)
    # The heads of two groups become rare and the third group loses a member: all heads may change, no id does.
    fewer = attributes().filter(
        ~pl.col("text_id").is_in([f"{name} {number}" for name in ("anger", "price") for number in range(2, 8)]),
        pl.col("name") != "respect",
    )
    after, _ = find_perspectives(fewer, 100, 0.0, settings, encoder, 1, previous=before)
    assert set(after["head"]) != set(before["head"])
    old, new = ids_by_member(before), ids_by_member(after)
    assert {name: old[name] for name in new} == new
    fresh, _ = find_perspectives(fewer, 100, 0.0, settings, encoder, seed=1)
    assert ids_by_member(fresh) != new


def test_a_new_perspective_takes_no_id_that_goes_on(encoder: Encoder) -> None:
    settings = Perspectives(clusters=3)
    before, _ = find_perspectives(attributes(), 100, 0.0, settings, encoder, seed=1)
    # An id that a perspective inherits is the one that another would have by its head.
    swapped = before.with_columns(pl.col("perspective_id").reverse())
    after, _ = find_perspectives(attributes(), 100, 0.0, settings, encoder, 1, previous=swapped.head(2))
    assert after["perspective_id"].is_unique().all()
    assert set(swapped.head(2)["perspective_id"]) <= set(after["perspective_id"])


def test_the_published_names_give_about_the_published_clusters_and_keep_them(encoder: Encoder) -> None:
    names, mentions, reference = published_names()
    counts = np.array(mentions, dtype=np.float64)
    vectors = encoder.encode(names)
    settings = Perspectives(clusters=180)
    labels = cluster(names, vectors, counts, settings, 42)
    assert 170 <= len(set(labels)) <= 190
    assert normalized_mutual_info_score(reference, labels) > 0.79  # 0.801; benchmarks/perspectives.py
    kept = np.sort(np.random.default_rng(0).permutation(len(names))[: round(0.95 * len(names))])
    fewer = cluster([names[row] for row in kept], vectors[kept], counts[kept], settings, 42)
    assert adjusted_rand_score(labels[kept], fewer) > 0.8


@pytest.mark.prove
def test_two_encoders_agree_better_with_the_published_clusters() -> None:
    names, mentions, reference = published_names()
    encoders = load_encoder([OFFLINE_ENCODER, str(ROOT / "models" / "all-mpnet-base-v2")], "cpu")
    settings = Perspectives(clusters=180)
    labels = cluster(names, encoders.encode(names), np.array(mentions, dtype=np.float64), settings, 42)
    assert 175 <= len(set(labels)) <= 185
    assert normalized_mutual_info_score(reference, labels) > 0.82


def test_nearness_is_the_negative_squared_distance_plus_the_spelling(encoder: Encoder) -> None:
    names = ["anger", "level of anger", "price"]
    vectors = encoder.encode(names)
    nearness = name_nearness(names, vectors)
    distance = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    assert np.allclose(nearness, nearness.T)
    assert (nearness <= 0).all()
    assert nearness[0, 2] == pytest.approx(-distance[0, 2], abs=0.02), "no letters in common"
    assert nearness[0, 1] > -distance[0, 1] + 0.05, "a stem in common"


def test_frequent_names_draw_the_others() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(40)]
    counts = np.where(np.arange(40) < 4, 10_000.0, 1.0)
    labels = cluster(names, vectors, counts, Perspectives(clusters=6), 1)
    assert len(set(labels[:4])) == 4, "a frequent name stays apart: its distance to another head weighs the most"
