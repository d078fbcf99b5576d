"""Looking into a run: its tables in the terminal or a file, one sample's lineage, what differs from another run."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from rich.console import Console, RenderableType
from rich.text import Text

from stillhouse.comparison import compare, is_same, side_of
from stillhouse.display import print_json
from stillhouse.errors import InputError
from stillhouse.exporting import check_target, write_rows
from stillhouse.inspection import CARDS_SHOWN, cards, choose, counts_by, counts_table, has_pager, page, plain, with_id
from stillhouse.job import coverage_of, opened
from stillhouse.lineage import Beside, Step, as_json, lineage_of
from stillhouse.recipe import load_recipe
from stillhouse.schemas import FAILURES, TABLES
from stillhouse.store import RunFolder
from stillhouse.viewing_display import difference_parts, lineage_cards

DEFAULT_TABLE = "instructions"
KEYS = {"texts": "text_id", "perspectives": "perspective_id", "instructions": "instruction_id"}
PREFIX = 4  # characters of a sample id, at least
LISTED = 5  # sample ids, where several begin alike


@dataclass(frozen=True)
class Look:
    """Which rows are looked at, and where they go."""

    where: str | None = None
    by: str | None = None
    random: int | None = None
    seed: int | None = None
    key: str | None = None
    limit: int | None = None
    to: Path | None = None
    as_json: bool = False


def inspect_run(path: Path, table: str | None, look: Look) -> None:
    """Show rows of a table (or of the coverage matrix), counts by a column, or the lineage of a sample.

    Raises InputError where the options do not go together, or nothing has the id.
    """
    _refuse_contradictions(look)
    folder = opened(path)
    if look.key is not None and table is None:
        found = sample_with(folder, look.key)
        if found:
            _refuse_rows_of_one(look)
            show_lineage(folder, found, look.as_json)
            return
        table = _table_with(folder, look.key)
    table = table or DEFAULT_TABLE
    rows = _chosen(_table_named(folder, table), table, look)
    _show(counts_by(rows, look.by) if look.by else rows, table, look)


def _refuse_contradictions(look: Look) -> None:
    faults = {
        "--seed goes with --random only": look.seed is not None and look.random is None,
        "--random says how many rows; leave out --limit": look.random and look.limit,
        "--by counts all rows; leave out --random": look.by and look.random,
        "--id names the rows; leave out --random": look.key is not None and look.random,
        "--to writes a file and --json prints; give one of them": look.to and look.as_json,
    }
    for fault, is_there in faults.items():
        if is_there:
            raise InputError(fault)
    if look.to:
        check_target(look.to)


def _refuse_rows_of_one(look: Look) -> None:
    if look.where or look.by or look.limit or look.to:
        raise InputError(
            "--id of a sample shows its lineage, with --json as one object; --where, --by, --limit and --to "
            "are for rows of a table: name one, for example `stillhouse inspect RUN responses --id ID`"
        )


def _chosen(rows: pl.DataFrame, table: str, look: Look) -> pl.DataFrame:
    chosen = choose(rows, look.where)
    if look.key is not None:
        chosen = with_id(chosen, look.key)
        if chosen.is_empty():
            raise InputError(f"--id {look.key}: no row of {table} has this id; without a table, all are looked through")
    return chosen.sample(min(look.random, len(chosen)), seed=look.seed) if look.random else chosen


def _show(rows: pl.DataFrame, table: str, look: Look) -> None:
    console = Console()
    as_cards = not (look.as_json or look.to or look.by or table == "coverage")
    is_short = as_cards and not (look.random or has_pager(console))
    shown = rows.head(look.limit or (CARDS_SHOWN if is_short else len(rows)))
    if look.to:
        write_rows(look.to, shown)
        console.print(Text(f"{len(shown):,} rows written to {look.to}"), soft_wrap=True)
    elif look.as_json:
        sys.stdout.write(shown.write_ndjson())
    elif as_cards:
        page(_cards_and_total(shown, len(rows), table, look, console), console)
    else:
        page([counts_table(shown)], console)


def _cards_and_total(
    shown: pl.DataFrame, found: int, table: str, look: Look, console: Console
) -> Iterator[RenderableType]:
    yield from cards(shown, console)
    told = f" where {look.where}" if look.where else ""
    yield Text(plain(f"{len(shown):,} of {found:,} rows of {table}{told}"))


def sample_with(folder: RunFolder, key: str) -> str | None:
    """Return the sample that has an id, or whose id alone begins with it. Raises InputError where several do."""
    if "responses" not in folder.made():
        return None
    ids = folder.scan_table("responses").select("sample_id")
    found = ids.filter(pl.col("sample_id").str.starts_with(key)).collect()["sample_id"].sort().to_list()
    if key in found:
        return key
    if not found or _table_with_key(folder, key):
        return None
    if len(key) < PREFIX:
        raise InputError(f"--id {key}: give at least {PREFIX} characters of a sample id")
    if len(found) > 1:
        listed = ", ".join(found[:LISTED]) + (" …" if len(found) > LISTED else "")
        raise InputError(f"--id {key}: {len(found):,} samples begin like this: {listed}; give more of it")
    return str(found[0])


def _table_with_key(folder: RunFolder, key: str) -> str | None:
    """Return the table that has a key, of those whose rows samples are made of."""
    for table, column in KEYS.items():
        if table in folder.made():
            rows = folder.scan_table(table).filter(pl.col(column) == key)
            if rows.select(pl.len()).collect().item():
                return table
    return None


def _table_with(folder: RunFolder, key: str) -> str:
    found = _table_with_key(folder, key)
    if found is None:
        raise InputError(
            f"--id {key}: no sample, text, instruction or perspective of {folder.path} has this id; "
            f"`stillhouse inspect {folder.path} responses` shows samples with theirs"
        )
    return found


def lineage_in(folder: RunFolder, sample_id: str) -> list[Step]:
    """Return how a sample came to be, step by step, from the tables and the journal of its run."""
    from curation.audit.rounds import Rounds
    from pipelines.traces import opened_traces

    tables = {name: folder.scan_table(name) for name in folder.made()}
    imported = load_recipe(folder.recipe_path).imported is not None
    with ExitStack() as stack:
        known = folder.has_journal
        trace = stack.enter_context(opened_traces(folder.journal_path)).of if known else Beside.trace
        beside = Beside(trace, Rounds(folder.review_path).reviews(), _places(folder), imported)
        return lineage_of(tables, sample_id, beside)


def show_lineage(folder: RunFolder, sample_id: str, as_one_object: bool = False) -> None:
    """Show how a sample came to be, a card per step, or print it as one JSON object."""
    steps = lineage_in(folder, sample_id)
    if as_one_object:
        print_json({"sample_id": sample_id, **as_json(steps)})
        return
    console = Console()
    page(lineage_cards(sample_id, steps, console), console)


def _places(folder: RunFolder) -> dict[str, pl.LazyFrame] | None:
    """Return the rows of each config and split of the dataset; None where it is not made."""
    if "dataset" not in folder.manifest()["stages"]:
        return None
    files: dict[str, list[Path]] = {}
    for config in ("default", "rejected"):
        for file in sorted((folder.dataset_path / config).glob("*.parquet")):
            files.setdefault(f"{config}/{file.name.partition('-')[0]}", []).append(file)
    return {name: pl.scan_parquet(some, glob=False) for name, some in files.items()}


def diff_runs(before: Path, after: Path, as_figures: bool = False) -> None:
    """Show what differs between two runs, or cuts of runs."""
    sides = [side_of(path) for path in (before, after)]
    if sides[0].name == sides[1].name:
        sides = [replace(side, name=str(path)) for side, path in zip(sides, (before, after), strict=True)]
    difference = compare(*sides)
    if as_figures:
        print_json(difference)
        return
    console = Console()
    if is_same(difference):
        told = f"{sides[0].name} and {sides[1].name} are the same: settings, rows, scores and decisions."
        console.print(Text(plain(told)), soft_wrap=True)
        return
    page(difference_parts(difference), console)


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

    if not folder.has_journal:
        return pl.DataFrame(schema=FAILURES)
    with Journal(folder.journal_path) as journal:
        rows = [
            (stage, call_id, cause, datetime.fromtimestamp(moment, UTC), later)
            for stage, call_id, cause, moment, later in journal.failures()
        ]
    return pl.DataFrame(rows, schema=FAILURES, orient="row")
