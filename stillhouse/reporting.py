"""The report of a run: what its parts know is brought together, and written as one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console

from stillhouse.comparison import Side, compare, side_of
from stillhouse.display import Display
from stillhouse.errors import InputError
from stillhouse.job import coverage_of, funnel_of, opened
from stillhouse.recipe import load_recipe
from stillhouse.store import RunFolder

if TYPE_CHECKING:
    from reports.content import Content

CALLS = pl.Schema(
    {"stage": pl.String, "answers": pl.Int64, "cut_off": pl.Int64, "prompt_tokens": pl.Int64,
     "output_tokens": pl.Int64, "median": pl.Float64, "most": pl.Float64}
)  # fmt: skip
CAUSES = pl.Schema({"stage": pl.String, "cause": pl.String, "times": pl.Int64, "answered_later": pl.Int64})
CAUSES_SHOWN, CAUSE_LENGTH = 30, 300


def report_run(path: Path, against: Path | None = None, to: Path | None = None) -> Path:
    """Write the report of a run, compared with another run or cut where one is given; return the page.

    It is written into `to`, or RUN/report, and takes the place of an earlier report there. Raises InputError where
    the folder holds anything else.
    """
    from reports.report import write_report

    folder = opened(path)
    target = to or folder.path / "report"
    check_target(target)
    page = write_report(content_of(folder, against), target)
    folder.keep(target)
    size = page.stat().st_size / 1e6
    console = Console()
    console.print(f"report written: {page} ({size:.1f} MB), its pictures as PNG and SVG beside it", soft_wrap=True)
    Display(console).next_command(f"open {page} in a browser; it needs no network")
    return page


def check_target(target: Path) -> None:
    """Raise InputError where a folder is not one that a report may be written into."""
    from reports.report import PAGE

    if target.is_file() or (target.exists() and any(target.iterdir()) and not (target / PAGE).exists()):
        raise InputError(f"{target} exists already and is no report; give a new folder with --to")


def content_of(folder: RunFolder, against: Path | None = None) -> "Content":
    """Read a run for its report."""
    from hub_cards.facts import published_recipe
    from reports.content import Content

    recipe, manifest = load_recipe(folder.recipe_path), folder.manifest()
    done = manifest["stages"]
    coverage, unmet = coverage_of(folder)
    calls, failures = _journal_of(folder)
    tables = {name: folder.read_table(name) for name in folder.made()}
    return Content(
        name=recipe.name,
        tables=_as_they_may_leave(tables),
        manifest=manifest,
        recipe=published_recipe(recipe.model_dump(mode="json")),
        funnel=funnel_of(folder),
        calls=calls,
        failures=failures,
        coverage=coverage,
        unmet_quotas=tuple(unmet),
        findings=folder.findings() if "audit" in done else None,
        gates=folder.found_by_gates() if "gates" in done else None,
        comparison=_comparison(folder, against) if against else None,
    )


def _as_they_may_leave(tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Return the tables without what people rejected and what the gates hold back, as far as those are done."""
    from hub_cards.gates import gated
    from hub_cards.rows import audited, lazy

    left = lazy(tables)
    if "audit" in left:
        left = audited(left)
    if "gates" in left:
        left = gated(left, left["gates"])
    return {name: table.collect() for name, table in left.items()}


def _journal_of(folder: RunFolder) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what the journal says of the calls of each stage, and of those that failed, by cause."""
    from pipelines.journal import Journal

    if not folder.has_journal:
        return CALLS.to_frame(), CAUSES.to_frame()
    with Journal(folder.journal_path) as journal:
        calls = pl.DataFrame(journal.stages(), schema=CALLS, orient="row")
        rows = [(stage, cause[:CAUSE_LENGTH], later) for stage, _, cause, _, later in journal.failures()]
    failures = pl.DataFrame(rows, schema=["stage", "cause", "later"], orient="row")
    counted = failures.group_by("stage", "cause").agg(times=pl.len(), answered_later=pl.col("later").sum())
    return calls, counted.cast(CAUSES).sort(["times", "cause"], descending=[True, False]).head(CAUSES_SHOWN)


def _comparison(folder: RunFolder, against: Path) -> dict[str, Any]:
    """Return what differs from another run or cut, without the words of samples that gates hold back."""
    sides = side_of(against), side_of(folder.path)
    found, shown = compare(*sides), _shown(*sides)
    found["moved"] = [row for row in found["moved"] if row["sample_id"] in shown]
    return found


def _shown(other: Side, own: Side) -> set[str]:
    """Return the samples that gates have looked at and let pass; all, where those of the run itself have not.

    The page then says that nothing was looked for.
    """
    held_back = {key for side in (other, own) if "gates" in side.tables for key in side.tables["gates"]["key"]}
    looked_at = [side.tables for side in (other, own) if "gates" in side.tables or "gates" not in own.tables]
    return {
        key for tables in looked_at if "responses" in tables for key in tables["responses"]["sample_id"]
    } - held_back
