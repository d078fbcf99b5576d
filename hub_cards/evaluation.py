"""Evaluation sets to look texts up in: SentiBench's test sets as hashes, and the sets that a recipe names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from hub_cards.wording import Hashes, hash_grams, hash_wording, hash_words, words
from stillhouse.errors import InputError
from stillhouse.files import read_file, read_source, require_columns, source_files
from stillhouse.remote import local_path
from stillhouse.schemas import EVALUATION, conform
from stillhouse.sections import Leaks, TextSource

SENTIBENCH = Path(__file__).parent / "data" / "sentibench.parquet"  # made by hub_cards.sentibench_hashes
SENTIBENCH_COLUMN = "sentence"
# A shorter text is no more than a phrase. Of SentiBench's 29,773 training and validation texts, 19 of one or two words
# equal test texts of a set that theirs has nothing to do with ("wow", "very good"), 3 of four words ("need I say
# more"), none of more.
MIN_WORDS = 4
# In 193 cases a test text of 4 to 7 words stands inside one of them that it has nothing to do with ("you get what you
# pay for"), in none a test text of 8 or more.
MIN_CONTAINED = 8
GRAM = 13  # as in Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C
SIZES = range(MIN_CONTAINED, GRAM + 1)  # words of what is looked for inside texts
WORDED = pl.Schema({"evaluation": pl.String, "row": pl.Int64, "text": pl.String})


@dataclass(frozen=True)
class Evaluation:
    """Evaluation sets: `hashed` is a table EVALUATION; `worded` has `evaluation`, `row` and `text`.

    `worded` holds those texts of MIN_WORDS and more whose wording is at hand, not only their hashes.
    """

    hashed: pl.DataFrame
    worded: pl.DataFrame

    def sizes(self) -> pl.DataFrame:
        """Return of each set, by name, its number of `texts` and how many are too `short` to be looked for."""
        return (
            self.hashed.group_by("evaluation")
            .agg(texts=pl.len(), short=(pl.col("words") < MIN_WORDS).sum())
            .sort("evaluation")
        )


def load_evaluation(settings: Leaks) -> Evaluation:
    """Return the evaluation sets of a recipe.

    A file is named by its folder and itself, a dataset by its id and split. In a folder with files SET/test.json or
    CATEGORY/SET/test.json, as SentiBench has them, or a test.json of its own, only these are read, named CATEGORY/SET.

    Raises:
        InputError: A source does not exist, cannot be read, or has no such column of text.
    """
    texts = pl.concat([WORDED.to_frame(), *(_read_sets(source) for source in settings.evaluation)])
    hashed = hash_texts(texts)
    if settings.sentibench:
        shipped = conform(pl.read_parquet(SENTIBENCH), EVALUATION, "sentibench")
        # SentiBench's own files may be among the sources too.
        hashed = pl.concat([shipped, hashed]).unique(
            ["evaluation", "row", "words", "whole"], keep="first", maintain_order=True
        )
    long_enough = pl.Series([len(words(text)) >= MIN_WORDS for text in texts["text"]], dtype=pl.Boolean)
    return Evaluation(hashed, texts.filter(long_enough))


def hash_texts(texts: pl.DataFrame) -> pl.DataFrame:
    """Return the table EVALUATION of a table with `evaluation`, `row` and `text`."""
    parts = [words(text) for text in texts["text"]]
    columns = [
        pl.Series("words", [len(part) for part in parts], pl.Int64),
        pl.Series("whole", [hash_wording(part) if len(part) >= MIN_WORDS else None for part in parts], pl.UInt64),
        pl.Series("grams", [_grams(part) for part in parts], pl.List(pl.UInt64)),
    ]
    return conform(texts.drop("text").with_columns(columns), EVALUATION, "evaluation")


def _grams(part: list[str]) -> Hashes:
    """Return the grams that stand for an evaluation text, each once."""
    size = min(len(part), GRAM)
    if size < MIN_CONTAINED:
        return np.empty(0, np.uint64)
    ((_, _, grams),) = hash_grams(*hash_words([part]), [size])
    return np.unique(grams)


def _read_sets(source: TextSource) -> pl.DataFrame:
    """Return `evaluation`, `row` and `text` of the sets of a source."""
    sets = [
        _texts(frame, source.column, place).to_frame("text").with_row_index("row").with_columns(evaluation=pl.lit(name))
        for name, place, frame in _named_files(source)
    ]
    return conform(pl.concat(sets), WORDED, "evaluation")[: source.limit]


def _named_files(source: TextSource) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Yield name, place and rows of each set of a source; those in SentiBench's layout have the source's column."""
    tests = sentibench_files(local_path(source.path)) if source.path else []
    for file in tests:
        frame = read_file(file)
        if source.column not in frame.columns and SENTIBENCH_COLUMN in frame.columns:
            frame = frame.rename({SENTIBENCH_COLUMN: source.column})
        yield "/".join(file.resolve().parts[-3:-1]), str(file), frame
    for place, frame in [] if tests else read_source(source):
        name = f"{place}/{source.split}" if source.dataset else "/".join(Path(place).resolve().parts[-2:])
        yield name, place, frame


def evaluation_files(source: TextSource) -> list[Path]:
    """Return the files that the sets of a source are read from. Raises InputError where there is nothing."""
    return (sentibench_files(local_path(source.path)) if source.path else []) or source_files(source)


def sentibench_files(folder: Path) -> list[Path]:
    """Return the files test.json of a folder in SentiBench's layout, or of one of its categories or sets, sorted."""
    return sorted(file for pattern in ("", "*/", "*/*/") for file in folder.glob(f"{pattern}test.json"))


def _texts(frame: pl.DataFrame, column: str, place: str) -> pl.Series:
    require_columns([column], frame.columns, f"publish.leaks.evaluation: {place}")
    if frame.schema[column] not in (pl.String, pl.Categorical, pl.Null):
        raise InputError(f"publish.leaks.evaluation: {place}: column `{column}` holds {frame.schema[column]}, not text")
    return frame[column].cast(pl.String).fill_null("")
