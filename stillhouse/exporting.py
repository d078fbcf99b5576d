"""Rows as a file for others to open: JSONL, CSV or Parquet."""

import json
import re
from pathlib import Path

import polars as pl

from stillhouse.errors import InputError
from stillhouse.store import write_atomically, write_parquet

WRITABLE = (".jsonl", ".csv", ".parquet")
# A CSV cell has no type: a spreadsheet would compute what begins like this.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


def check_target(path: Path) -> None:
    """Raise InputError where a file is of no kind that is written, is there already or has no folder to lie in."""
    if path.suffix.lower() not in WRITABLE:
        raise InputError(f"--to {path}: of no known kind; writable: {', '.join(WRITABLE)}")
    if path.exists():
        raise InputError(f"--to {path} exists; give another file, or delete it first")
    if not path.parent.is_dir():
        raise InputError(f"--to {path}: there is no folder {path.parent}; make it first")


def write_rows(path: Path, rows: pl.DataFrame) -> None:
    """Write rows by the suffix of a new file, whole or not at all. Raises InputError as `check_target` does."""
    check_target(path)
    if path.suffix.lower() == ".parquet":
        write_parquet(path, rows)
    elif path.suffix.lower() == ".jsonl":
        write_atomically(path, rows.write_ndjson().encode())
    else:
        cells = pl.DataFrame([_cells(column) for column in rows])
        write_atomically(path, cells.write_csv(include_bom=True).encode())  # Excel takes one without for Latin-1


def guarded(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet takes for a formula: an apostrophe says that it is text."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """Return the text that a guarded cell holds."""
    return text.removeprefix("'") if _FORMULA.match(text) else text


def _cells(column: pl.Series) -> pl.Series:
    """Return a column as CSV has it: what is nested as JSON."""
    if column.dtype.is_nested():
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_list()]
    elif column.dtype == pl.String:
        texts = [None if text is None else guarded(text) for text in column]
    else:
        return column
    return pl.Series(column.name, texts, pl.String)
