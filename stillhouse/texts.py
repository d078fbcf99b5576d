"""User texts come in: files, folders or a dataset, each text once, nothing blank."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from stillhouse.errors import InputError
from stillhouse.lexical import find_lexical_duplicates
from stillhouse.recipe import TextSource
from stillhouse.schemas import TEXTS, table_of

READABLE = {".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".txt"}


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
    rows: dict[str, dict[str, object]] = {}
    counts = {"read": 0, "blank": 0, "duplicate": 0}
    for source in sources:
        for text, domain in _read_source(source):
            counts["read"] += 1
            key = text_id(text)
            if not normalise(text):
                counts["blank"] += 1
            elif key in rows:
                counts["duplicate"] += 1
            else:
                rows[key] = {
                    "text_id": key,
                    "text": text.strip(),
                    "domain": domain,
                    "source": source.dataset or Path(source.path or "").name,
                    "licence": source.licence,
                    "language": source.language,
                }
    if not rows:
        raise InputError(f"no text is left of {counts['read']} rows read ({counts['blank']} blank); check the sources")
    table = table_of(list(rows.values()), TEXTS, "texts")
    if similarity is None:
        return table, counts
    near = pl.Series(find_lexical_duplicates([normalise(text) for text in table["text"]], similarity))
    return table.filter(~near), {**counts, "near_duplicate": int(near.sum())}


def source_files(source: TextSource) -> list[Path]:
    """Return the files of a path source, sorted; a dataset has none. Raises InputError where there is nothing."""
    if source.path is None:
        return []
    path = Path(source.path)
    if not path.exists():
        raise InputError(f"texts: {path} does not exist; mend `texts.sources` in the recipe")
    if path.is_file():
        if path.suffix.lower() not in READABLE:
            raise InputError(f"texts: {path} is of no known kind; readable: {', '.join(sorted(READABLE))}")
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in READABLE and file.is_file())
    if not files:
        raise InputError(f"texts: folder {path} holds no readable file; readable: {', '.join(sorted(READABLE))}")
    return files


def _read_source(source: TextSource) -> list[tuple[str, str]]:
    frames = [(str(file), _read_file(file)) for file in source_files(source)]
    if source.dataset:
        frames = [(source.dataset, _read_dataset(source))]
    rows = [row for place, frame in frames for row in _pick_columns(frame, source, place)]
    return rows[: source.limit]


def _read_file(path: Path) -> pl.DataFrame:
    if path.stat().st_size == 0:
        raise InputError(f"texts: {path} is empty; give a file with at least one text")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        content = _decode(path)
        if suffix == ".txt":
            return pl.DataFrame({"text": content.removesuffix("\n").split("\n")}, schema={"text": pl.String})
        if suffix == ".csv":
            return pl.read_csv(content.encode(), infer_schema=False)
        if suffix == ".json":
            return pl.read_json(content.encode(), infer_schema_length=None)
        return pl.read_ndjson(content.encode(), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"texts: {path} is not a readable {suffix[1:]} file: {_broken_line(path) or error}") from error


def _decode(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"texts: {path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}). "
            f"Convert it first, for example: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}"
        ) from error


def _broken_line(path: Path) -> str | None:
    """Name the first line of a JSONL file that is not an object; None for other kinds."""
    import json

    if path.suffix.lower() not in {".jsonl", ".ndjson"}:
        return None
    for number, line in enumerate(_decode(path).splitlines(), start=1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                return f"line {number} is not a JSON object"
        except ValueError as error:
            return f"line {number}: {error}"
    return None


def _read_dataset(source: TextSource) -> pl.DataFrame:
    import datasets

    try:
        loaded = datasets.load_dataset(source.dataset, split=source.split, revision=source.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"texts: dataset {source.dataset} (split {source.split}, revision {source.revision}) "
            f"cannot be loaded: {error}. Check the id, your login and the network"
        ) from error
    wanted = [name for name in (source.column, source.domain_column) if name]
    _require_columns(wanted, loaded.column_names, str(source.dataset))
    return pl.DataFrame(loaded.select_columns(wanted).to_dict())


def _require_columns(wanted: list[str], present: list[str], place: str) -> None:
    for column in wanted:
        if column not in present:
            raise InputError(f"texts: {place} has no column `{column}`; it has: {', '.join(present)}")


def _pick_columns(frame: pl.DataFrame, source: TextSource, place: str) -> list[tuple[str, str]]:
    wanted = [name for name in (source.column, source.domain_column) if name]
    _require_columns(wanted, frame.columns, place)
    for column in wanted:
        if frame.schema[column] not in (pl.String, pl.Categorical, pl.Null):
            raise InputError(f"texts: {place}: column `{column}` holds {frame.schema[column]}, not text")
    texts = frame[source.column].cast(pl.String).fill_null("").to_list()
    if not source.domain_column:
        return [(text, source.domain) for text in texts]
    domains = frame[source.domain_column].cast(pl.String).fill_null(source.domain).to_list()
    return list(zip(texts, domains, strict=True))
