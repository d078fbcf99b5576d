"""Rows of a file, a folder of files or a dataset, with clear errors where something is broken."""

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stillhouse.errors import InputError
from stillhouse.remote import local_path
from stillhouse.sections import TextSource

READABLE = {".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".txt"}


def source_files(source: TextSource) -> list[Path]:
    """Return the files of a path source, sorted; a dataset has none. Raises InputError where there is nothing."""
    if source.path is None:
        return []
    path = local_path(source.path)
    if not path.exists():
        raise InputError(f"{source.path} does not exist")
    if path.is_file():
        if path.suffix.lower() not in READABLE:
            raise InputError(f"{path} is of no known kind; readable: {', '.join(sorted(READABLE))}")
        return [path]
    shown = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    files = sorted(file for file in shown if file.suffix.lower() in READABLE)
    if not files:
        raise InputError(f"folder {source.path} holds no readable file; readable: {', '.join(sorted(READABLE))}")
    return files


def read_source(source: TextSource) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the rows of each file of a source, or of its dataset, with its name. Raises InputError."""
    if source.dataset:
        yield source.dataset, _read_dataset(source)
    for file in source_files(source):
        yield str(file), read_file(file)


def require_columns(wanted: list[str], present: list[str], place: str) -> None:
    """Raise InputError that says which columns there are, where one is missing."""
    for column in wanted:
        if column not in present:
            raise InputError(f"{place} has no column `{column}`; it has: {', '.join(present)}")


def read_file(path: Path) -> pl.DataFrame:
    """Return the rows of a file by its suffix. Raises InputError naming file and line where it cannot be read."""
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; give a file with at least one row")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        content = _read_utf8(path)
        if suffix == ".txt":
            return pl.DataFrame({"text": [content.removesuffix(b"\n").decode()]}).select(
                pl.col("text").str.split("\n").explode()
            )
        if suffix == ".csv":
            return pl.read_csv(content, infer_schema=False)
        if suffix == ".json":
            return pl.read_json(content, infer_schema_length=None)
        return pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} is not a readable {suffix[1:]} file: {_broken_line(path) or error}") from error


def _read_utf8(path: Path) -> bytes:
    """Return the content without a byte order mark. Raises InputError that names the first line that is not UTF-8."""
    content = path.read_bytes()
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x}). "
                f"Convert it first, for example: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}"
            ) from error
    return content.removeprefix(codecs.BOM_UTF8)


def _broken_line(path: Path) -> str | None:
    """Name the first line of a JSONL file that is not an object; None for other kinds."""
    if path.suffix.lower() not in {".jsonl", ".ndjson"}:
        return None
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
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
            f"dataset {source.dataset} (split {source.split}, revision {source.revision}) "
            f"cannot be loaded: {error}. Check the id, your login and the network"
        ) from error
    return pl.DataFrame(loaded.with_format("arrow")[:])
