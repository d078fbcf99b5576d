"""Dataset folders written of the tables of a run, which a test may change before."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from hub_cards.dataset import Found, write_dataset
from stillhouse.recipe import load_recipe
from stillhouse.schemas import TABLES
from stillhouse.store import RunFolder


@dataclass
class Content:
    """What a dataset is written of; a test may change it."""

    tables: dict[str, pl.DataFrame]
    manifest: dict[str, Any]
    recipe: dict[str, Any]
    found: Found

    def write(self, folder: Path, **found: Any) -> Path:
        """Write the dataset into `folder`; `found` is said besides."""
        write_dataset(folder, self.tables, self.manifest, self.recipe, replace(self.found, **found))
        return folder


def content_of(run: Path) -> Content:
    """Return what the dataset of a finished run is written of."""
    folder = RunFolder(run)
    tables = {name: folder.read_table(name) for name in TABLES}
    recipe = load_recipe(folder.recipe_path).model_dump(mode="json")
    return Content(tables, folder.manifest(), recipe, Found(folder.findings(), folder.found_by_gates()))


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the facts in a dataset folder."""
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder by their paths."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
