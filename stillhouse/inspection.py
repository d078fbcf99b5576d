"""A look into the tables of a run: rows as readable cards, page by page, or counts by a column."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click
import polars as pl
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stillhouse.errors import InputError

CARD_WIDTH = 110
CARDS_SHOWN = 10  # where nobody pages
# Quit where all fits on the screen, let colours pass (and no other escape), and say which keys there are.
LESS = "-F -R -PsSPACE on, b back, /word search, n next, q leave$"

_QUOTED = re.compile("'(?:[^']|'')*'")
_QUERY = re.compile(r"\b(select|table|values|read_\w+)\b", re.IGNORECASE)


def choose(table: pl.DataFrame, where: str | None) -> pl.DataFrame:
    """Return the rows for which a condition in SQL holds.

    Raises InputError where it is none, or would look at anything but the columns: SQL can read files.
    """
    if where is None:
        return table
    query = _QUERY.search(_QUOTED.sub("''", where))
    if query:
        raise InputError(f"--where: {query[0]} is not possible; a condition is about the columns of this table only")
    try:
        return table.filter(pl.sql_expr(where))
    except (pl.exceptions.PolarsError, OSError) as error:
        cause = str(error).partition("\n")[0]
        raise InputError(f"--where: {cause}. Columns: {', '.join(table.columns)}") from error


def with_id(table: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return the rows of which a key or another id is `key`."""
    names = [name for name in table.columns if name == "key" or name.endswith("_id")]
    return table.filter(pl.any_horizontal(pl.col(name) == key for name in names)) if names else table.clear()


def counts_by(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return how many rows each value of a column has, most first. Raises InputError where it is no column."""
    if column not in table.columns:
        raise InputError(f"--by {column}: no such column. Columns: {', '.join(table.columns)}")
    if table.schema[column].is_nested():
        raise InputError(f"--by {column}: the column holds {table.schema[column]}; choose one of single values")
    return table.group_by(column).len("rows").sort(["rows", column], descending=[True, False])


def has_pager(console: Console) -> bool:
    """Say whether a person sits there who can page."""
    is_terminal = sys.stdin.isatty() and console.file.isatty() and not console.is_dumb_terminal
    return is_terminal and bool(os.environ.get("PAGER") or shutil.which("less"))


def page(parts: Iterable[RenderableType], console: Console) -> None:
    """Show parts one below the other, through a pager where there is one: it asks for them as the person goes on."""
    if not has_pager(console):
        for part in parts:
            console.print(part)
        return
    os.environ.setdefault("LESS", LESS)
    click.echo_via_pager(_rendered(part, console) for part in parts)


def _rendered(part: RenderableType, console: Console) -> str:
    with console.capture() as capture:
        console.print(part)
    return capture.get()


def cards(rows: pl.DataFrame, console: Console) -> Iterator[Panel]:
    """Yield each row as a card; what is empty is left out."""
    for number, row in enumerate(rows.iter_rows(named=True), start=1):
        place = f"{number:,}/{len(rows):,}"
        yield card(f"{place} · {next(iter(row.values()))}", row, console)


def card(title: str, values: dict[str, Any], console: Console) -> Panel:
    """Return a card of names and values; what is empty is left out."""
    body = Table.grid(padding=(0, 2))
    for name, value in values.items():
        for label, line in _lines(name, value):
            body.add_row(Text(plain(label), style="dim"), Text(plain(line), overflow="fold"))
    return Panel(body, title=Text(plain(title)), title_align="left", width=min(CARD_WIDTH, console.width))


def counts_table(counts: pl.DataFrame) -> Table:
    """Return a table of figures."""
    table = Table(box=None, pad_edge=False)
    for name, dtype in counts.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", header_style="dim")
    for row in counts.iter_rows():
        table.add_row(*(Text(plain("" if value is None else str(value))) for value in row))
    return table


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
            yield name, " → ".join(str(part) for part in item.values() if part is not None)
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
