"""Looking into a run: its tables in the terminal."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from rich.console import Console

from stillhouse.errors import InputError
from stillhouse.inspection import CARDS_SHOWN, choose, counts_by, show_cards, show_counts
from stillhouse.job import coverage_of, opened
from stillhouse.schemas import FAILURES, TABLES
from stillhouse.store import RunFolder


def inspect_run(
    path: Path, table: str, where: str | None, by: str | None, limit: int | None, as_json: bool = False
) -> None:
    """Print rows of a table (or of the coverage matrix) as cards, or counts by a column."""
    folder = opened(path)
    chosen = choose(_table_named(folder, table), where)
    as_cards = not (as_json or by or table == "coverage")
    most = limit or (CARDS_SHOWN if as_cards else len(chosen))
    shown = (counts_by(chosen, by) if by else chosen).head(most)
    console = Console()
    if as_json:
        sys.stdout.write(shown.write_ndjson())
    elif not as_cards:
        show_counts(shown, console)
    else:
        show_cards(shown, console)
        console.print(f"{len(shown)} of {len(chosen):,} rows of {table}" + (f" where {where}" if where else ""))


def _table_named(folder: RunFolder, table: str) -> pl.DataFrame:
    if table == "coverage":
        found, _ = coverage_of(folder)
        if found is None:
            raise InputError(f"{folder.path} has no responses yet, so nothing is covered; `stillhouse run` makes them")
        return found
    if table == "failures":
        return failures_of(folder)
    if table == "reviews":
        from curation.audit.rounds import Rounds

        return Rounds(folder.review_path).reviews()
    if table not in TABLES:
        raise InputError(f"no table is called {table}; tables: {', '.join(TABLES)}, coverage, failures, reviews")
    return folder.read_table(table)


def failures_of(folder: RunFolder) -> pl.DataFrame:
    """Return the teacher calls that failed, with their causes."""
    from pipelines.journal import Journal

    if not folder.journal_path.exists():
        return pl.DataFrame(schema=FAILURES)
    with Journal(folder.journal_path) as journal:
        rows = [
            (stage, call_id, cause, datetime.fromtimestamp(moment, UTC), later)
            for stage, call_id, cause, moment, later in journal.failures()
        ]
    return pl.DataFrame(rows, schema=FAILURES, orient="row")
