"""The dataset folder: Parquet per config and split, card, facts, recipe, pictures; written whole, then put in place."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from hub_cards.card import dataset_card
from hub_cards.croissant import croissant
from hub_cards.facts import collect_facts, published_recipe
from hub_cards.gates import gated, gated_corrections
from hub_cards.plots import write_plots
from hub_cards.rows import audited, corrections, lazy, published_rows, split_by_text
from hub_cards.shards import write_shards
from hub_cards.versions import changes_since
from stillhouse.coverage import Table
from stillhouse.errors import RunError
from stillhouse.sections import UNKNOWN
from stillhouse.store import replace_folder


@dataclass(frozen=True)
class Found:
    """What was found in a run besides its tables: by people, by the gates, and why it is published all the same."""

    audit: dict[str, Any]
    gates: dict[str, Any]
    waiver: str | None = None
    former: dict[str, Any] | None = None  # the facts of the version before
    repo: str | None = None  # where on the Hub it goes


def write_dataset(
    target: Path, tables: Mapping[str, Table], manifest: dict[str, Any], recipe: dict[str, Any], found: Found
) -> dict[str, int]:
    """Write the folder that `datasets.load_dataset(target)` and Polars read; return rows per config.

    Configs: `default` (kept), `rejected` (with filter and reason), `instructions`, `perspectives`, `corrections` (by
    people). Raises RunError where no row is left.
    """
    shown = published_recipe(recipe)
    corrected, gates = corrections(lazy(tables)), tables["gates"].lazy()
    left = gated(audited(lazy(tables)), gates)
    kept, rejected = published_rows(left, UNKNOWN if recipe["imported"] else shown["teacher"]["model"])
    configs = {
        "default": kept,
        "rejected": rejected,
        "instructions": left["instructions"],
        "perspectives": left["perspectives"],
        "corrections": gated_corrections(corrected.lazy(), gates),
    }
    heights = {name: rows.select(pl.len()).collect().item() for name, rows in configs.items()}
    if not heights["default"]:
        raise RunError("no row is left to publish: `stillhouse inspect RUN audit --by reason`, or gates, says why")
    splits = {name: {"train": rows} for name, rows in configs.items() if heights[name]}
    splits["default"] = split_by_text(kept, recipe["publish"]["test_share"])
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    layout = {
        name: {split: write_shards(partial / name, split, rows) for split, rows in parts.items()}
        for name, parts in splits.items()
    }
    facts = collect_facts(left, manifest, shown, found.audit, found.gates)
    facts |= {"waiver": found.waiver, "repo": found.repo}
    facts["changes"] = changes_since(found.former, json.loads(json.dumps(facts)))
    _write_about(partial, facts, shown, layout)
    replace_folder(partial, target)
    return {name: heights[name] for name in splits}


def _write_about(
    folder: Path, facts: dict[str, Any], recipe: dict[str, Any], layout: dict[str, dict[str, list[str]]]
) -> None:
    """Write what describes the rows: facts, recipe, pictures, Croissant metadata, card."""
    content = {
        "facts.json": json.dumps(facts, indent=2, ensure_ascii=False) + "\n",
        "recipe.yaml": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        "croissant.json": croissant(facts, layout, folder),
        "README.md": dataset_card(facts, layout, write_plots(facts, folder)),
    }
    for name, text in content.items():
        (folder / name).write_text(text, encoding="utf-8")
