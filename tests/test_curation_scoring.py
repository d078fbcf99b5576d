"""Samples are embedded by their parts, once each, and compared as widely as the recipe says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from curation.difficulty import Score
from curation.scoring import near_duplicates, score_table
from curation.vectors import PARTS, content_of, embed_samples, load_vectors, vectors_of
from stillhouse.checkpoint import Checkpoint
from stillhouse.encoder import Encoder
from stillhouse.errors import RunError
from stillhouse.places import Chunk, Here, Tell
from stillhouse.progress import Unseen
from stillhouse.sections import Curation

ROWS = [
    ("Is it good?", "Lovely place", "yes"),
    ("Is it good?", "Lovely place", "no"),
    ("Is it good?", "Cold", "no"),
    ("Is it good?", "Lovely place!", "yes"),
    ("Is it good?!", "Lovely place", "yes"),
]
SAMPLES = pl.DataFrame(ROWS, schema=PARTS, orient="row").with_columns(
    sample_id=pl.Series(["a", "b", "c", "d", "e"]),
    instruction_id=pl.Series(["i", "i", "i", "i", "j"]),
    text_id=pl.Series(["t", "t", "u", "v", "t"]),
)


class Counting:
    """An encoder that remembers what it was given."""

    def __init__(self, encoder: Encoder) -> None:
        """Wrap an encoder."""
        self.encoder, self.seen = encoder, list[str]()

    def encode(self, sentences: list[str]) -> Any:
        """Embed and remember."""
        self.seen += sentences
        return self.encoder.encode(sentences)


def test_each_part_is_embedded_once_and_tells_samples_apart(encoder: Encoder) -> None:
    counting, told = Counting(encoder), list[int]()
    vectors = embed_samples(SAMPLES, PARTS, counting, told.append)
    assert len(counting.seen) == told[-1] == 2 + 3 + 2
    dense = vectors.dense(["a", "b", "c"])
    assert np.allclose(np.linalg.norm(dense, axis=1), 1, atol=1e-5)
    parts = [[row[part] for row in ROWS[:3]] for part in range(3)]
    wanted = np.mean([encoder.encode(part) @ encoder.encode(part).T for part in parts], axis=0)
    assert np.allclose(dense @ dense.T, wanted, atol=1e-5)
    assert float(dense[0] @ dense[1]) < 0.95


def test_saved_vectors_are_those_that_were_saved(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    with pytest.raises(RunError, match=r"vectors\.npz is not there"):
        vectors_of(path)(["a"])
    vectors = embed_samples(SAMPLES, PARTS, encoder)
    vectors.save(path, "this encoder")
    loaded = load_vectors(path, "this encoder")
    assert loaded is not None
    assert np.array_equal(loaded.dense(["e", "a"]), vectors.dense(["e", "a"]))
    assert np.array_equal(vectors_of(path)(["e", "a"]), vectors.dense(["e", "a"]))
    assert load_vectors(path, "another encoder") is None
    path.write_bytes(path.read_bytes()[:1000])
    assert load_vectors(path) is None


def test_vectors_are_of_what_the_samples_say_now() -> None:
    now = content_of(SAMPLES.lazy(), PARTS)
    assert content_of(SAMPLES.lazy(), PARTS) == now
    answered_anew = SAMPLES.with_columns(output=pl.lit("another answer"))
    assert content_of(answered_anew.lazy(), PARTS) != now


@pytest.mark.parametrize(
    ("scope", "dropped"), [("all", {"d": "a", "e": "a"}), ("instruction", {"d": "a"}), ("text", {"e": "a"})]
)
def test_near_duplicates_within_a_scope(encoder: Encoder, scope: Any, dropped: dict[str, str]) -> None:
    vectors = embed_samples(SAMPLES, PARTS, encoder)
    near = near_duplicates(SAMPLES.lazy(), vectors, Curation(duplicates=scope, similarity=0.92), Here())
    ids = SAMPLES["sample_id"].to_list()
    found = {ids[row]: ids[near.nearest[row]] for row in np.flatnonzero(~near.kept)}
    assert found == dropped


def test_the_table_names_the_neighbour_of_a_near_duplicate_alone(encoder: Encoder) -> None:
    """Scores are counted by a worker here, so that rows, scores and neighbours can be told apart."""
    made = []

    def work(chunk: Chunk, tell: Tell) -> tuple[list[Score], int]:
        made.extend(chunk)
        return [Score(difficulty=float(len(json.loads(text)[1]))) for text in chunk], 7

    samples = SAMPLES.with_columns(prompt=pl.col("text"))
    vectors = embed_samples(SAMPLES, PARTS, encoder)
    settings = Curation(duplicates="text", similarity=0.92)
    table, counts = score_table(samples.lazy(), vectors, settings, lambda: work, Checkpoint(), Unseen(), Here())
    assert table["sample_id"].to_list() == ["a", "b", "c", "d", "e"]
    assert table["difficulty"].to_list() == [3, 2, 2, 3, 3]
    assert table["nearest_id"].to_list() == [None, None, None, None, "a"]
    assert table["nearest_similarity"].is_not_null().to_list() == [False] * 4 + [True]
    assert counts == {"scored": 5, "unscored": 0}
    assert sorted(made)[0] == '["Cold", "no"]'
