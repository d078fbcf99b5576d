"""Attribute names: each rule by example, and that a normalised name is clean and final."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.names import fold_names, normalise_name
from tests.conftest import published_names


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("Tone", ["tone"]),
        ("Tone: how it sounds", ["tone"]),
        ("Tone/Mood", ["tone", "mood"]),
        ("tone / Tone", ["tone"]),
        ("use of irony", ["irony"]),
        ("Use of emoji / the use of slang", ["emoji", "slang"]),
        ("  Overall \t sentiment. ", ["overall sentiment"]),
        ("Ｔｏｎｅ", ["tone"]),
        ("author’s ﬁnal stance", ["author's final stance"]),
        ("self‑deprecation", ["self-deprecation"]),
        ("emotional_intensity (1-5)", ["emotional intensity"]),
        ("to\u200bne\x00", ["tone"]),
        ("**Sarcasm**", ["sarcasm"]),
        ("STRASSE", ["strasse"]),
        (" / ", []),
        ("", []),
    ],
)
def test_normalise_name(name: str, names: list[str]) -> None:
    assert normalise_name(name) == names


@given(st.text())
@example("İ/use of use of x")
@example("(use of) -use of y")
@example("x ((b)) y")
@example("ǅ ﷺ")
def test_a_normalised_name_is_clean_and_stays_as_it_is(name: str) -> None:
    for part in normalise_name(name):
        assert normalise_name(part) == [part]
        assert part == " ".join(part.split())
        assert not any(unicodedata.category(character).startswith("C") for character in part)
        assert "/" not in part


def test_folding_joins_plurals_and_turned_names_where_both_occur() -> None:
    counts = {
        "safety concern": 3,
        "safety concerns": 9,
        "level of anger": 2,
        "anger level": 5,
        "emphasis": 4,
        "hopes": 1,
    }
    folded = fold_names(counts)
    assert folded["safety concern"] == folded["safety concerns"] == "safety concerns"
    assert folded["level of anger"] == folded["anger level"] == "anger level"
    assert folded["emphasis"] == "emphasis"
    assert folded["hopes"] == "hopes"


@settings(deadline=None)  # the first call loads the word lists
@given(st.dictionaries(st.text(min_size=1).filter(str.strip), st.integers(1, 99)))
def test_folding_keeps_to_the_known_names_and_is_final(counts: dict[str, int]) -> None:
    folded = fold_names(counts)
    assert set(folded) == set(counts)
    assert set(folded.values()) <= set(counts)
    assert all(folded[target] == target for target in folded.values())


def test_folding_agrees_with_the_clusters_that_people_have_published() -> None:
    names, counts, clusters = published_names()
    cluster = dict(zip(names, clusters, strict=True))
    folded = fold_names(dict(zip(names, counts, strict=True)))
    pairs = [(name, target) for name, target in folded.items() if name != target]
    together = [pair for pair in pairs if cluster[pair[0]] == cluster[pair[1]]]
    assert len(pairs) > 40
    assert len(together) / len(pairs) > 0.9
