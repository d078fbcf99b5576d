"""The plan of a run: what it will ask, use, cost and fill, before any of it is spent."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import polars as pl

from stillhouse.build import Build
from stillhouse.errors import InputError
from stillhouse.models import load_tokenizer
from stillhouse.progress import Progress
from stillhouse.recipe import Recipe
from stillhouse.stages import build_of
from stillhouse.store import RunFolder
from stillhouse.texts import read_texts

if TYPE_CHECKING:
    from pipelines.rehearsal import Tokens

TEACHER_STAGES = ("attributes", "instructions", "responses")
OUTPUT_WEIGHT = 4  # an output token takes about as long as so many prompt tokens
DATASET_BYTES_PER_SAMPLE = 3_000  # of scores, decisions and the dataset folder
Report = dict[str, Any]


def make_plan(recipe: Recipe, folder: RunFolder, progress: Progress, probe: int = 0) -> Report:
    """Return calls, tokens, money, seconds and bytes per stage; those of finished stages are what was used.

    With `probe`, so many texts are given to the teacher, whose answers the run will use, to tell the time. Raises
    InputError where the recipe or what it names is wrong.
    """
    from pipelines.caps import cost_of
    from pipelines.rehearsal import rehearse

    if recipe.imported:
        raise InputError("plan: the recipe's `imported` prompts and completions exist already, so no teacher is asked")
    build = build_of(recipe, folder, progress)
    build.check()
    texts, _ = read_texts(recipe.texts.sources, recipe.texts.similarity)
    done = folder.manifest()["stages"] if folder.path.exists() else {}
    needed = ("attributes", "perspectives", "instructions")
    known = {name: folder.read_table(name) for name in needed if name in done}
    tokenizer = _tokenizer_of(recipe)
    plan = rehearse(recipe, texts, known, _counter(tokenizer))
    pace = _pace(build, texts.sample(min(probe, len(texts)), seed=recipe.seed + 1)) if probe else None
    stages: dict[str, Report] = {}
    for name in TEACHER_STAGES:
        if name in done:
            figures = {key: done[name].get(key, 0) for key in ("calls", "prompt_tokens", "output_tokens", "seconds")}
        else:
            figures = {key: round(value) for key, value in asdict(plan.stages[name]).items()}
            figures["seconds"] = pace and round(pace * _weight(figures))
        cost = cost_of(figures["prompt_tokens"], figures["output_tokens"], recipe.teacher.price)
        stages[name] = {"done": name in done, **figures, "cost": cost}
    disk = sum(entry.get("disk", 0) for entry in stages.values()) + texts.estimated_size()
    disk += DATASET_BYTES_PER_SAMPLE * recipe.responses.samples
    assumptions = [*plan.assumptions, f"tokens as the tokenizer of {tokenizer} counts them"]
    return {"texts": len(texts), "stages": stages, "disk": int(disk), "assumptions": assumptions}


def totals(report: Report) -> Report:
    """Return the sums over the stages; an unknown one is None."""
    stages = report["stages"].values()
    found: Report = {}
    for key in ("calls", "prompt_tokens", "output_tokens", "cost", "seconds"):
        values = [entry[key] for entry in stages]
        found[key] = None if None in values else sum(values)
    return found


def over_cap(report: Report, recipe: Recipe) -> list[str]:
    """Return a sentence for each cap that is below what is planned."""
    total = totals(report)
    planned = {
        "max_calls": total["calls"],
        "max_tokens": total["prompt_tokens"] + total["output_tokens"],
        "max_cost": total["cost"],
    }
    return [
        f"runtime.{key} is {cap:,g}: the run will stop before it is done, about {planned[key]:,.4g} are planned"
        for key in planned
        if (cap := getattr(recipe.runtime, key)) is not None and (planned[key] or 0) > cap
    ]


def _tokenizer_of(recipe: Recipe) -> str:
    """Return the model whose tokenizer counts: the teacher's own where it is here, else the student's."""
    teacher = recipe.teacher
    is_here = teacher.backend == "vllm" or teacher.model.startswith("package:")
    return teacher.tokenizer or (teacher.model if is_here else recipe.curation.student)


def _counter(reference: str) -> "Tokens":
    tokenizer = load_tokenizer(reference)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _pace(build: Build, texts: pl.DataFrame) -> float | None:
    """Return the seconds that a prompt token takes, from real calls; None where all of them were answered before."""
    from pipelines.attributes import enumerate_attributes

    recipe = build.recipe
    with build.opened():
        build.engine.open()  # which takes its time once
        before, started = _weight(asdict(build.engine.spent)), time.monotonic()
        enumerate_attributes(texts, recipe.domain, recipe.attributes, build.asker, build.engine)
        seconds, weight = time.monotonic() - started, _weight(asdict(build.engine.spent)) - before
    return seconds / weight if weight else None


def _weight(figures: Report) -> float:
    return float(figures["prompt_tokens"] + OUTPUT_WEIGHT * figures["output_tokens"])
