"""Arguments of the commands that show a run: inspect, diff, report; and of doctor."""

from pathlib import Path
from typing import Annotated

import typer

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, for example runs/demo.", show_default=False)]


def inspect(
    run_folder: RunPath,
    table: Annotated[
        str, typer.Argument(help="Table of the run, `coverage`, `failures` or `reviews`.")
    ] = "instructions",
    where: Annotated[str | None, typer.Option(help="Only rows for which this condition in SQL holds.")] = None,
    by: Annotated[str | None, typer.Option(help="Count the rows by this column instead.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows shown; 10 cards unless given, or all as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON, one a line.")] = False,
) -> None:
    """Show rows of a run's tables as readable cards, or counts by a column, for example of reasons."""
    from stillhouse.viewing import inspect_run

    inspect_run(run_folder, table, where, by, limit, as_json)


def report(
    run_folder: RunPath,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Compare with this run, or with a cut: RUN/cuts/NAME.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the report; RUN/report unless given.")
    ] = None,
) -> None:
    """Write one HTML page about a run, to read, search and pass on; it needs no network."""
    from stillhouse.reporting import report_run

    report_run(run_folder, against, to)
