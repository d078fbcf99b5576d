"""Which texts occur in evaluation sets: word for word, in part, or by meaning.

Four ways, on words as hub_cards/wording.py has them, and only for evaluation texts of MIN_WORDS words and more:

exact      the whole text is an evaluation text
contained  an evaluation text of MIN_CONTAINED to 12 words stands whole in it
13-gram    13 words in a row stand in an evaluation text
neighbour  its embedding is close to that of an evaluation text
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from hub_cards.evaluation import GRAM, MIN_WORDS, SIZES, Evaluation
from hub_cards.wording import hash_grams, hash_wording, hash_words, words
from stillhouse.encoder import Encoder
from stillhouse.near_duplicates import BLOCK_COLUMNS, BLOCK_ROWS, ROUNDING, Numbers, cosines, squared_lengths
from stillhouse.schemas import LEAKS, conform

# Of the texts that are looked up at a time; a longer one is looked up alone.
BATCH_TEXTS, BATCH_WORDS = 8192, 2**18


def find_leaks(
    texts: Sequence[str] | pl.Series,
    evaluation: Evaluation,
    similarity: float | None = None,
    encoder: Encoder | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """Return which texts occur in which evaluation sets, as a table LEAKS.

    Args:
        texts: What is looked up: texts, prompts, demonstrations, whatever people or models will read.
        evaluation: The sets.
        similarity: Cosine from which a text is a neighbour; None: nobody looks for neighbours.
        encoder: What embeds texts; None: nobody looks for neighbours. It sees the start of a long text only.
        report: Told how many texts are done.

    Returns:
        One row per text, set and way, that of the best evaluation text: sorted, and the same however texts are
        ordered or divided into batches. Memory beyond texts, sets and their vectors is bounded by a batch.

    Raises:
        RunError: The encoder returned vectors without direction.
    """
    lookup = _Wording(evaluation.hashed)
    neighbours = None
    if encoder and similarity and len(evaluation.worded):
        neighbours = _Neighbours(evaluation.worded, encoder, similarity)
    found = [LEAKS.to_frame()]
    for start, parts in _batches(texts):
        leaks = [lookup.exact(parts), lookup.inside(parts)]
        if neighbours:
            rows = np.array([row for row, part in enumerate(parts) if len(part) >= MIN_WORDS], np.int64)
            leaks.append(neighbours.find(rows, [texts[start + row] for row in rows.tolist()]))
        found.append(_best(leaks).with_columns(pl.col("number") + start))
        report(start + len(parts))
    return pl.concat(found)


def _batches(texts: Sequence[str] | pl.Series) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield the position of the first text of each batch, and the words of its texts."""
    start, size = 0, 0
    parts: list[list[str]] = []
    for number, text in enumerate(texts, start=1):
        parts.append(words(text))
        size += len(parts[-1])
        if size >= BATCH_WORDS or len(parts) == BATCH_TEXTS or number == len(texts):
            yield start, parts
            start, size, parts = number, 0, []


def _best(leaks: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the best of each text, set and way; of equals the first row of the set."""
    key = ["number", "evaluation", "how"]
    rows = pl.concat([conform(frame, LEAKS, "leaks") for frame in leaks])
    return rows.sort([*key, "score", "row"], descending=[False, False, False, True, False]).unique(
        key, keep="first", maintain_order=True
    )


class _Wording:
    """Looks texts up by the hashes of their words."""

    def __init__(self, hashed: pl.DataFrame) -> None:
        self.whole = hashed.filter(pl.col("whole").is_not_null()).select("evaluation", "row", "whole")
        grams = hashed.select("evaluation", "row", pl.min_horizontal("words", GRAM).alias("size"), gram="grams")
        grams = grams.filter(pl.col("gram").list.len() > 0).explode("gram")
        self.grams = {size: grams.filter(pl.col("size") == size).drop("size") for size in SIZES}

    def exact(self, parts: Sequence[list[str]]) -> pl.DataFrame:
        """Return the texts that are evaluation texts."""
        whole = pl.DataFrame({"whole": [hash_wording(part) for part in parts]}, {"whole": pl.UInt64})
        found = whole.with_row_index("number").join(self.whole, on="whole").drop("whole")
        return found.with_columns(how=pl.lit("exact"), score=pl.lit(1.0)).select(LEAKS.names())

    def inside(self, parts: Sequence[list[str]]) -> pl.DataFrame:
        """Return the texts that share grams with evaluation texts, scored by the share of their own."""
        hashes, counts = hash_words(parts)
        shared = [LEAKS.to_frame()]
        for size, numbers, grams in hash_grams(hashes, counts, SIZES):
            found = pl.DataFrame({"number": numbers, "gram": grams}).join(self.grams[size], on="gram")
            rows = found.group_by("number", "evaluation", "row").len()
            share = rows["len"] / (counts[rows["number"]] - GRAM + 1) if size == GRAM else pl.lit(1.0)
            how = pl.lit("13-gram" if size == GRAM else "contained")
            shared.append(conform(rows.drop("len").with_columns(how=how, score=share), LEAKS, "leaks"))
        return pl.concat(shared)


class _Neighbours:
    """Looks texts up by their embeddings: exact, in blocks of matrix products."""

    def __init__(self, worded: pl.DataFrame, encoder: Encoder, similarity: float) -> None:
        self.sets, self.encoder, self.similarity = worded.drop("text"), encoder, similarity
        vectors = encoder.encode(worded["text"].to_list())
        # Behind those of the sets there is room for a batch, so that no batch copies them.
        self.vectors = np.concatenate([vectors, np.zeros((BATCH_TEXTS, vectors.shape[1]), np.float32)])
        self.squares = np.concatenate([squared_lengths(vectors), np.zeros(BATCH_TEXTS)])

    def find(self, numbers: Numbers, texts: list[str]) -> pl.DataFrame:
        """Return the neighbours of some texts of a batch; `numbers` are their positions in it."""
        if not texts:
            return LEAKS.to_frame()
        first, end = len(self.sets), len(self.sets) + len(texts)
        self.vectors[first:end] = self.encoder.encode(texts)
        self.squares[first:end] = squared_lengths(self.vectors[first:end])
        found = [
            self._compare(rows, columns, numbers)
            for rows in np.split(np.arange(first, end), range(BLOCK_ROWS, len(texts), BLOCK_ROWS))
            for columns in np.split(np.arange(first), range(BLOCK_COLUMNS, first, BLOCK_COLUMNS))
        ]
        return pl.concat(found)

    def _compare(self, rows: Numbers, columns: Numbers, numbers: Numbers) -> pl.DataFrame:
        """Return the best of a block. Products in single precision propose pairs, double precision decides."""
        hits = self.vectors[rows] @ self.vectors[columns].T >= self.similarity - ROUNDING
        row, column = np.divmod(np.flatnonzero(hits), len(columns))  # ten times as fast as nonzero in 2-D
        row, column = rows[row], columns[column]
        score = cosines(self.vectors, self.squares, row, column)
        near = self.sets[column].with_columns(
            number=pl.Series(numbers[row - len(self.sets)]), how=pl.lit("neighbour"), score=pl.Series(score)
        )
        return _best([near.filter(pl.col("score") >= self.similarity).select(LEAKS.names())])
