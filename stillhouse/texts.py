"""User texts come in: files, folders or a dataset, each text once, nothing blank."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from pathlib import Path

import polars as pl

from stillhouse.errors import InputError
from stillhouse.files import read_source, require_columns
from stillhouse.lexical import find_lexical_duplicates
from stillhouse.schemas import BATCH_ROWS, TEXTS, Rows
from stillhouse.sections import TextSource


def normalise(text: str) -> str:
    """Return the form by which two texts count as the same: NFKC, folded case, single spaces."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def text_id(text: str) -> str:
    """Return the id of a text: 16 hex digits of the hash of its normalised form."""
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_texts(sources: Iterable[TextSource], similarity: float | None = None) -> tuple[pl.DataFrame, dict[str, int]]:
    """Read all sources into the `texts` table and count what was left out.

    Returns the table (first occurrence wins) and the counts `read`, `blank`, `duplicate` and, where texts of some
    `similarity` are left out (see `find_lexical_duplicates`), `near_duplicate`.
    Raises InputError naming the file, and row or column, where a source cannot be read or holds no text.
    """
    rows, seen, blank = Rows(TEXTS, "texts"), set[int](), text_id("")
    counts = {"read": 0, "blank": 0, "duplicate": 0}
    for source in sources:
        name = source.dataset or Path(source.path or "").name
        for text, domain in _read_source(source):
            counts["read"] += 1
            key = text_id(text)
            number = int(key, 16)
            if key == blank:
                counts["blank"] += 1
            elif number in seen:
                counts["duplicate"] += 1
            else:
                row = {"text_id": key, "text": text.strip(), "domain": domain, "source": name}
                rows.add(len(seen), {**row, "licence": source.licence, "language": source.language})
                seen.add(number)
    if not seen:
        raise InputError(f"no text is left of {counts['read']} rows read ({counts['blank']} blank); check the sources")
    table = rows.table()
    if similarity is None:
        return table, counts
    near = pl.Series(find_lexical_duplicates(_normalised(table["text"]), similarity))
    return table.filter(~near), {**counts, "near_duplicate": int(near.sum())}


def _normalised(texts: pl.Series) -> pl.Series:
    parts = texts.to_frame("text").iter_slices(BATCH_ROWS)
    return pl.concat([pl.Series([normalise(text) for text in part["text"]]) for part in parts], rechunk=True)


def _read_source(source: TextSource) -> Iterator[tuple[str, str]]:
    """Yield text and domain of each row up to the limit."""
    rows = (row for place, frame in read_source(source) for row in _pick_columns(frame, source, place))
    return islice(rows, source.limit)


def _pick_columns(frame: pl.DataFrame, source: TextSource, place: str) -> Iterator[tuple[str, str]]:
    wanted = [name for name in (source.column, source.domain_column) if name]
    require_columns(wanted, frame.columns, place)
    for column in wanted:
        if frame.schema[column] not in (pl.String, pl.Categorical, pl.Null):
            raise InputError(f"texts: {place}: column `{column}` holds {frame.schema[column]}, not text")
    texts = frame[source.column].cast(pl.String).fill_null("")
    if not source.domain_column:
        return zip(texts, repeat(source.domain))
    return zip(texts, frame[source.domain_column].cast(pl.String).fill_null(source.domain), strict=True)
