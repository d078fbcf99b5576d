"""A run: the stages of a recipe, one after the other, as far as they are not done yet.

A stage whose fingerprint stands in the manifest is skipped. The fingerprint covers the stages before it, its recipe
keys, the content of text sources, evaluation sets and local models, and the source code of its modules. It leaves out
`runtime` and the place of files and servers, which change no row, and, but for gates and dataset, `name` and `publish`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from stillhouse.encoder import ENCODER_PACKAGES, check_encoder
from stillhouse.errors import InputError, RunError
from stillhouse.files import source_files
from stillhouse.models import GGUF_PACKAGES, check_causal_lm, content_digest, gguf_file, torch_device
from stillhouse.places import Here, Place
from stillhouse.progress import Counts, Progress
from stillhouse.recipe import Recipe
from stillhouse.software import code_digest, digest_of, versions_of
from stillhouse.store import RunFolder, file_digest

if TYPE_CHECKING:
    from pipelines.engine import Engine
    from pipelines.prompting import Asker


@dataclass(frozen=True)
class Stage:
    """One step: its table, the tables it needs, the recipe sections and the code that change its rows."""

    name: str
    needs: tuple[str, ...]
    keys: tuple[str, ...]
    code: tuple[str, ...]
    run: Callable[["Build"], Counts]


class Build:
    """One run of a recipe into a folder."""

    def __init__(self, recipe: Recipe, folder: RunFolder, progress: Progress, stages: Sequence[Stage]) -> None:
        """Prepare a run; nothing is read or written yet."""
        self.recipe, self.folder, self.progress, self.stages = recipe, folder, progress, stages
        self._open = ExitStack()

    def run(self, until: str | None = None, update: bool = False) -> dict[str, Any]:
        """Run the stages up to `until` that are not done yet; return the manifest.

        Raises InputError where the folder holds something else, or stages of another recipe, input or code and
        `update` is not given.
        """
        stages = self.stages if until is None else self.stages[: [stage.name for stage in self.stages].index(until) + 1]
        self.check()
        with self.opened(update) as (manifest, prints):
            for stage in stages:
                if stage.name in manifest["stages"]:
                    self.progress.skip(stage.name)
                else:
                    self._run_stage(stage, manifest, prints[stage.name])
        return manifest

    @contextmanager
    def opened(self, update: bool = False) -> Iterator[tuple[dict[str, Any], dict[str, dict[str, str]]]]:
        """Hold the run folder and put down what it is a run of; yield the manifest and the fingerprints.

        Raises InputError as `run` does.
        """
        with self.folder.locked(), self._open:
            prints = fingerprints(self.stages, self.recipe, self.folder)
            manifest = self.folder.manifest()
            self._refuse_stale(manifest, prints, update)
            manifest.update(name=self.recipe.name, seed=self.recipe.seed, versions=versions())
            self.folder.write_manifest(manifest)
            self.folder.write_recipe(self.recipe)
            yield manifest, prints

    def check(self) -> None:
        """Find what is wrong before anything is spent. Raises InputError."""
        from hub_cards.evaluation import evaluation_files

        for source in self.recipe.texts.sources:
            source_files(source)
        for source in self.recipe.publish.leaks.evaluation:
            evaluation_files(source)
        if not self.recipe.imported:
            self._check_generation()
        check_encoder(self.recipe.curation.encoder)
        check_causal_lm(self.recipe.curation.student)
        check_causal_lm(self.recipe.curation.scorer[0])
        if self.recipe.runtime.device != "auto":
            torch_device(self.recipe.runtime.device)

    def _check_generation(self) -> None:
        from pipelines.validation import check_language

        check_language(self.recipe.responses.language)
        check_encoder(self.recipe.perspectives.encoder)
        if self.recipe.teacher.backend == "embedded":
            gguf_file(self.recipe.teacher.model)
        elif self.recipe.teacher.backend == "vllm":
            check_causal_lm(self.recipe.teacher.model)

    def _run_stage(self, stage: Stage, manifest: dict[str, Any], prints: dict[str, str]) -> None:
        started, before = time.monotonic(), manifest["seconds"].get(stage.name, 0.0)
        try:
            counts = stage.run(self)
        finally:
            seconds = manifest["seconds"][stage.name] = round(before + time.monotonic() - started, 1)
            with suppress(RunError):  # of a storage that is away, which is told below where nothing else went wrong
                self.folder.write_manifest(manifest)
        usage, failed = self._take_usage()
        manifest["stages"][stage.name] = {**prints, "counts": counts, "seconds": seconds, **usage, "failed": failed}
        self.folder.write_manifest(manifest)
        self.progress.finish(stage.name, counts, seconds)

    def _take_usage(self) -> tuple[dict[str, Any], int]:
        """Return what the teacher did for the stage that has just ended (calls, tokens, money) and rows that failed."""
        if "engine" not in self.__dict__ or not self.engine.asked:
            return {}, 0
        from pipelines.caps import cost_of

        usage, failed = asdict(self.engine.usage), self.engine.failed
        price = self.recipe.teacher.price
        cost = cost_of(usage["prompt_tokens"], usage["output_tokens"], price)
        self.engine.begin()
        return {**usage, **({"cost": cost, "currency": price.currency} if price else {})}, failed

    def _settle(self, manifest: dict[str, Any], prints: dict[str, dict[str, str]]) -> list[str]:
        """Take the stages that have to run again out of the manifest, and return those whose fingerprint changed.

        A stage runs again when its fingerprint changed, its table is gone, some of its calls failed, or a stage
        before it runs again.
        """
        stale: list[str] = []
        again = False
        for name, entry in list(manifest["stages"].items()):
            output = self.folder.dataset_path if name == "dataset" else self.folder.table_path(name)
            changed = name not in prints or entry["fingerprint"] != prints[name]["fingerprint"]
            stale += [name] * changed
            again = again or changed or not output.exists() or entry["failed"] > 0
            if again:
                del manifest["stages"][name]
        return stale

    def _refuse_stale(self, manifest: dict[str, Any], prints: dict[str, dict[str, str]], update: bool) -> None:
        entries = dict(manifest["stages"])
        stale = self._settle(manifest, prints)
        if update:
            for name in stale:
                manifest["seconds"].pop(name, None)
        elif stale:
            old, new = entries[stale[0]], prints.get(stale[0])
            parts = ("recipe", "input", "code")
            changed = [part for part in parts if old.get(part) != new[part]] if new else ["kind of data"]
            changed = changed or ["earlier stage"]
            raise InputError(
                f"{self.folder} was made with another {' and '.join(changed)}, from stage {stale[0]} on. "
                "Use --out for another folder, or --update to rebuild these stages here "
                f"(teacher answers are kept and used again): {', '.join(stale)}"
            )

    def digest(self, keys: Sequence[str], code: Sequence[str]) -> str:
        """Return a digest of values of the recipe, local models that they name, and source code."""
        data = self.recipe.model_dump(mode="json")
        values = {key: _value_at(data, key) for key in keys}
        models = [content_digest(value) for key, value in values.items() if key in MODELS and value]
        return digest_of([values, models, [code_digest(module) for module in code]])

    @cached_property
    def engine(self) -> "Engine":
        """What asks the teacher, until the end of the run."""
        from pipelines.engine import Engine

        return self._open.enter_context(
            Engine(self.recipe.teacher, self.recipe.runtime, self.folder.journal_path, self.progress)
        )

    @cached_property
    def place(self) -> Place:
        """Where heavy work is done, until the end of the run."""
        if self.recipe.runtime.ray is None:
            return Here()
        from stillhouse.cluster import Cluster

        if "engine" in self.__dict__:  # the teacher's replicas may hold all of the cluster
            self.engine.rest()

        return self._open.enter_context(Cluster(self.recipe.runtime))

    @property
    def asker(self) -> "Asker":
        """What turns prompts into calls."""
        from pipelines.prompting import Asker

        return Asker(self.recipe.teacher, self.recipe.seed)

    def table(self, name: str) -> pl.DataFrame:
        """Read the table of an earlier stage."""
        return self.folder.read_table(name)


MODELS = {"teacher.model", "perspectives", "curation.encoder", "curation.student", "curation.proxy"}


def fingerprints(stages: Sequence[Stage], recipe: Recipe, folder: RunFolder | None = None) -> dict[str, dict[str, str]]:
    """Return per stage the fingerprint and the parts it was made of: recipe, input, code.

    `folder` is where a person's edits of the instructions may lie.
    """
    data = recipe.model_dump(mode="json")
    for source in (*data["texts"]["sources"], *data["publish"]["leaks"]["evaluation"]):
        source["path"] = source["path"] and Path(source["path"]).name  # the content counts, not where it lies
    found: dict[str, dict[str, str]] = {}
    for stage in stages:
        before = [found[name]["fingerprint"] for name in stage.needs]
        parts = {
            "recipe": digest_of({key: _value_at(data, key) for key in stage.keys}),
            "input": digest_of(_inputs(stage, recipe, data) + _from_people(stage, folder)),
            "code": digest_of([code_digest(module) for module in stage.code]),
        }
        found[stage.name] = {**parts, "fingerprint": digest_of([parts, before])}
    return found


def _inputs(stage: Stage, recipe: Recipe, data: dict[str, Any]) -> list[str | None]:
    """Return digests of the files that a stage reads besides tables: text sources, evaluation sets, local models."""
    if "texts" in stage.keys:
        return [file_digest(file) for source in recipe.texts.sources for file in source_files(source)]
    sets: list[str | None] = []
    if "publish.leaks" in stage.keys:
        from hub_cards.evaluation import evaluation_files

        sets = [file_digest(file) for one in recipe.publish.leaks.evaluation for file in evaluation_files(one)]
    models = MODELS & set(stage.keys)
    names = ("perspectives.encoder" if key == "perspectives" else key for key in sorted(models))
    references = [_value_at(data, name) for name in names]
    flat = (one for some in references for one in (some if isinstance(some, list) else [some]) if one)
    return sets + [content_digest(one) for one in flat]


def _from_people(stage: Stage, folder: RunFolder | None) -> list[str | None]:
    """Return digests of what people put into a run folder: edited instructions, verdicts."""
    if folder is None:
        return []
    files = {"instructions": [folder.edits_path], "audit": sorted(folder.review_path.glob("[!.]*"))}
    return [file_digest(file) for file in files.get(stage.name, []) if file.exists()]


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    names = ("xllamacpp", "vllm", "torch", "transformers", "sentence-transformers", "scikit-learn", "polars")
    return versions_of((*names, *GGUF_PACKAGES, *ENCODER_PACKAGES))


def _value_at(data: dict[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return data[section][name] if name else data[section]
