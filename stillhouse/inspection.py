"""A look into the tables of a run: rows as readable cards, or counts by a column."""

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stillhouse.errors import InputError

CARD_WIDTH = 110
CARDS_SHOWN = 10


def choose(table: pl.DataFrame, where: str | None) -> pl.DataFrame:
    """Return the rows for which a condition in SQL holds. Raises InputError where it is none."""
    if where is None:
        return table
    try:
        return table.sql(f"SELECT * FROM self WHERE {where}")  # noqa: S608 # the user's own shell, the user's own rows
    except pl.exceptions.PolarsError as error:
        cause = str(error).partition("\n")[0]
        raise InputError(f"--where: {cause}. Columns: {', '.join(table.columns)}") from error


def counts_by(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return how many rows each value of a column has, most first. Raises InputError where it is no column."""
    if column not in table.columns:
        raise InputError(f"--by {column}: no such column. Columns: {', '.join(table.columns)}")
    if table.schema[column].is_nested():
        raise InputError(f"--by {column}: the column holds {table.schema[column]}; choose one of single values")
    return table.group_by(column).len("rows").sort(["rows", column], descending=[True, False])


def show_cards(rows: pl.DataFrame, console: Console) -> None:
    """Print each row as a card; what is empty is left out."""
    for number, row in enumerate(rows.iter_rows(named=True), start=1):
        body = Table.grid(padding=(0, 2))
        for name, value in row.items():
            for label, line in _lines(name, value):
                body.add_row(Text(label, style="dim"), Text(plain(line), overflow="fold"))
        title = Text(f"{number} · {next(iter(row.values()))}")
        console.print(Panel(body, title=title, title_align="left", width=min(CARD_WIDTH, console.width)))


def show_counts(counts: pl.DataFrame, console: Console) -> None:
    """Print a table of figures."""
    table = Table(box=None, pad_edge=False)
    for name, dtype in counts.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", header_style="dim")
    for row in counts.iter_rows():
        table.add_row(*(Text(plain("" if value is None else str(value))) for value in row))
    console.print(table)


def plain(text: str) -> str:
    """Return a text whose invisible characters are written out: texts of others must not steer the terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )


def _lines(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield what a card shows of a value, as (label, text): lists of records one record a line."""
    if value in (None, "", [], {}):
        return
    if isinstance(value, list) and isinstance(value[0], dict):
        for item in value:
            yield name, " → ".join(str(part) for part in item.values())
            name = ""
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    elif isinstance(value, dict):
        for part, content in value.items():
            yield from _lines(f"{name}.{part}", content)
    elif name == "schema":
        yield name, ", ".join(json.loads(value)["properties"])
    else:
        yield name, f"{value:.3f}" if isinstance(value, float) else str(value)
