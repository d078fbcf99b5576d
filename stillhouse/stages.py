"""The stages in their order: what each reads, which recipe keys and code change its rows, and how it is run.

A recipe's texts go through STAGES; somebody else's prompts and completions (`imported` in the recipe) are taken in as
responses and go through IMPORT_STAGES.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from stillhouse.build import Build, Stage
from stillhouse.checkpoint import Checkpoint
from stillhouse.coverage import Table
from stillhouse.encoder import load_embedding, load_encoder
from stillhouse.errors import RunError
from stillhouse.places import Here, Result, Work, unheard
from stillhouse.progress import Counts, Progress
from stillhouse.recipe import Recipe
from stillhouse.schemas import TABLES
from stillhouse.sections import Imported
from stillhouse.store import RunFolder, write_atomically, write_parquet
from stillhouse.texts import read_texts

if TYPE_CHECKING:
    from curation.difficulty import Score
    from curation.vectors import SampleVectors


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


def _imported(build: Build) -> Counts:
    from stillhouse.imported import import_pairs

    settings = build.recipe.imported or Imported.model_validate({})
    tables, rows, counts = import_pairs(build.recipe.texts.sources, settings)
    write_parquet(build.folder.imported_path, rows)
    for name, table in tables.items():
        build.folder.write_table(name, table)
    return counts


def _responses(build: Build) -> Counts:
    from pipelines.responses import answer_samples

    texts, instructions = build.table("texts"), build.table("instructions").filter("kept")
    table, counts = answer_samples(texts, instructions, build.recipe.responses, build.asker, build.engine)
    build.folder.write_table("responses", table)
    return counts


def _scores(build: Build) -> Counts:
    from curation.difficulty import load_scorer
    from curation.scoring import score_table, valid_samples

    recipe, folder = build.recipe, build.folder
    valid = valid_samples(*(folder.scan_table(name) for name in ("responses", "texts", "instructions")))
    vectors = _vectors(build, valid)
    make = _ready(build, partial(load_scorer, recipe.curation, recipe.runtime.device))
    table, counts = score_table(valid, vectors, recipe.curation, make, _checkpoint(build), build.progress, build.place)
    folder.write_table("scores", table)
    return counts


def _ready(build: Build, make: Callable[[], Work[Result]]) -> Callable[[], Work[Result]]:
    """Return what makes workers; in this process the model is loaded now, once."""
    if not isinstance(build.place, Here):
        return make
    build.progress.start("loading", total=1)  # the offline student is converted once, which takes a minute
    loaded = make()
    return lambda: loaded


def _checkpoint(build: Build) -> Checkpoint:
    return Checkpoint(build.folder.difficulty_path, build.digest(_SCORER, _SCORING))


def _vectors(build: Build, valid: pl.LazyFrame) -> "SampleVectors":
    """Return the embeddings of the valid samples, from the run folder where they are there."""
    from curation.vectors import IMPORTED_PARTS, PARTS, content_of, embed_parts, load_vectors, write_vectors

    parts = IMPORTED_PARTS if build.recipe.imported else PARTS
    about = build.digest(("curation.encoder",), ("curation.vectors", "stillhouse.encoder")) + content_of(valid, parts)
    path = build.folder.vectors_path
    known = load_vectors(path, about)
    if known is None:
        make = _ready(build, partial(load_embedding, build.recipe.curation.encoder, build.recipe.runtime.device))
        distinct = valid.select(pl.col(part).n_unique() for part in parts).collect()
        build.progress.start("embedding", total=sum(distinct.row(0)))
        encode = partial(build.place.each, make, tell=unheard)
        ids = valid.select("sample_id").collect().to_series()
        write_vectors(path, about, ids.to_list(), embed_parts(valid, parts, encode, build.progress.update))
        known = load_vectors(path, about)
    if known is None:
        raise RunError(f"{path} cannot be read back; is the disk broken?")
    return known


def _decisions(build: Build) -> Counts:
    from curation.decisions import decide, samples_of, tables_for
    from curation.vectors import vectors_of

    samples = samples_of({name: build.folder.scan_table(name) for name in tables_for(build.recipe.curation)})
    table, counts = decide(samples, build.recipe.curation, build.recipe.seed, vectors_of(build.folder.vectors_path))
    build.folder.write_table("decisions", table)
    return counts


def _audit(build: Build) -> Counts:
    table, findings, counts = audit_samples(build, build.folder.scan_table("decisions"))
    build.folder.write_table("audit", table)
    write_atomically(build.folder.findings_path, json.dumps(findings, indent=2).encode())
    return counts


def audit_samples(build: Build, decisions: Table) -> tuple[pl.DataFrame, dict[str, Any], Counts]:
    """Return what people's verdicts make of the samples that `decisions` keep, the findings, and the counts."""
    from curation.audit.assessment import assess
    from curation.audit.outcome import audit_table, judged_samples
    from curation.audit.population import kept_and_judged, population_of, without
    from curation.audit.rounds import Rounds

    folder, settings, rounds = build.folder, build.recipe.review, Rounds(build.folder.review_path)
    tables = {name: folder.scan_table(name) for name in ("texts", "instructions", "responses")}
    tables["decisions"] = decisions.lazy()
    population, settlement = population_of(tables), rounds.settlement(settings.arbiter)
    findings = assess(without(population, rounds.dropped), rounds, settings)
    samples = judged_samples(kept_and_judged(population, settlement, rounds.dropped), tables)
    table, counts = audit_table(samples, settlement, rounds.dropped, _scorer(build))
    return table, findings, counts


def _scorer(build: Build) -> Callable[[Sequence[tuple[str, str]]], "list[Score]"]:
    """Return what scores prompts with answers; the student is loaded when there are some."""

    def score(pairs: Sequence[tuple[str, str]]) -> "list[Score]":
        from curation.difficulty import load_scorer, score_few

        if not pairs:
            return []
        build.progress.start("loading", total=1)
        scorer = load_scorer(build.recipe.curation, build.recipe.runtime.device)
        return score_few(pairs, scorer, _checkpoint(build))

    return score


def _gates(build: Build) -> Counts:
    tables = {name: build.folder.scan_table(name) for name in TABLES if name != "gates"}
    table, found, counts = gates_of(build, tables)
    build.folder.write_table("gates", table)
    write_atomically(build.folder.gates_path, json.dumps(found, indent=2).encode())
    return counts


def gates_of(build: Build, tables: Mapping[str, Table]) -> tuple[pl.DataFrame, dict[str, Any], Counts]:
    """Return what the gates make of samples and instructions, what they found, and the counts."""
    from hub_cards.evaluation import load_evaluation
    from hub_cards.gates import gate

    settings, progress = build.recipe.publish, build.progress
    evaluation = load_evaluation(settings.leaks)
    encoder = None
    if settings.leaks.similarity and len(evaluation.worded):
        encoder = load_encoder(build.recipe.curation.encoder, build.recipe.runtime.device)
    table, found = gate(tables, settings, evaluation, encoder, _scorer(build), progress)
    counts = {outcome: table.filter(pl.col("outcome") == outcome).height for outcome in ("excluded", "redacted")}
    return table, found, counts


def _dataset(build: Build) -> Counts:
    from hub_cards.dataset import Found, write_dataset

    folder, tables = build.folder, {name: build.folder.scan_table(name) for name in TABLES}
    found = Found(folder.findings(), folder.found_by_gates())
    return write_dataset(folder.dataset_path, tables, folder.manifest(), build.recipe.model_dump(mode="json"), found)


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
_SCORER = tuple(
    f"curation.{key}"
    for key in ("student", "student_revision", "proxy", "proxy_revision", "dtype", "series", "max_length")
)
_SCORING = (
    *(f"curation.{module}" for module in ("difficulty", "student", "kernels")),
    *(f"stillhouse.{module}" for module in ("reading", "prefixes", "series")),
)
_CURATION = (
    Stage(
        "scores",
        needs=("responses",),
        keys=(*_SCORER, "curation.encoder", "curation.similarity", "curation.duplicates"),
        code=("curation.scoring", *_SCORING, "curation.vectors", "stillhouse.near_duplicates", "stillhouse.encoder"),
        run=_scores,
    ),
    Stage(
        "decisions",
        needs=("scores",),
        keys=("curation", "seed"),
        code=(
            *(f"curation.{module}" for module in ("decisions", "selection", "diversity", "quotas")),
            "stillhouse.draws",
        ),
        run=_decisions,
    ),
    Stage(
        "audit",
        needs=("decisions",),
        keys=(*_SCORER, *(f"review.{key}" for key in ("bar", "confidence", "arbiter"))),
        code=("curation.audit", *_SCORING, "stillhouse.tasks"),
        run=_audit,
    ),
    Stage(
        "gates",
        needs=("decisions", "audit"),
        keys=(*_SCORER, "publish.leaks", "publish.private", "curation.encoder"),
        code=(
            *(f"hub_cards.{module}" for module in ("gates", "evaluation", "leaks", "wording", "privacy", "personal")),
            *(f"hub_cards.{module}" for module in ("credentials", "data", "rows")),
            "stillhouse.schemas",
            *_SCORING,
        ),
        run=_gates,
    ),
    Stage(
        "dataset",
        needs=("decisions", "audit", "gates"),
        keys=("name", "publish"),
        code=("hub_cards", "stillhouse.coverage", "stillhouse.draws"),
        run=_dataset,
    ),
)
STAGES: Sequence[Stage] = (
    Stage(
        "texts",
        needs=(),
        keys=("texts",),
        code=("stillhouse.texts", "stillhouse.files", "stillhouse.lexical", "stillhouse.schemas"),
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
    *_CURATION,
)
IMPORT_STAGES: Sequence[Stage] = (
    Stage(
        "responses",
        needs=(),
        keys=("texts", "imported"),
        code=(*(f"stillhouse.{module}" for module in ("imported", "pairs", "files", "texts", "schemas")),),
        run=_imported,
    ),
    *_CURATION,
)


def stages_of(recipe: Recipe) -> Sequence[Stage]:
    """Return the stages that a recipe goes through."""
    return IMPORT_STAGES if recipe.imported else STAGES


def build_of(recipe: Recipe, folder: RunFolder, progress: Progress) -> Build:
    """Return a build of a recipe into a run folder."""
    return Build(recipe, folder, progress, stages_of(recipe))
