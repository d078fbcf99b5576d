"""A model on SentiBench: prompts in, predictions on disk as they come, scores out."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from stillhouse.checkpoint import Checkpoint
from stillhouse.models import Dtype, content_digest, load_causal_lm, transformers_source
from stillhouse.progress import Progress
from stillhouse.reading import Reader
from stillhouse.sections import Section
from stillhouse.store import claim_folder, file_digest, write_atomically, write_json
from training.sentibench.generation import Generator, ServerGenerator, TransformersGenerator, VllmGenerator
from training.sentibench.labels import LabelReader, Report
from training.sentibench.prompts import make_prompts
from training.sentibench.results import summarise
from training.sentibench.scores import read_predictions
from training.sentibench.sets import SETS, BenchmarkSet, check_data, load_instructions, load_rows, names_of

CARD_FILES = frozenset({"README.md", "facts.json", "loss.png"})  # change when results are written into a card
ABOUT, RESULTS = "about.json", "results.json"


class Evaluation(Section):
    """What is measured, on what, and how."""

    model: str = Field(description="Model folder, Hub id or offline package.")
    data: Path = Field(description="Folder of SentiBench, with files like sc/imdb/test.json.")
    out: Path = Field(description="Folder for predictions and results; an unfinished evaluation there goes on.")
    tasks: str | None = Field(None, description="Sets or categories, separated by commas; all unless given.")
    shots: int = Field(4, ge=0, description="Demonstrations in a prompt.")
    seeds: tuple[int, ...] = Field((42, 52, 62), min_length=1, description="Of the draw of demonstrations.")
    limit: int | None = Field(None, ge=1, description="Test rows of each set at most, from the top.")
    prompts: Path | None = Field(None, description="JSON or YAML file of instructions, by set, in place of ours.")
    generator: str = Field(
        "transformers", description="Of fine-grained answers: transformers, vllm, or the base URL of a server."
    )
    revision: str | None = Field(None, description="Revision of a model on the Hub.")
    dtype: Dtype = Field("float32", description="Precision of the model.")
    device: str = Field("auto", description="Where it runs.")

    @field_validator("generator")
    @classmethod
    def _known_generator(cls, given: str) -> str:
        if given not in ("transformers", "vllm") and not given.startswith(("http://", "https://")):
            raise ValueError("transformers, vllm, or an address that begins with http:// or https://")
        return given

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(given)) < len(given):
            raise ValueError("a seed is given twice")
        return given


class _Models:
    """The model as labels and as fine-grained answers need it, loaded when it is."""

    def __init__(self, settings: Evaluation) -> None:
        self._settings = settings

    @cached_property
    def reader(self) -> Reader:
        given = self._settings
        return Reader(*load_causal_lm(given.model, given.revision, given.device, given.dtype))

    @cached_property
    def labels(self) -> LabelReader:
        return LabelReader(self.reader)

    @cached_property
    def generator(self) -> Generator:
        given = self._settings
        if given.generator == "transformers":
            return TransformersGenerator(self.reader)
        for held in ("reader", "labels"):  # their memory is needed
            self.__dict__.pop(held, None)
        if given.generator == "vllm":
            return VllmGenerator(transformers_source(given.model), given.revision, given.dtype)
        return ServerGenerator(given.generator, given.model)


def evaluate(settings: Evaluation, progress: Progress) -> dict[str, Any]:
    """Evaluate a model on SentiBench's sets; return the results, which are in `settings.out` then.

    Predictions are on disk as they come: an evaluation that was killed goes on where it stopped.

    Raises InputError where data, model or folder is wrong, and RunError where a server does not answer.
    """
    names = names_of(settings.tasks)
    check_data(settings.data, names)
    rows = {name: load_rows(settings.data, name, "test")[: settings.limit] for name in names}
    instructions = load_instructions(settings.prompts)
    about = _about(settings, names, instructions)
    claim_folder(settings.out, ABOUT, about, "evaluation", frozenset({"versions"}))
    models, started = _Models(settings), time.monotonic()
    predictions: dict[str, list[list[str]]] = {}
    for name in names:
        train = load_rows(settings.data, name, "train")
        progress.start(name, len(rows[name]) * len(settings.seeds))
        done: list[list[str]] = []
        began = time.monotonic()
        for seed in settings.seeds:
            prompts = make_prompts(SETS[name], rows[name], train, settings.shots, seed, instructions[name])
            done.append(_predictions(SETS[name], prompts, seed, settings.out, models, progress, sum(map(len, done))))
        predictions[name] = done
        progress.finish(name, {"rows": len(rows[name])}, time.monotonic() - began)
    results = {**about, **summarise(rows, predictions, settings.seeds), "seconds": round(time.monotonic() - started, 1)}
    write_json(settings.out / RESULTS, results)
    return results


def _predictions(
    benchmark: BenchmarkSet,
    prompts: Sequence[str],
    seed: int,
    out: Path,
    models: _Models,
    progress: Progress,
    before: int,
) -> list[str]:
    """Return the predictions of one set and seed: those on disk, and those that are missing, which are there then."""
    path = out / "predictions" / f"{benchmark.name}.seed-{seed}.jsonl"
    if path.exists():
        return read_predictions(path, len(prompts))
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(path.with_name(f".{path.name}.partial"))
    missing = [number for number in range(len(prompts)) if checkpoint.get(str(number)) is None]
    done, tokens = len(prompts) - len(missing), 0

    def report(read: int, cut: int) -> None:
        nonlocal tokens
        tokens += read
        if cut:
            progress.warn(
                f"{benchmark.name}: {cut} prompts are longer than the model can read and lost their beginning"
            )

    for found in _ask(benchmark, [prompts[number] for number in missing], models, report):
        checkpoint.put({str(missing[place]): text for place, text in found.items()})
        done += len(found)
        progress.update(before + done, tokens)
    predictions = [checkpoint.get(str(number)) for number in range(len(prompts))]
    lines = "".join(json.dumps({"prediction": text}, ensure_ascii=True) + "\n" for text in predictions)
    write_atomically(path, lines.encode())
    checkpoint.remove()
    return predictions


def _ask(benchmark: BenchmarkSet, prompts: Sequence[str], models: _Models, report: Report) -> Iterator[dict[int, str]]:
    if not prompts:
        return iter(())
    if benchmark.labels:
        return models.labels.predict(prompts, benchmark.labels, report)
    return models.generator.continue_all(prompts, benchmark.max_new_tokens, report)


def _about(settings: Evaluation, names: Sequence[str], instructions: dict[str, str]) -> dict[str, Any]:
    """Return what the predictions depend on, and what makes them comparable: the wording above all."""
    ours = all(instructions[name] == SETS[name].instruction for name in names)
    wording = json.dumps({name: instructions[name] for name in names}, sort_keys=True)
    return {
        "benchmark": "SentiBench",
        "model": settings.model,
        "revision": settings.revision,
        "model_digest": content_digest(settings.model, CARD_FILES),
        "tasks": list(names),
        "shots": settings.shots,
        "seeds": list(settings.seeds),
        "limit": settings.limit,
        "wording": "stillhouse" if ours else (settings.prompts.name if settings.prompts else ""),
        "wording_digest": hashlib.sha256(wording.encode()).hexdigest(),
        "data_digest": _digest(settings.data, names),
        "generator": settings.generator,
        "dtype": settings.dtype,
        "versions": {name: version(name) for name in ("stillhouse", "torch", "transformers")},
    }


def _digest(data: Path, names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        for split in ("train", "test"):
            digest.update(bytes.fromhex(file_digest(data / name / f"{split}.json")))
    return digest.hexdigest()
