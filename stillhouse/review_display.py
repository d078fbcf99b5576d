"""What a person sees of an audit in the terminal: the plan of a round, and what the verdicts say."""

from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.display import figures_table
from stillhouse.inspection import plain
from stillhouse.sections import Review

if TYPE_CHECKING:
    from curation.audit.plan import Plan

COLOURS = {"accepted": "green", "rejected": "red", "undecided": "yellow", "not audited": "yellow"}


def show_plan(console: Console, plan: "Plan", settings: Review, number: int) -> None:
    """Show the strata of a round, and what the round can tell."""
    from curation.audit.plan import KEPT, SECONDS_A_RECORD
    from curation.audit.strata import BANDS_OF_THREE

    strata = plan.strata()
    cells: dict[str, dict[str, str]] = {}
    for population, stratum, rows, records in strata.iter_rows():
        name, _, band = stratum.rpartition(" | ") if stratum.count(" | ") > 1 else (stratum, "", "records of rows")
        name = plain(name) if population == KEPT else f"dropped by {plain(name)}"
        cells.setdefault(name, {})[band] = f"{records:,} of {rows:,}"
    named = {band for row in cells.values() for band in row}
    bands = sorted(named, key=lambda band: (BANDS_OF_THREE.index(band) if band in BANDS_OF_THREE else 9, band))
    table = figures_table(f"Round {number}: the sample", "stratum", *bands)
    for name, row in cells.items():
        table.add_row(name, *(row.get(band, "") for band in bands))
    console.print("", table, "", f"{plan.records:,} records of {strata['rows'].sum():,} rows.", highlight=False)
    kept = strata.filter(pl.col("population") == KEPT)
    whole = kept["rows"].sum() == kept["records"].sum()
    told = "Every kept row is asked about, so their error rate will be known."
    if not whole:
        size = int(plan.effective)
        told = f"The sample tells as much as a simple one of {size:,}: {_chances(size, settings)}"
    answers = int(plan.frame["answers"].sum())
    console.print(
        f"Kept rows are accepted where the {settings.confidence:.0%} interval of their error rate is not above "
        f"{settings.bar:.1%}. {told}\n"
        f"{answers:,} answers in all, about {answers * SECONDS_A_RECORD / 3600:.1f} hours at {SECONDS_A_RECORD} s each."
        "\n"
    )


def _chances(size: int, settings: Review) -> str:
    from curation.audit.plan import chance_of_passing, most_wrong

    wrong = most_wrong(size, settings)
    if wrong < 0:
        return "too few to be accepted even with none wrong; raise --records."
    likely, unlikely = (chance_of_passing(size, settings, rate) for rate in (settings.expected, settings.bar))
    return (
        f"accepted with {wrong} wrong or fewer, {likely:.0%} likely at {settings.expected:.1%} errors, "
        f"{unlikely:.1%} at {settings.bar:.1%}."
    )


def show_findings(console: Console, findings: dict[str, Any]) -> None:
    """Show the decision, the error rate per stratum, what was thrown away wrongly, and agreement."""
    console.print(
        f"\n{findings['answered']:,} of {findings['records']:,} records answered, {findings['annotators']} annotators; "
        f"{findings['unclear']} unclear, {findings['conflict']} tied, {findings['waiting']:,} still wait"
    )
    if findings["not_counted"]:
        console.print(
            Text(f"{findings['not_counted']} answers have values that are none (inspect RUN reviews)", "yellow")
        )
    if findings["answered"]:
        console.print("", _strata_table(findings), "")
    for title, table in (("dropped", _dropped_table(findings)), ("agreement", _agreement_table(findings))):
        if findings[title]:
            console.print(table, "")
    for entry in findings["failing"]:
        told = f"{entry['wrong']} of {entry['settled']} wrong in {entry['stratum']}, {entry['rows']:,} rows"
        console.print(Text(f"fails: instruction {entry['instruction_id']}: {plain(told)}", style="red"))
    decision = findings["decision"]
    console.print(Text.assemble((decision, f"bold {COLOURS[decision]}"), f": {findings['why']}"))


def _strata_table(findings: dict[str, Any]) -> Table:
    table = figures_table("Error rate of kept rows", "stratum", "rows", "judged", "wrong", "rate", "interval")
    shown = [row for row in findings["strata"] if row["wrong"]]
    rest = [row for row in findings["strata"] if row["settled"] and not row["wrong"]]
    unknown = [row for row in findings["strata"] if not row["settled"]]
    for rows, title in ((rest, "strata without a wrong answer"), (unknown, "strata without a verdict")):
        if rows:
            table.add_row(
                f"{len(rows)} {title}", *(f"{sum(row[key] for row in rows):,}" for key in ("rows", "settled"))
            )
    for row in [*shown, {"stratum": "all", **findings["error_rate"]}]:
        figures = (f"{row['rows']:,}", f"{row['settled']:,}", f"{row['wrong']:,}", *_bounds(row))
        table.add_row(plain(row["stratum"]), *figures, style="bold" if row["stratum"] == "all" else "")
    return table


def _dropped_table(findings: dict[str, Any]) -> Table:
    table = figures_table(
        "Of what the filters dropped, people find correct", "filter", "rows", "judged", "correct", "rate", "interval"
    )
    for row in findings["dropped"]:
        figures = (f"{row['rows']:,}", f"{row['settled']:,}", f"{row['correct']:,}", *_bounds(row))
        table.add_row(row["filter"], *figures)
    return table


def _agreement_table(findings: dict[str, Any]) -> Table:
    table = figures_table("Agreement of annotators", "question", "records", "same answer", "Krippendorff's alpha")
    for row in findings["agreement"]:
        if row["stratum"] is None:
            alpha = "–" if row["alpha"] is None else f"{row['alpha']:.2f}"
            table.add_row(row["question"], f"{row['records']:,}", f"{row['percentage']:.0%}", alpha)
    return table


def _bounds(row: dict[str, Any]) -> tuple[str, str]:
    rate = "–" if row["rate"] is None else f"{row['rate']:.1%}"
    return rate, f"{row['low']:.1%} – {row['high']:.1%}"
