"""Does filtering help? The same student trained on cuts of one pool, each measured on SentiBench.

Every point is a folder with its own result: an experiment that was killed goes on with the first one that is missing.
"""

import gc
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
import yaml
from pydantic import Field

from stillhouse.errors import InputError
from stillhouse.models import Dtype
from stillhouse.progress import Progress
from stillhouse.sections import Curation, Section
from stillhouse.store import claim_folder, write_atomically, write_json
from training.data import Source, find_dataset, load_pool
from training.sentibench.evaluation import Evaluation, evaluate
from training.sentibench.results import summarise
from training.sentibench.scores import read_predictions
from training.sentibench.sets import check_data, load_rows, names_of
from training.settings import Training
from training.sft import train_student

Control = Literal["random", "top"]  # those that need no embeddings, which are not published
BEFORE, ALL = "before", "all"
ABOUT, POINT, RESULTS, TABLE = "about.json", "point.json", "results.json", "results.md"
COSTS = ("rows", "steps", "tokens", "train_seconds")


class Experiment(Section):
    """What is compared with what."""

    training: Training = Field(description="How each student is trained; its `dataset` is the pool.")
    data: Path = Field(description="Folder of SentiBench.")
    rates: tuple[float, ...] = Field((0.1, 0.5, 1.0), min_length=1, description="Shares of the pool.")
    strategy: Literal["soft", "hard"] = Field("soft", description="How the hard rows are preferred.")
    controls: tuple[Control, ...] = Field(("random", "top"), description="Other cuts of the same size.")
    seeds: tuple[int, ...] = Field((42,), min_length=1, description="Of cuts and trainings.")
    equal: Literal["epochs", "steps"] = Field("epochs", description="What all trainings have in common.")
    tasks: str | None = Field(None, description="Sets or categories of SentiBench.")
    shots: int = Field(4, ge=0, description="Demonstrations in a prompt.")
    demonstrations: tuple[int, ...] = Field((42, 52, 62), min_length=1, description="Seeds of their draw.")
    limit: int | None = Field(None, ge=1, description="Test rows of each set at most.")
    dtype: Dtype = Field("float32", description="Precision of the students while they are measured.")
    keep: bool = Field(default=False, description="Keep the trained students.")


@dataclass(frozen=True)
class Point:
    """One student: `kind` of cut, share of the pool, seed; the student as it was has rate 0."""

    kind: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return BEFORE if self.kind == BEFORE else f"{self.kind}-{self.rate:g}-seed-{self.seed}"


def run_experiment(settings: Experiment, progress: Progress) -> dict[str, Any]:
    """Train and measure all points; return the results, which are in the folder of the experiment then.

    Raises InputError where the pool, the data or the settings are wrong; see also `train_student` and `evaluate`.
    """
    out = Path(settings.training.out)
    names = names_of(settings.tasks)
    check_data(settings.data, names)
    source = find_dataset(settings.training.dataset, settings.training.revision)
    pool, test = load_pool(source)
    steps = _steps(settings, len(pool))
    claim_folder(out, ABOUT, _about(settings, source), "experiment")
    points = list(_points(settings))
    for number, point in enumerate(points, 1):
        folder = out / "points" / point.name
        if not (folder / POINT).exists():
            progress.warn(f"point {number} of {len(points)}: {point.name}")
            _work_off(point, folder, settings, _cut(pool, point, settings), test, source, steps, progress)
    results = _results(out, points, settings, names, len(pool))
    write_json(out / RESULTS, results)
    write_atomically(out / TABLE, markdown(results).encode())
    return results


def _points(settings: Experiment) -> Iterator[Point]:
    yield Point(BEFORE, 0.0, settings.seeds[0])
    for seed in settings.seeds:
        for rate in sorted(settings.rates):
            for kind in (settings.strategy, *settings.controls) if rate < 1 else (ALL,):
                yield Point(kind, rate, seed)


def _steps(settings: Experiment, rows: int) -> int | None:
    """Return the steps of every training where they are to be equal: those that all of the pool takes."""
    training = settings.training
    if settings.equal == "epochs" and training.max_steps is None:
        return None
    if training.packing and training.max_steps is None:
        raise InputError("--equal steps with packing: say how many, as max_steps in the file of --config")
    return training.max_steps or math.ceil(training.epochs * rows / (training.batch_size * training.accumulation))


def _about(settings: Experiment, source: Source) -> dict[str, Any]:
    """Return what the points depend on."""
    about = settings.model_dump(mode="json", exclude={"training": {"out"}})
    return {**about, "files": source.files, "revision": source.revision}


def _cut(pool: pl.DataFrame, point: Point, settings: Experiment) -> pl.DataFrame:
    """Return the rows of a point. A control has as many as the cut of its rate and seed, drawn of the same pool."""
    from curation.selection import chances, control_chances

    if point.kind in (BEFORE, ALL):
        return pool
    table = pool.select("instruction_id", "difficulty", sample_id="id")
    found = chances(table, Curation.model_validate({"rate": point.rate, "strategy": settings.strategy}), point.seed)
    if point.kind in get_args(Control):
        count = found.filter(pl.col("draw") < pl.col("probability")).height
        found = control_chances(table, point.kind, count, point.seed)  # type: ignore[arg-type]
    kept = found.filter(pl.col("draw") < pl.col("probability"))["sample_id"]
    rows = pool.filter(pl.col("id").is_in(kept.implode()))
    if rows.is_empty():
        raise InputError(f"--rates {point.rate:g}: nothing is left of {len(pool)} rows; a larger share is needed")
    return rows


def _work_off(
    point: Point,
    folder: Path,
    settings: Experiment,
    rows: pl.DataFrame,
    test: pl.DataFrame | None,
    source: Source,
    steps: int | None,
    progress: Progress,
) -> None:
    """Train and measure one student; write what came of it."""
    student, cost = settings.training.student, dict.fromkeys(COSTS, 0.0)
    held_out = None
    if point.kind != BEFORE:
        dataset = _write_dataset(folder / "dataset", rows, test, source)
        changes = {"dataset": str(dataset), "revision": None, "seed": point.seed, "max_steps": steps}
        training = settings.training.model_copy(update={**changes, "out": str(folder / "student")})
        student = training.out
        facts = folder / "student" / "facts.json"
        if not facts.exists():  # else it was killed while it was measured
            train_student(training, progress)
        known = json.loads(facts.read_text(encoding="utf-8"))
        figures = (known["rows"], len(known["losses"]), known["tokens"], known["seconds"])
        cost = dict(zip(COSTS, figures, strict=True))
        held_out = known["held_out"] and known["held_out"]["after"]
    began = time.monotonic()
    evaluate(_evaluation(settings, student, folder / "evaluation"), progress)
    cost["evaluate_seconds"] = round(time.monotonic() - began, 1)
    write_atomically(folder / POINT, json.dumps({**asdict(point), **cost, "held_out_loss": held_out}).encode())
    shutil.rmtree(folder / "dataset", ignore_errors=True)
    if not settings.keep:
        shutil.rmtree(folder / "student", ignore_errors=True)
    gc.collect()  # the next student needs the memory


def _evaluation(settings: Experiment, model: str, out: Path) -> Evaluation:
    given = settings.model_dump(include={"data", "tasks", "shots", "limit", "dtype"})
    given |= {"seeds": settings.demonstrations, "device": settings.training.device}
    return Evaluation.model_validate({"model": model, "out": out, **given})


def _write_dataset(folder: Path, rows: pl.DataFrame, test: pl.DataFrame | None, source: Source) -> Path:
    """Write a cut as a published dataset; the split `test` is the pool's own."""
    from hub_cards.shards import write_shards

    parts = {"train": rows} | ({} if test is None else {"test": test})
    files = [
        {"split": split, "path": [f"default/{name}" for name in write_shards(folder / "default", split, part)]}
        for split, part in parts.items()
    ]
    header = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]})
    write_atomically(folder / "README.md", f"---\n{header}---\n".encode())
    write_atomically(folder / "facts.json", json.dumps(source.facts).encode())
    return folder


def _results(
    out: Path, points: Sequence[Point], settings: Experiment, names: Sequence[str], pool: int
) -> dict[str, Any]:
    """Return all points, and per kind and rate the mean over seeds with an interval over test rows."""
    rows = {name: load_rows(settings.data, name, "test")[: settings.limit] for name in names}
    found = {point: json.loads((out / "points" / point.name / POINT).read_text(encoding="utf-8")) for point in points}
    groups = []
    for kind, rate in dict.fromkeys((point.kind, point.rate) for point in points):
        mine = [point for point in points if (point.kind, point.rate) == (kind, rate)]
        places = [out / "points" / point.name / "evaluation" / "predictions" for point in mine]
        texts = {
            name: [
                read_predictions(place / f"{name}.seed-{seed}.jsonl", len(rows[name]))
                for place in places
                for seed in settings.demonstrations
            ]
            for name in names
        }
        by = [f"{point.seed}/{seed}" for point in mine for seed in settings.demonstrations]
        summary = summarise(rows, texts, by)
        costs = [found[point] for point in mine]
        mean = {
            key: sum(cost[key] for cost in costs) / len(costs) for key in ("rows", "steps", "tokens", "train_seconds")
        }
        by_seed = {point.seed: _mean_of(summary, point.seed) for point in mine}
        groups.append({"kind": kind, "rate": rate, **mean, **summary["mean"], "by_seed": by_seed, "detail": summary})
    return {"pool": pool, "equal": settings.equal, "seeds": list(settings.seeds), "limit": settings.limit,
            "groups": groups, "points": list(found.values())}  # fmt: skip


def _mean_of(summary: dict[str, Any], seed: int) -> float:
    """Return the mean F1 over sets and demonstrations of one training seed."""
    by_set: list[list[float]] = [
        [figures["f1"] for key, figures in one["by_seed"].items() if key.startswith(f"{seed}/")]
        for one in summary["sets"].values()
    ]
    return sum(sum(values) / len(values) for values in by_set) / len(by_set)


def markdown(results: dict[str, Any]) -> str:
    """Return the results as a table of Markdown."""
    categories = list(results["groups"][0]["detail"]["categories"])
    head = ["cut", "share", "rows", "steps", "tokens", "seconds", "mean F1", "95 %", *categories, "by seed"]
    lines = [head, ["---"] * len(head), *(_line(group, categories) for group in results["groups"])]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(group: dict[str, Any], categories: Sequence[str]) -> list[str]:
    value, low, high = (100 * group["f1"][key] for key in ("value", "low", "high"))
    costs = (f"{group[key]:,.0f}" for key in COSTS)
    scores = (f"{100 * group['detail']['categories'][name]['f1']['value']:.1f}" for name in categories)
    by_seed = " ".join(f"{100 * figure:.1f}" for figure in group["by_seed"].values())
    return [group["kind"], f"{group['rate']:g}", *costs, f"{value:.1f}", f"{low:.1f} to {high:.1f}", *scores, by_seed]
