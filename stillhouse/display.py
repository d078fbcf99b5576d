"""What a person sees in the terminal: header, live progress, closing summary."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import polars as pl
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from stillhouse.coverage import STEPS
from stillhouse.inspection import plain
from stillhouse.progress import BREAKER, Counts, Tally
from stillhouse.recipe import Recipe
from stillhouse.sections import Price

if TYPE_CHECKING:
    from hub_cards.folders import Change, Published
    from training.sft import TrainReport

PROMPT_SHOWN = 700  # characters of a sample's prompt
SHORT_TYPES = {"classification": "classify", "extraction": "extract", "structured": "record"}  # 80 columns are few
PERSPECTIVES_SHOWN = 24  # in the coverage table
PLAIN_SECONDS = 10  # between two progress lines where there is no terminal


class _Bars(Bars):
    """Progress bars with a line of details below."""

    detail = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bars, then the details."""
        yield from super().get_renderables()
        if self.detail:
            yield Text(f"  {self.detail}", style="dim")


class Display:
    """Shows a run: bars in a terminal, plain lines elsewhere. Implements `stillhouse.progress.Progress`."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        self.console = console
        self._bars = _Bars(
            TextColumn("{task.description:13}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._stage, self._unit, self._total, self._started, self._said = "", "", 0, 0.0, 0.0

    def __enter__(self) -> Self:
        """Start the live display."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the live display."""
        self._bars.stop()

    def header(self, recipe: Recipe, origin: str, run: str) -> None:
        """Show what will be done, where, and with which models."""
        encoder = recipe.curation.encoder if recipe.imported else recipe.perspectives.encoder
        rows = {
            "data" if recipe.imported else "recipe": f"{origin} (seed {recipe.seed})",
            "run folder": run,
            **({} if recipe.imported else dict(_teacher_rows(recipe))),
            "student": " by proxy ".join(filter(None, (recipe.curation.student, recipe.curation.proxy))),
            "encoder": encoder if isinstance(encoder, str) else ", ".join(encoder),
        }
        self.panel(f"stillhouse {'curate' if recipe.imported else 'run'}: {recipe.name}", rows)

    def panel(self, title: str, rows: Mapping[str, str]) -> None:
        """Show what a command is about to do."""
        grid = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            grid.add_row(Text(name, style="bold"), Text(plain(value), overflow="fold"))
        self.console.print(Panel(grid, title=plain(title), title_align="left"))

    def start(self, stage: str, total: int, unit: str = "rows") -> None:
        """Begin a count of `total` rows, or of another unit."""
        self._clear()
        self._stage, self._total, self._unit = stage, total, unit
        self._started = self._said = time.monotonic()
        self._task = self._bars.add_task(stage, total=total)

    def update(self, done: int, tokens: int = 0, told: str = "") -> None:
        """Move the bar of a local model."""
        speed = [f"{tokens / self._seconds:,.0f} tokens/s"] if tokens else []
        self._show(done, done, [*([told] if told else []), *speed])

    def tally(self, tally: Tally) -> None:
        """Move the bar of a teacher stage and say how its rows fare."""
        fresh = max(0, tally.done - tally.journal)
        told = [f"{tally.ok:,} ok", f"{tally.invalid:,} invalid", f"{tally.failed:,} failed"]
        told += [f"{tally.journal:,} from journal"] if tally.journal else []
        told += [f"{fresh / self._seconds:,.1f} rows/s"]
        told += [f"{(tally.prompt_tokens + tally.output_tokens) / self._seconds:,.0f} tokens/s"]
        told += [f"{tally.in_flight:,} in flight"]
        told += [f"{tally.cost:,.2f} {tally.currency}"] if tally.cost is not None else []
        self._show(tally.done, fresh, told)

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-3)

    def _show(self, done: int, fresh: int, told: list[str]) -> None:
        """Move the bar, or print a line now and then; `fresh` rows were done in this run."""
        detail = " · ".join(told)
        if self._task is not None:
            self._bars.update(self._task, completed=done)
            self._bars.detail = detail
        if not self.console.is_terminal and time.monotonic() - self._said >= PLAIN_SECONDS and done < self._total:
            self._said = time.monotonic()
            left = f", {self._seconds / fresh * (self._total - done):.0f} s left" if fresh else ""
            self.console.print(f"  {self._stage}: {done}/{self._total} {self._unit}, {detail}{left}", highlight=False)

    def finish(self, stage: str, counts: Counts, seconds: float) -> None:
        """Leave one line per finished stage."""
        self._clear()
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=14)
        line.add_column(width=9, justify="right")
        line.add_row(Text.assemble(("✓ ", "green"), stage), f"{seconds:.1f} s", Text(told, style="dim"))
        self.console.print(line)

    def skip(self, stage: str) -> None:
        """Say that a stage was done before."""
        self.console.print(Text.assemble(("· ", "dim"), f"{stage:13}", ("          done before", "dim")))

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.console.print(Text.assemble(("! ", "yellow"), message))

    def summary(self, funnel: dict[str, int], manifest: dict[str, Any], samples: list[dict[str, Any]]) -> None:
        """Show the funnel, time and tokens per stage, and sample rows."""
        self.console.print("", _funnel_table(funnel), "", _cost_table(manifest), "")
        for row in samples:
            self.console.print(_sample_panel(row))

    def plan(self, report: dict[str, Any], total: dict[str, Any], price: Price | None) -> None:
        """Show calls, tokens, money and time per stage, and what the plan takes for granted."""
        table = Table(box=None, pad_edge=False)
        money = [f"cost, {price.currency}"] if price else []
        for name in ("stage", "", "calls", "prompt tokens", "output tokens", *money, "time"):
            table.add_column(name, justify="left" if name in ("stage", "") else "right", header_style="dim")
        for name, entry in [*report["stages"].items(), ("total", total)]:
            state = {True: "done", False: "planned"}.get(entry.get("done", ""), "")
            cost = [f"{entry['cost']:,.2f}"] if price else []
            seconds = "" if entry["seconds"] is None else str(timedelta(seconds=round(entry["seconds"])))
            figures = (f"{entry[key]:,}" for key in ("calls", "prompt_tokens", "output_tokens"))
            table.add_row(name, state, *figures, *cost, seconds, style="bold" if name == "total" else "")
        self.console.print(table, "", f"texts {report['texts']:,}; disk about {report['disk'] / 1e6:,.0f} MB")
        for sentence in report["assumptions"]:
            self.console.print(Text(f"  assumed: {sentence}", style="dim"))
        if total["seconds"] is None:
            self.console.print(Text("  time: unknown; --probe 16 asks 16 real calls, which the run will use", "dim"))
        self.console.print()

    def coverage(self, found: pl.DataFrame, unmet: list[dict[str, Any]]) -> None:
        """Show perspective x task type, kept of paired samples, then the domains and the quotas not met."""
        last = "kept" if "kept" in found.columns else "valid"
        self.console.print(_coverage_table(found, last), "", _domain_table(found), "")
        for quota in unmet:
            cell = ", ".join(str(value) for name, value in quota.items() if name not in ("minimum", "kept"))
            self.console.print(
                Text(f"quota not met: {quota['kept']} of {quota['minimum']} kept in {cell}", style="yellow")
            )

    def scores(self, report: dict[str, Any]) -> None:
        """Show the quartiles of each score, and why some rows have none."""
        table = figures_table("Scores", "", "least", "25 %", "median", "75 %", "most")
        for name, figures in report["quartiles"].items():
            table.add_row(name, *("–" if figure is None else f"{figure:,.3g}" for figure in figures))
        self.console.print("", table, "")
        for reason, count in report["unscored"].items():
            self.warn(f"{count:,} not scored: {reason}")
        self.console.print(f"{report['scored']:,} of {report['rows']:,} rows scored, written to {report['out']}")

    def cuts(self, reports: list[dict[str, Any]]) -> None:
        """Show what a cut and its controls keep, by difficulty, and what changed against the cut before."""
        cut, before = reports[0], reports[0]["before"] or "nothing"
        controls = (report["name"].removeprefix(f"{cut['name']}-") for report in reports[1:])
        names = ("difficulty", "scored", before, cut["name"], *controls, "")
        table = figures_table(f"Cut {cut['name']}: kept by difficulty", *names)
        columns = zip(cut["scored"], cut["kept_before"], *(report["kept"] for report in reports), strict=True)
        most = max(*cut["kept"], 1)
        for number, counts in enumerate(columns):
            bar = Text("█" * round(20 * counts[2] / most), style="cyan")
            table.add_row(f"{number / 10:.1f}–{number / 10 + 0.1:.1f}", *(f"{count:,}" for count in counts), bar)
        told = ", ".join(f"{name} {count:,}" for name, count in cut["counts"].items())
        self.console.print(table, "", _compared_cuts(reports))
        self.console.print(f"\nOf {cut['name']}: {told}")

    def file_changes(self, changes: Sequence["Change"], card: str) -> None:
        """Show the files that publishing would change, and the card."""
        table = Table(box=None, pad_edge=False)
        for name in ("file", "bytes", ""):
            table.add_column(name, justify="right" if name == "bytes" else "left", header_style="dim")
        for change in changes:
            table.add_row(Text(plain(change.path)), f"{change.size:,}", change.kind)
        self.console.print(Text(plain(card)), soft_wrap=True)  # as it is written, to read or to copy
        self.console.print("", table, "")

    def published(self, made: "Published") -> None:
        """Say what was published, and where."""
        differing = [change for change in made.changes if change.kind != "unchanged"]
        changed = f"{len(differing):,} files changed" if differing else "nothing has changed, so nothing was sent"
        request = f", pull request {made.pull_request}" if made.pull_request else ""
        commit = f" at {made.commit[:12]}" if made.commit else ""
        told = f"{made.url}{commit}: {changed}{', private' * made.private}{request}"
        self.console.print(Text(plain(told)), soft_wrap=True)  # an address can be clicked in one piece

    def trained(self, report: "TrainReport") -> None:
        """Show what a training did."""
        table = figures_table("Loss per token", "", "before", "after")
        table.add_row("training batches", f"{report.losses[0]:.3f}", f"{report.losses[-1]:.3f}")
        if report.held_out:
            table.add_row(f"{report.tested:,} held-out rows", *(f"{report.held_out[at][1]:.3f}" for at in (0, -1)))
        self.console.print("", table, "")
        if report.too_long:
            self.warn(f"{report.too_long:,} rows are too long and were left out")
        read = f"{len(report.losses):,} steps on {report.rows:,} rows, {report.tokens:,} tokens read"
        self.console.print(f"{read}; student and card in {report.folder}", soft_wrap=True)
        self.next_command(f"stillhouse evaluate {report.folder} --data SENTIBENCH_FOLDER")

    def benchmark(self, results: dict[str, Any]) -> None:
        """Show F1 per set, with interval and seeds, and the means of the categories."""
        table = figures_table("SentiBench: F1, mean of the seeds, x 100", "set", "F1", "95 %", "rows", "no answer", "")
        for category, mean in results["categories"].items():
            for name, found in results["sets"].items():
                if found["category"] == category:
                    by_seed = " ".join(f"{100 * one['f1']:.1f}" for one in found["by_seed"].values())
                    table.add_row(
                        *_f1(f"  {name}", found), f"{found['rows']:,}", f"{found['unparseable']:.1%}", by_seed
                    )
            table.add_row(*_f1(category, mean), style="bold")
        table.add_row(*_f1(f"mean of {results['mean']['sets']} sets", results["mean"]), style="bold")
        self.console.print("", table, "")
        wording = "our own wording" if results["wording"] == "stillhouse" else f"the wording of {results['wording']}"
        shots = f"{results['shots']} shots" + (
            f", the first {results['limit']:,} rows of each" if results["limit"] else ""
        )
        self.console.print(Text(plain(f"{shots}, instructions in {wording}")))

    def shares(self, results: dict[str, Any]) -> None:
        """Show an experiment: score and cost of each cut of the pool."""
        title = f"Does filtering help? Pool of {results['pool']:,} rows, equal {results['equal']}"
        table = figures_table(title, "cut", "share", "F1", "95 %", "rows", "steps", "tokens", "seconds", "")
        for group in results["groups"]:
            _, *score = _f1("", group)
            costs = (f"{group[key]:,.0f}" for key in ("rows", "steps", "tokens", "train_seconds"))
            by_seed = " ".join(f"{100 * figure:.1f}" for figure in group["by_seed"].values())
            table.add_row(group["kind"], f"{group['rate']:g}", *score, *costs, by_seed)
        self.console.print("", table, "")

    def scored_predictions(self, figures: dict[str, Any]) -> None:
        """Show the scores of predictions that were made elsewhere."""
        table = figures_table(f"{figures['task']}, {figures['rows']:,} rows", "", "value", "95 %")
        low, high = figures["f1_interval"]
        for name in ("precision", "recall", "f1"):
            table.add_row(name, f"{figures[name]:.4f}", f"{low:.4f}–{high:.4f}" if name == "f1" else "")
        table.add_row("no answer", f"{figures['unparseable']:.1%}")
        self.console.print(table)

    def next_command(self, *commands: str) -> None:
        """Say what to type next."""
        self.console.print("Next:")
        for command in commands:
            self.console.print(Text(f"  {command}", style="bold cyan"), soft_wrap=True)

    def _clear(self) -> None:
        self._bars.detail = ""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


def print_json(figures: Any) -> None:
    """Print figures for a program to read."""
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


def figures_table(title: str, *columns: str) -> Table:
    """Return an empty table: its first column and one without a name are for words or bars, the others for figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number and name else "left", header_style="dim")
    return table


def _f1(name: str, found: dict[str, Any]) -> tuple[str, str, str]:
    value, low, high = (100 * found["f1"][key] for key in ("value", "low", "high"))
    return name, f"{value:.1f}", f"{low:.1f}–{high:.1f}"


def _teacher_rows(recipe: Recipe) -> list[tuple[str, str]]:
    alone = "in replicas on the cluster" if recipe.runtime.ray else "in this process"
    where = ", ".join(recipe.teacher.base_urls) or alone
    most = recipe.teacher.in_flight(recipe.runtime)
    caps = [
        f"{cap:,g} {recipe.teacher.price.currency if name == 'max_cost' and recipe.teacher.price else name[4:]}"
        for name in ("max_calls", "max_tokens", "max_cost")
        if (cap := getattr(recipe.runtime, name)) is not None
    ]
    return [
        ("teacher", f"{recipe.teacher.model}, {where}"),
        ("in flight", f"up to {most} requests, each retried up to {recipe.runtime.retries} times"),
        ("stops", f"where {BREAKER}, or {recipe.runtime.max_failed_share:.0%} of a stage"),
        *([("caps", ", ".join(caps))] if caps else []),
    ]


def _compared_cuts(reports: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("cut", "kept", "against", "in", "out", "Vendi score", "mean distance"):
        table.add_column(name, justify="left" if name in ("cut", "against") else "right", header_style="dim")
    for report in reports:
        spread = report["diversity"]
        figures = ("–", "–")
        if spread:
            vendi, distance = (
                f"{spread[f'{name}_before']:.3g} → {spread[f'{name}_after']:.3g}" for name in ("vendi", "distance")
            )
            figures = (vendi, distance)
        moved = (f"{report['came_in']:,}", f"{report['went_out']:,}")
        table.add_row(report["name"], f"{report['counts']['kept']:,}", report["before"] or "–", *moved, *figures)
    return table


def _funnel_table(funnel: dict[str, int]) -> Table:
    table = figures_table("Funnel", "step", "rows", "")
    widest = max([count for name, count in funnel.items() if name != "attributes"], default=1)
    for name, count in funnel.items():
        table.add_row(name, f"{count:,}", Text("█" * max(1, round(30 * min(count / max(widest, 1), 1))), style="cyan"))
    return table


def _cost_table(manifest: dict[str, Any]) -> Table:
    currencies = sorted({entry["currency"] for entry in manifest["stages"].values() if "currency" in entry})
    names = ("stage", "seconds", "calls", "prompt tokens", "output tokens", *currencies)
    table = figures_table("Time and tokens", *names)
    for stage, entry in manifest["stages"].items():
        figures = [entry.get(key, 0) for key in ("calls", "prompt_tokens", "output_tokens")]
        money = (f"{entry['cost']:,.2f}" if entry.get("currency") == name else "" for name in currencies)
        told = (f"{figure:,}" if figure else "" for figure in figures)
        table.add_row(stage, f"{entry['seconds']:.1f}", *told, *money)
    return table


def _coverage_table(found: pl.DataFrame, last: str) -> Table:
    types = found["task_type"].unique().sort().to_list()
    names = (SHORT_TYPES.get(name, name) for name in types)
    table = figures_table(f"Coverage: {last} of paired samples", "perspective", *names, "all")
    perspectives = found["perspective"].unique().sort().to_list()
    for perspective in perspectives[:PERSPECTIVES_SHOWN]:
        mine = found.filter(pl.col("perspective") == perspective)
        cells = [mine.filter(pl.col("task_type") == name) for name in types]
        table.add_row(plain(perspective), *(_share(cell, last) for cell in (*cells, mine)))
    if len(perspectives) > PERSPECTIVES_SHOWN:
        table.add_row(f"and {len(perspectives) - PERSPECTIVES_SHOWN} more: stillhouse inspect RUN coverage")
    return table


def _share(cells: pl.DataFrame, last: str) -> str:
    return f"{cells[last].sum()}/{cells['paired'].sum()}" if len(cells) else "–"


def _domain_table(found: pl.DataFrame) -> Table:
    steps = [name for name in STEPS if name in found.columns]
    table = figures_table("Coverage: domains", "domain", *steps)
    for domain, *figures in found.group_by("domain").agg(pl.col(*steps).sum()).sort("domain").iter_rows():
        table.add_row(plain(domain), *(f"{figure:,}" for figure in figures))
    return table


def _shortened(prompt: str) -> str:
    """Return a prompt that leaves room on the screen: its instruction and the beginning of its text."""
    return prompt if len(prompt) <= PROMPT_SHOWN else f"{prompt[: PROMPT_SHOWN - 20]} […]\n\nAnswer:"


def _sample_panel(row: dict[str, Any]) -> Panel:
    body = Text.assemble(plain(_shortened(row["prompt"].rstrip())), "\n", (plain(row["completion"]), "bold green"))
    title = f"{row['task_type']} · {row['perspective']} · difficulty {row['difficulty']:.2f}"
    return Panel(body, title=Text(plain(title)), title_align="left")
