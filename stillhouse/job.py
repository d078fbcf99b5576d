"""What the commands do: a build with a display around it. Every command is also one of these calls."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from stillhouse.build import STAGES, Build
from stillhouse.display import Display
from stillhouse.errors import InputError
from stillhouse.recipe import load_recipe
from stillhouse.schemas import TABLES
from stillhouse.store import RunFolder

SAMPLES_SHOWN = 3


def run_job(recipe_path: Path, out: Path | None = None, until: str | None = None, update: bool = False) -> RunFolder:
    """Run a recipe with progress and a closing summary; return the run folder."""
    names = [stage.name for stage in STAGES]
    if until is not None and until not in names:
        raise InputError(f"--until {until}: no such stage; stages are {', '.join(names)}")
    recipe = load_recipe(recipe_path)
    folder = RunFolder(out or Path("runs") / recipe.name)
    quiet_libraries()
    display = Display(Console())
    display.header(recipe, recipe_path, folder.path)
    with display:
        manifest = Build(recipe, folder, display).run(until, update)
    display.summary(funnel_of(folder), manifest, samples_of(folder))
    if "dataset" in manifest["stages"]:
        display.next_command(
            f"stillhouse status {folder.path}",
            f"stillhouse train {folder.dataset_path} --student {recipe.curation.student} --out students/{recipe.name}",
        )
    else:
        display.next_command(f"stillhouse run {recipe_path}" + (f" --out {out}" if out else ""))
    return folder


def show_status(path: Path, as_json: bool = False) -> dict[str, Any]:
    """Print the stages and the funnel of a run; return them."""
    folder = RunFolder(path)
    if not (path / "manifest.json").exists():
        raise InputError(f"{path} is not a run folder: it has no manifest.json")
    manifest, funnel = folder.manifest(), funnel_of(folder)
    missing = [stage.name for stage in STAGES if stage.name not in manifest["stages"]]
    report = {"name": manifest.get("name"), "funnel": funnel, "stages": manifest["stages"], "missing": missing}
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        console = Console()
        Display(console).summary(funnel, manifest, [])
        console.print(f"Not done yet: {', '.join(missing)}" if missing else "All stages are done.")
    return report


def funnel_of(folder: RunFolder) -> dict[str, int]:
    """Count the rows of each step from the tables on disk."""
    from hub_cards.facts import funnel

    done = folder.manifest()["stages"]
    return funnel({name: folder.read_table(name) for name in TABLES if name in done})


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
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
