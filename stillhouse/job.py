"""What the commands do: a build with a display around it. Every command is also one of these calls."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console

from stillhouse.coverage import Table, coverage, funnel, unmet_quotas
from stillhouse.cuts import Cut, difference, diversity_of, last_cut, make_cuts
from stillhouse.display import Display, print_json
from stillhouse.errors import InputError
from stillhouse.planning import make_plan, over_cap, totals
from stillhouse.progress import Unseen
from stillhouse.recipe import Recipe, load_recipe
from stillhouse.schemas import TABLES
from stillhouse.scored import score_file, summary_of
from stillhouse.sections import Curation, Imported, TextSource
from stillhouse.stages import STAGES, audit_samples, build_of, gates_of, stages_of
from stillhouse.store import RunFolder, write_atomically, write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.edits import Entry

SAMPLES_SHOWN = 3


def run_job(
    origin: Path | Recipe, out: Path | None = None, until: str | None = None, update: bool = False
) -> RunFolder:
    """Run a recipe, or its file, with progress and a closing summary; return the run folder."""
    recipe = origin if isinstance(origin, Recipe) else load_recipe(origin)
    names = [stage.name for stage in stages_of(recipe)]
    if until is not None and until not in names:
        raise InputError(f"--until {until}: no such stage; stages are {', '.join(names)}")
    folder = RunFolder(out or Path("runs") / recipe.name)
    display = Display(Console())
    told = folder.recipe_path if isinstance(origin, Recipe) else origin
    manifest = _build(recipe, str(told), folder, display, until, update)
    if "dataset" in manifest["stages"]:
        display.next_command(
            f"stillhouse report {folder}",
            f"stillhouse status {folder}",
            f"stillhouse train {folder}/dataset --student {recipe.curation.student} --out students/{recipe.name}",
        )
    else:
        display.next_command(f"stillhouse run {told}" + (f" --out {folder}" if out else ""))
    return folder


def _build(
    recipe: Recipe, origin: str, folder: RunFolder, display: Display, until: str | None = None, update: bool = False
) -> dict[str, Any]:
    """Run a recipe with progress and a closing summary; return the manifest."""
    quiet_libraries()
    display.header(recipe, origin, str(folder))
    with display:
        manifest = build_of(recipe, folder, display).run(until, update)
    display.summary(funnel_of(folder), manifest, samples_of(folder))
    return manifest


def curate_data(recipe: Recipe, out: Path | None = None, update: bool = False) -> RunFolder:
    """Curate prompts and completions that somebody else made (`recipe.imported`); return the run folder.

    Besides what a run makes, `kept.parquet` has the rows that are kept, with all columns they came with.
    """
    folder = RunFolder(out or Path("runs") / recipe.name)
    display = Display(Console())
    _build(
        recipe,
        ", ".join(source.dataset or str(source.path) for source in recipe.texts.sources),
        folder,
        display,
        update=update,
    )
    with folder.locked():
        write_kept(folder, display)
    display.next_command(f"stillhouse inspect {folder} decisions --by reason", f"stillhouse select {folder} --rate 0.5")
    return folder


def write_kept(folder: RunFolder, display: Display) -> None:
    """Write the kept rows of a run of imported data, with all columns they came with."""
    from stillhouse.imported import kept_rows

    rows, path = pl.read_parquet(folder.imported_path, glob=False), folder.path / "kept.parquet"
    kept = kept_rows(rows, *(folder.read_table(name) for name in ("decisions", "scores", "audit")))
    write_parquet(path, kept)
    display.console.print(f"{len(kept):,} rows kept, with all their columns: {path}")


def show_plan(origin: Path | Recipe, out: Path | None = None, probe: int = 0, as_json: bool = False) -> dict[str, Any]:
    """Print what a run of a recipe, or of its file, will ask, use, cost and fill; return it."""
    quiet_libraries()
    recipe = origin if isinstance(origin, Recipe) else load_recipe(origin)
    folder = RunFolder(out or Path("runs") / recipe.name)
    console = Console(stderr=as_json)
    display = Display(console)
    with display:
        report = make_plan(recipe, folder, display, probe)
    if as_json:
        print_json({**report, "total": totals(report)})
        return report
    display.plan(report, totals(report), recipe.teacher.price)
    for sentence in over_cap(report, recipe):
        display.warn(sentence)
    if not isinstance(origin, Recipe):
        display.next_command(f"stillhouse run {origin}" + (f" --out {folder}" if out else ""))
    return report


def show_status(path: Path, as_json: bool = False) -> dict[str, Any]:
    """Print the stages and the funnel of a run; return them."""
    folder = opened(path)
    report = status_of(folder)
    if as_json:
        print_json(report)
        return report
    console = Console()
    display = Display(console)
    display.summary(report["funnel"], folder.manifest(), [])
    found, unmet = coverage_of(folder)
    if found is not None:
        display.coverage(found, unmet)
    if "audit" in report:
        console.print(f"Audit by people: {report['audit']['decision']}; {report['audit']['why']}")
    missing = ", ".join(report["missing"])
    console.print(f"Not done yet: {missing}" if missing else "All stages are done.")
    return report


def status_of(folder: RunFolder) -> dict[str, Any]:
    """Return the stages and the funnel of a run, its coverage, and what the audit says, as far as they are there."""
    manifest = folder.manifest()
    stages = stages_of(load_recipe(folder.recipe_path))
    missing = [stage.name for stage in stages if stage.name not in manifest["stages"]]
    report = {"name": manifest.get("name"), "funnel": funnel_of(folder), "stages": manifest["stages"]}
    report["missing"] = missing
    found, unmet = coverage_of(folder)
    if found is not None:
        report |= {"coverage": found.to_dicts(), "unmet_quotas": unmet}
    if "audit" in manifest["stages"]:
        audit = folder.findings()
        report["audit"] = {key: audit[key] for key in ("decision", "why")}
    return report


def funnel_of(folder: RunFolder) -> dict[str, int]:
    """Count the rows of each step from the tables on disk."""
    return funnel({name: folder.scan_table(name) for name in folder.made()})


def coverage_of(folder: RunFolder) -> tuple[pl.DataFrame | None, list[dict[str, Any]]]:
    """Return the coverage matrix (None before `responses`) and the quotas that were not met."""
    done = folder.made()
    if "responses" not in done:
        return None, []
    names = ("texts", "perspectives", "instructions", "responses", "decisions")
    found = coverage({name: folder.scan_table(name) for name in names if name in done})
    quotas = load_recipe(folder.recipe_path).curation.quotas
    return found, unmet_quotas(found, quotas) if "decisions" in done else []


def export_instructions(path: Path, to: Path) -> int:
    """Write the kept instructions of a run into a YAML file that a person can edit; return their number."""
    from pipelines.edits import export_instructions as exported

    folder = opened(path)
    instructions = folder.read_table("instructions")
    if to.exists():
        raise InputError(f"{to} exists; give another file, or delete it first")
    to.write_text(exported(instructions, folder.read_table("perspectives")), encoding="utf-8")
    return instructions.filter("kept").height


def import_instructions(path: Path, file: Path) -> dict[str, int]:
    """Put an edited file in the place of a run's instructions; return how many are kept, edited and left out.

    A copy is kept in the run folder. The stages from `instructions` on run again at the next `run`; answers of
    the teacher that still fit are used again. Raises InputError, and changes nothing, where the file has a fault.
    """
    from pipelines.edits import LEFT_OUT, read_entries

    folder = opened(path)
    if load_recipe(folder.recipe_path).imported:
        raise InputError(f"{path} was curated from prompts and completions that existed; its instructions are not used")
    with folder.locked():
        table = put_instructions(folder, read_entries(file))
        undo_stages(folder, "instructions")
    edited = table.filter("kept", pl.col("lineage").struct.field("edited")).height
    left_out = table.filter(pl.col("reason") == LEFT_OUT).height
    return {"kept": table.filter("kept").height, "edited": edited, "left out": left_out}


def put_instructions(folder: RunFolder, entries: "Sequence[Entry]") -> pl.DataFrame:
    """Put edited entries in the place of a run's instructions; return the table. Their stages have to run again."""
    from pipelines.edits import apply_entries, kept_edits

    shown = folder.read_table("instructions")
    table = apply_entries(entries, shown, folder.read_table("perspectives"))
    write_atomically(folder.edits_path, kept_edits(entries, shown).encode())
    folder.write_table("instructions", table)
    return table


def undo_stages(folder: RunFolder, first: str) -> None:
    """Take a stage and those after it out of the manifest: what they are made of has changed on purpose."""
    manifest = folder.manifest()
    names = [stage.name for stage in STAGES]
    for name in names[names.index(first) :]:
        manifest["stages"].pop(name, None)
    folder.write_manifest(manifest)


def score_pairs(
    source: TextSource, columns: Imported, settings: Curation, device: str, out: Path, as_json: bool = False
) -> dict[str, Any]:
    """Score prompts and completions of a file or dataset, print a summary, and return it."""
    quiet_libraries()
    display = Display(Console(stderr=as_json))
    with display:
        table = score_file(source, columns, settings, device, out, display)
    report = {**summary_of(table), "out": str(out)}
    if as_json:
        print_json(report)
    else:
        display.scores(report)
    return report


def select_cuts(
    path: Path, changes: dict[str, Any], name: str | None, controls: list[str], write: bool, as_json: bool = False
) -> list[dict[str, Any]]:
    """Decide anew from stored scores, print what changes against the last cut, and return it."""
    from curation.vectors import load_vectors

    folder = opened(path)
    with folder.locked():
        before = last_cut(folder)
        cuts = make_cuts(folder, changes, name, controls)
        for cut in cuts if write else []:
            write_cut_dataset(folder, cut)
    reports, vectors = [], load_vectors(folder.vectors_path)
    for cut in cuts:
        figures = {**asdict(difference(cut, before)), "diversity": diversity_of(vectors, cut)}
        reports.append({"name": cut.name, "counts": cut.counts, **figures})
        before = cuts[0].name, cuts[0].decisions.select("sample_id", "kept")
    if as_json:
        print_json(reports)
        return reports
    display = Display(Console())
    display.cuts(reports)
    student = load_recipe(folder.recipe_path).curation.student
    display.next_command(
        f"stillhouse train {folder}/cuts/{cuts[0].name}/dataset --student {student} --out students/{cuts[0].name}"
        if write
        else "The same with --dataset, which writes folders to train on"
    )
    return reports


def write_cut_dataset(folder: RunFolder, cut: Cut) -> Path:
    """Write a cut as a dataset folder of its own; return it."""
    from hub_cards.dataset import Found, write_dataset

    recipe = load_recipe(folder.recipe_path)
    recipe = recipe.model_copy(update={"name": f"{recipe.name}-{cut.name}"[:80], "curation": cut.settings})
    made = recipe.model_dump(mode="json")
    if cut.control_of:
        kind = cut.name.removeprefix(f"{cut.control_of}-")
        made["curation"] |= {"strategy": f"{kind}, as many as in the cut {cut.control_of}", "quotas": []}
    build = build_of(recipe, folder, Unseen())
    tables: dict[str, Table] = {
        name: folder.scan_table(name) for name in TABLES if name not in ("decisions", "audit", "gates")
    }
    tables["decisions"] = cut.decisions
    tables["audit"], findings, _ = audit_samples(build, cut.decisions)
    tables["gates"], gates, _ = gates_of(build, tables)
    target = folder.cut_path(cut.name) / "dataset"
    write_dataset(target, tables, folder.manifest(), made, Found(findings, gates))
    return target


def opened(path: Path) -> RunFolder:
    """Return a run folder. Raises InputError where it is none."""
    if not (path / "manifest.json").exists():
        raise InputError(f"{RunFolder(path)} is not a run folder: it has no manifest.json")
    return RunFolder(path)


def samples_of(folder: RunFolder) -> list[dict[str, Any]]:
    """Return a few published rows: the hardest of each task type first, then the next hardest."""
    if "dataset" not in folder.manifest()["stages"]:
        return []
    files = sorted((folder.dataset_path / "default").iterdir())
    rows = pl.scan_parquet(files, glob=False).sort(["difficulty", "id"], descending=[True, False])
    place = pl.col("difficulty").cum_count().over("task_type")
    return rows.sort(place, maintain_order=True).head(SAMPLES_SHOWN).collect().to_dicts()


def quiet_libraries() -> None:
    """Let the libraries below speak only of errors; must run before they are imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # it logs errors that it raises too, with whole tables
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
