"""The commands as Python calls, for notebooks and scripts: `import stillhouse`, `stillhouse.open_run("runs/demo")`.

Each call is named as its command, shows what that shows, and raises InputError or RunError of `stillhouse.errors`.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from jinja2 import Environment

from stillhouse.comparison import compare, side_of
from stillhouse.errors import InputError, interruptible
from stillhouse.job import coverage_of, curate_data, funnel_of, opened, run_job, score_pairs, select_cuts, show_plan
from stillhouse.job import status_of as report_of
from stillhouse.lineage import as_json
from stillhouse.recipe import Recipe, from_options, recipe_of
from stillhouse.remote import local_path
from stillhouse.reporting import report_run
from stillhouse.schemas import TABLES
from stillhouse.scored import import_recipe, source_of
from stillhouse.sections import Curation, Imported, TextSource
from stillhouse.viewing import failures_of, lineage_in, sample_with

if TYPE_CHECKING:
    from training.sft import TrainReport

RecipeLike = str | Path | dict[str, Any]
SMALL = Environment(autoescape=True).from_string(
    "<b>{{ name }}</b> <code>{{ path }}</code><table>{% for step, rows in funnel.items() %}"
    "<tr><td>{{ step }}</td><td>{{ '{:,}'.format(rows) }}</td></tr>{% endfor %}</table>"
    "{% if missing %}Not done yet: {{ missing | join(', ') }}{% endif %}"
)


class Run:
    """A run, in a folder or behind a URL: its tables as Polars frames, what came of it, and other cuts of it."""

    def __init__(self, path: str | Path) -> None:
        """Open a run folder. Raises InputError where it is none."""
        self.folder = opened(local_path(path))
        self.path = self.folder.path

    def table(self, name: str) -> pl.DataFrame:
        """Return a table of the run, or its teacher calls that failed (`failures`)."""
        if name == "failures":
            return failures_of(self.folder)
        if name not in TABLES:
            raise InputError(f"no table is called {name}; tables: {', '.join(TABLES)}, failures")
        return self.folder.read_table(name)

    @property
    def funnel(self) -> dict[str, int]:
        """Rows of each step, from texts to what is kept."""
        return funnel_of(self.folder)

    def coverage(self) -> pl.DataFrame:
        """Return the samples per perspective, task type and domain: paired, valid, and kept where that is decided."""
        found, _ = coverage_of(self.folder)
        if found is None:
            raise InputError(f"{self.path} has no responses yet, so nothing is covered; `stillhouse run` makes them")
        return found

    def dataset(self, config: str = "default") -> pl.DataFrame:
        """Return the rows of the dataset, all splits: those kept, or of `rejected` or another config."""
        files = sorted((self.folder.dataset_path / config).glob("*.parquet"))
        if not files:
            raise InputError(f"{self.folder.dataset_path} has no config {config}; `stillhouse run` makes the dataset")
        return pl.read_parquet(files, glob=False)

    def select(
        self, name: str | None = None, controls: Sequence[str] = (), dataset: bool = False, **changes: Any
    ) -> pl.DataFrame:
        """Cut the run anew from its stored scores; return the decisions of the cut, a row per sample.

        `changes` are keys of the recipe's section `curation`, such as rate=0.5 or strategy="facility".
        """
        reports = select_cuts(self.path, changes, name, list(controls), dataset)
        return pl.read_parquet(self.folder.cut_path(reports[0]["name"]) / "decisions.parquet", glob=False)

    def lineage(self, sample_id: str) -> dict[str, Any]:
        """Return how a sample came to be, step by step; the beginning of its id may do."""
        found = sample_with(self.folder, sample_id)
        if found is None:
            raise InputError(f"no sample of {self.path} has the id {sample_id}; the table `responses` has their ids")
        return as_json(lineage_in(self.folder, found))

    def diff(self, other: str | Path) -> dict[str, Any]:
        """Return what differs in another run, or in a cut of one (RUN/cuts/NAME), seen from this one."""
        return compare(side_of(self.path), side_of(local_path(other)))

    def report(self, against: str | Path | None = None, to: str | Path | None = None) -> Path:
        """Write one HTML page about the run; return it. See `stillhouse report`."""
        return report_run(self.path, _path(against), None if to is None else Path(to))

    def status(self) -> dict[str, Any]:
        """Return the stages with their figures, those missing, funnel, coverage and what the audit says."""
        return report_of(self.folder)

    def __repr__(self) -> str:
        """Return where the run is and how many rows are left at its end."""
        return f"<Run {self.folder}: {', '.join(f'{step} {rows:,}' for step, rows in self.funnel.items())}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: name, folder, funnel and what is not done yet."""
        return SMALL.render(**self.status(), path=self.folder)


def open_run(path: str | Path) -> Run:
    """Open a run, by its folder or its URL."""
    return Run(path)


def run(recipe: RecipeLike, out: str | Path | None = None, until: str | None = None, update: bool = False) -> Run:
    """Run a recipe, a file or its sections as a dict; see `stillhouse run`. Resumes where an earlier run stopped."""
    with _own_loop(), interruptible():
        return Run(run_job(_recipe(recipe), _path(out), until, update).path)


def plan(recipe: RecipeLike, out: str | Path | None = None, probe: int = 0) -> dict[str, Any]:
    """Return calls, tokens, money and disk per stage of a run; see `stillhouse plan`."""
    with _own_loop(), interruptible():
        return show_plan(_recipe(recipe), _path(out), probe)


def curate(data: str | Path, out: str | Path | None = None, update: bool = False, **options: Any) -> Run:
    """Curate prompts and completions that exist; see `stillhouse curate`, whose options are the same."""
    source, columns = _source(data, options), _columns(options)
    seed, device = options.pop("seed", 42), options.pop("device", "auto")
    recipe = import_recipe(source, columns, options, seed, device)
    with interruptible():
        return Run(curate_data(recipe, _path(out), update).path)


def score(data: str | Path, student: str, out: str | Path = "scored.parquet", **options: Any) -> pl.DataFrame:
    """Return prompts and completions with their scores; see `stillhouse score`, whose options are the same."""
    source, columns = _source(data, options), from_options(Imported, _columns(options))
    device = options.pop("device", "auto")
    settings = from_options(Curation, {"student": student, **options})
    with interruptible():
        score_pairs(source, columns, settings, device, Path(out))
    return pl.read_parquet(out, glob=False) if Path(out).suffix == ".parquet" else pl.read_ndjson(out)


def train(
    dataset: str | Path, student: str, out: str | Path, preset: str | None = None, **options: Any
) -> "TrainReport":
    """Fine-tune a student on a dataset; see `stillhouse train`, whose options are the same."""
    from stillhouse import students
    from training.settings import load_training

    given = {"dataset": str(dataset), "student": student, "out": str(out), **options}
    with interruptible():
        return students.train(load_training(given, presets=preset))


def _recipe(given: RecipeLike) -> Path | Recipe:
    return recipe_of(given, Path.cwd()) if isinstance(given, dict) else Path(given)


def _source(data: str | Path, options: dict[str, Any]) -> TextSource:
    """Return where to read from; takes the options out that say so."""
    return source_of(
        str(data), *(options.pop(*one) for one in (("split", "train"), ("revision", None), ("limit", None)))
    )


def _columns(options: dict[str, Any]) -> dict[str, str]:
    return {name: options.pop(name) for name in ("prompt", "completion") if name in options}


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else local_path(given)


@contextmanager
def _own_loop() -> Iterator[None]:
    """Step out of the event loop that a notebook runs its cells in: what asks the teacher has one of its own.

    In this very thread, so that interrupting a cell ends a run as Ctrl-C does.
    """
    outer = asyncio._get_running_loop()  # noqa: SLF001 - made for those who run loops
    asyncio._set_running_loop(None)  # noqa: SLF001
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)  # noqa: SLF001
