"""Arguments of the commands that show a run: inspect, diff and report; and how any command is told a run."""

from pathlib import Path
from typing import Annotated, Any

import click
import typer

from stillhouse import completion
from stillhouse.errors import InputError
from stillhouse.remote import is_url, local_path


def run_place(given: str) -> Path:
    """Return the folder of a run that is named by its folder or its URL."""
    context = click.get_current_context(silent=True)
    if context and context.resilient_parsing:  # the shell only wants to complete
        return Path(given)
    return local_path(given)


def plain_place(given: str) -> Path:
    """Return a path of this machine. Raises InputError for a URL, which would become a folder of that name."""
    if is_url(given):
        raise InputError(f"{given}: only runs are kept in a storage; give a file or folder of this machine")
    return Path(given)


RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        parser=run_place,
        help="Run folder, for example runs/demo, or URL, for example s3://bucket/demo.",
        show_default=False,
        autocompletion=completion.run_folders,
    ),
]
OutPath = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN", parser=run_place, help="Run folder or URL; runs/NAME unless given.", show_default=False
    ),
]


def _side(metavar: str) -> Any:
    """Return the argument of one side of a comparison."""
    return typer.Argument(
        metavar=metavar,
        parser=run_place,
        help="Run folder, or a cut of one: RUN/cuts/NAME.",
        show_default=False,
        autocompletion=completion.run_folders,
    )


def inspect(
    run_folder: RunPath,
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE",
            help="Table of the run, `coverage`, `failures` or `reviews`; `instructions` unless given.",
            show_default=False,
            autocompletion=completion.tables,
        ),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Only rows for which this condition in SQL holds.")] = None,
    by: Annotated[str | None, typer.Option(help="Count the rows by this column instead.")] = None,
    random: Annotated[int | None, typer.Option(min=1, metavar="N", help="N rows by lot.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Draw the same rows again.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--id", help="Lineage of this sample (4 characters of its id may do); with a table, its rows with this id."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows shown; all unless given, but 10 cards where nobody can page.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=plain_place, help="Write the rows into a new .jsonl, .csv or .parquet file."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON, one a line.")] = False,
) -> None:
    """Show rows of a run's tables as readable cards, counts by a column, or how one sample came to be."""
    from stillhouse.viewing import Look, inspect_run

    inspect_run(run_folder, table, Look(where, by, random, seed, key, limit, to, as_json))


def diff(
    before: Annotated[Path, _side("RUN_A")],
    after: Annotated[Path, _side("RUN_B")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what differs as JSON.")] = False,
) -> None:
    """Show what differs between two runs, or cuts: settings, rows kept, scores, answers, cost."""
    from stillhouse.viewing import diff_runs

    diff_runs(before, after, as_json)


def report(
    run_folder: RunPath,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            parser=run_place,
            help="Compare with this run, or with a cut: RUN/cuts/NAME.",
            autocompletion=completion.run_folders,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=plain_place, help="Folder of the report; RUN/report unless given."),
    ] = None,
) -> None:
    """Write one HTML page about a run, to read, search and pass on; it needs no network."""
    from stillhouse.reporting import report_run

    report_run(run_folder, against, to)
