"""Perspectives: names that mean alike come together, the frequent one is the head, nothing is lost."""

import numpy as np
import polars as pl
import pytest

from pipelines.perspectives import count_names, find_perspectives
from stillhouse.encoder import Encoder
from stillhouse.errors import RunError
from stillhouse.recipe import Perspectives

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
