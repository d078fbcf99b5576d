"""The order of the stages: what each reads, which recipe keys change its rows, and how it is run.

A stage whose fingerprint stands in the manifest is skipped. The fingerprint covers the stages before it, the
recipe keys named here, the content of text sources and local models, and the source code of the modules named
here. It leaves out `runtime` and the place of files and servers, which change no row, and, but for the dataset,
`name` and `publish`.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from stillhouse import __version__
from stillhouse.encoder import check_encoder, load_encoder
from stillhouse.errors import InputError, RunError
from stillhouse.models import check_causal_lm, content_digest, gguf_file, load_causal_lm, torch_device
from stillhouse.progress import Counts, Progress
from stillhouse.recipe import Recipe
from stillhouse.store import RunFolder
from stillhouse.texts import read_texts, source_files

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

    def __init__(self, recipe: Recipe, folder: RunFolder, progress: Progress) -> None:
        """Prepare a run; nothing is read or written yet."""
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self._open = ExitStack()

    def run(self, until: str | None = None, update: bool = False) -> dict[str, Any]:
        """Run the stages up to `until` that are not done yet; return the manifest.

        Raises InputError where the folder holds something else, or stages of another recipe, input or code and
        `update` is not given.
        """
        stages = STAGES if until is None else STAGES[: [stage.name for stage in STAGES].index(until) + 1]
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
        prints = fingerprints(self.recipe, self.folder)
        with self.folder.locked(), self._open:
            manifest = self.folder.manifest()
            self._refuse_stale(manifest, prints, update)
            manifest.update(name=self.recipe.name, seed=self.recipe.seed, versions=versions())
            self.folder.write_manifest(manifest)
            self.folder.write_recipe(self.recipe)
            yield manifest, prints

    def check(self) -> None:
        """Find what is wrong before anything is spent. Raises InputError."""
        from pipelines.validation import check_language

        for source in self.recipe.texts.sources:
            source_files(source)
        check_language(self.recipe.responses.language)
        check_encoder(self.recipe.perspectives.encoder)
        check_encoder(self.recipe.curation.encoder)
        check_causal_lm(self.recipe.curation.student)
        if self.recipe.runtime.device != "auto":
            torch_device(self.recipe.runtime.device)
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
            old, new = entries[stale[0]], prints[stale[0]]
            changed = [part for part in ("recipe", "input", "code") if old.get(part) != new[part]] or ["earlier stage"]
            raise InputError(
                f"{self.folder.path} was made with another {' and '.join(changed)}, from stage {stale[0]} on. "
                "Use --out for another folder, or --update to rebuild these stages here "
                f"(teacher answers are kept and used again): {', '.join(stale)}"
            )

    @cached_property
    def engine(self) -> "Engine":
        """What asks the teacher, until the end of the run."""
        from pipelines.engine import Engine

        return self._open.enter_context(
            Engine(self.recipe.teacher, self.recipe.runtime, self.folder.journal_path, self.progress)
        )

    @property
    def asker(self) -> "Asker":
        """What turns prompts into calls."""
        from pipelines.prompting import Asker

        return Asker(self.recipe.teacher, self.recipe.seed)

    def table(self, name: str) -> pl.DataFrame:
        """Read the table of an earlier stage."""
        return self.folder.read_table(name)


def _texts(build: Build) -> Counts:
    table, counts = read_texts(build.recipe.texts.sources, build.recipe.texts.similarity)
    build.folder.write_table("texts", table)
    return counts


def _attributes(build: Build) -> Counts:
    from pipelines.attributes import enumerate_attributes

    recipe, texts = build.recipe, build.table("texts")
    table, counts = enumerate_attributes(texts, recipe.domain, recipe.attributes, build.asker, build.engine)
    build.folder.write_table("attributes", table)
    return counts


def _perspectives(build: Build) -> Counts:
    from pipelines.perspectives import find_perspectives

    recipe = build.recipe
    encoder = load_encoder(recipe.perspectives.encoder, recipe.runtime.device)
    texts, min_share = len(build.table("texts")), recipe.attributes.min_share
    earlier = build.folder.table_path("perspectives")
    known = ["perspective_id", "members", "mentions"]
    before = pl.read_parquet(earlier, columns=known, glob=False) if earlier.exists() else None
    table, counts = find_perspectives(
        build.table("attributes"), texts, min_share, recipe.perspectives, encoder, recipe.seed, before
    )
    build.folder.write_table("perspectives", table)
    return counts


def _instructions(build: Build) -> Counts:
    from pipelines.instructions import write_instructions

    recipe, folder = build.recipe, build.folder
    perspectives, texts = build.table("perspectives"), build.table("texts")
    encoder = load_encoder(recipe.perspectives.encoder, recipe.runtime.device)
    table, counts = write_instructions(perspectives, texts, recipe.instructions, build.asker, build.engine, encoder)
    if folder.edits_path.exists():
        from pipelines.edits import apply_entries, read_kept_edits

        earlier = folder.read_table("instructions") if folder.table_path("instructions").exists() else None
        entries, seen = read_kept_edits(folder.edits_path)
        table = apply_entries(entries, table, perspectives, seen, earlier)
        counts = {**counts, "kept by a person": table.filter("kept").height}
    folder.write_table("instructions", table)
    if not table["kept"].any():
        raise RunError(f"instructions: none is usable ({dict(counts)}); use a stronger teacher")
    return counts


def _responses(build: Build) -> Counts:
    from pipelines.responses import answer_samples

    texts, instructions = build.table("texts"), build.table("instructions").filter("kept")
    table, counts = answer_samples(texts, instructions, build.recipe.responses, build.asker, build.engine)
    build.folder.write_table("responses", table)
    return counts


def _scores(build: Build) -> Counts:
    from curation.scoring import score_responses

    settings, device = build.recipe.curation, build.recipe.runtime.device
    build.progress.start("loading", total=1)  # the offline student is converted once, which takes a minute
    encoder = load_encoder(settings.encoder, device)
    student = load_causal_lm(settings.student, settings.student_revision, device)
    responses, texts, instructions = build.table("responses"), build.table("texts"), build.table("instructions")
    table, counts = score_responses(responses, texts, instructions, settings, encoder, student, build.progress)
    build.folder.write_table("scores", table)
    return counts


def _decisions(build: Build) -> Counts:
    from curation.decisions import decide

    tables = {name: build.table(name) for name in ("texts", "instructions", "responses", "scores")}
    table, counts = decide(tables, build.recipe.curation, build.recipe.seed)
    build.folder.write_table("decisions", table)
    return counts


def _dataset(build: Build) -> Counts:
    from hub_cards.dataset import write_dataset

    tables = {stage.name: build.table(stage.name) for stage in STAGES if stage.name != "dataset"}
    recipe = build.recipe.model_dump(mode="json")
    return write_dataset(build.folder.dataset_path, tables, build.folder.manifest(), recipe)


_TEACHER = (
    *(f"teacher.{key}" for key in ("backend", "model", "revision", "series", "api", "system_prompt")),
    *(f"teacher.{key}" for key in ("top_p", "top_k", "structured_output", "corrections")),
    "seed",
)
_CALLING = (
    *(f"pipelines.{module}" for module in ("asking", "prompting", "prompts", "calls")),
    "stillhouse.schemas",
    "stillhouse.series",
)
_CHECKING = ("stillhouse.tasks", "pipelines.validation")
STAGES: Sequence[Stage] = (
    Stage(
        "texts",
        needs=(),
        keys=("texts",),
        code=("stillhouse.texts", "stillhouse.lexical", "stillhouse.schemas"),
        run=_texts,
    ),
    Stage(
        "attributes",
        needs=("texts",),
        keys=(*_TEACHER, "domain", "attributes.per_text", "attributes.temperature"),
        code=("pipelines.attributes", "pipelines.names", *_CALLING),
        run=_attributes,
    ),
    Stage(
        "perspectives",
        needs=("attributes",),
        keys=("perspectives", "attributes.min_share", "seed"),
        code=("pipelines.perspectives", "pipelines.clustering", "pipelines.affinity", "stillhouse.encoder"),
        run=_perspectives,
    ),
    Stage(
        "instructions",
        needs=("perspectives",),
        keys=(*_TEACHER, "instructions"),
        code=(
            *(f"pipelines.{module}" for module in ("instructions", "definitions", "demonstrations", "edits")),
            "stillhouse.near_duplicates",
            *_CHECKING,
            *_CALLING,
        ),
        run=_instructions,
    ),
    Stage(
        "responses",
        needs=("instructions",),
        keys=(*_TEACHER, "responses"),
        code=("pipelines.responses", "pipelines.pairing", *_CHECKING, *_CALLING),
        run=_responses,
    ),
    Stage(
        "scores",
        needs=("responses",),
        keys=(
            *(
                f"curation.{key}"
                for key in ("encoder", "student", "student_revision", "series", "max_length", "similarity")
            ),
        ),
        code=("curation.scoring", "curation.difficulty", "stillhouse.near_duplicates", "stillhouse.encoder"),
        run=_scores,
    ),
    Stage(
        "decisions",
        needs=("scores",),
        keys=("curation", "seed"),
        code=("curation.decisions", "curation.selection", "curation.quotas", "stillhouse.draws"),
        run=_decisions,
    ),
    Stage(
        "dataset",
        needs=("decisions",),
        keys=("name", "publish"),
        code=("hub_cards", "stillhouse.coverage", "stillhouse.draws"),
        run=_dataset,
    ),
)


def fingerprints(recipe: Recipe, folder: RunFolder | None = None) -> dict[str, dict[str, str]]:
    """Return per stage the fingerprint and the parts it was made of: recipe, input, code.

    `folder` is where a person's edits of the instructions may lie.
    """
    data = recipe.model_dump(mode="json")
    for source in data["texts"]["sources"]:
        source["path"] = source["path"] and Path(source["path"]).name  # the content counts, not where it lies
    found: dict[str, dict[str, str]] = {}
    for stage in STAGES:
        before = [found[name]["fingerprint"] for name in stage.needs]
        parts = {
            "recipe": _digest({key: _value_at(data, key) for key in stage.keys}),
            "input": _digest(_inputs(stage, recipe, data) + _edits(stage, folder)),
            "code": _digest([_code_digest(module) for module in stage.code]),
        }
        found[stage.name] = {**parts, "fingerprint": _digest([parts, before])}
    return found


def _inputs(stage: Stage, recipe: Recipe, data: dict[str, Any]) -> list[str | None]:
    """Return digests of the files that a stage reads besides tables: text sources, local models."""
    if stage.name == "texts":
        return [_file_digest(file) for source in recipe.texts.sources for file in source_files(source)]
    models = {"teacher.model", "perspectives", "curation.encoder", "curation.student"} & set(stage.keys)
    names = ("perspectives.encoder" if key == "perspectives" else key for key in sorted(models))
    references = [_value_at(data, name) for name in names]
    return [content_digest(one) for some in references for one in ([some] if isinstance(some, str) else some)]


def _edits(stage: Stage, folder: RunFolder | None) -> list[str | None]:
    if stage.name != "instructions" or folder is None or not folder.edits_path.exists():
        return []
    return [_file_digest(folder.edits_path)]


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    names = ("xllamacpp", "vllm", "torch", "transformers", "sentence-transformers", "scikit-learn", "polars")
    installed = {distribution.name.lower(): distribution.version for distribution in metadata.distributions()}
    found = {name: installed[name] for name in names if name in installed}
    return {"stillhouse": __version__, "python": platform.python_version(), **found}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _value_at(data: dict[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return data[section][name] if name else data[section]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _code_digest(module: str) -> str:
    """Hash the source of a module, or all files of a package or data folder, without importing it."""
    root = Path(__file__).parent.parent / module.replace(".", "/")
    single = root.with_suffix(".py")
    files = [single] if single.exists() else sorted(path for path in root.rglob("*") if path.suffix in CODE_SUFFIXES)
    if not files:
        raise RunError(f"stage code {module} is not there; the installation is damaged, install stillhouse again")
    return _digest([[path.name, _file_digest(path)] for path in files])


CODE_SUFFIXES = {".py", ".yaml", ".jinja"}
