"""The dataset folder: Parquet per config and split, the card, the facts; written whole, then put in place."""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from hub_cards.facts import collect_facts
from hub_cards.rows import Tables, audited, corrections, published_rows, split_by_text
from stillhouse.errors import RunError
from stillhouse.recipe import UNKNOWN
from stillhouse.store import replace_folder

TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md.jinja"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_dataset(
    target: Path,
    tables: Tables,
    manifest: dict[str, Any],
    recipe: dict[str, Any],
    findings: dict[str, Any],
    waiver: str | None = None,
) -> dict[str, int]:
    """Write the folder that `datasets.load_dataset(target)` and Polars read; return rows per config.

    Configs: `default` (kept), `rejected` (with filter and reason), `instructions`, `perspectives`, `corrections` (by
    people). `findings` are those of the audit; `waiver` is why it is published although that did not accept it.
    """
    corrected, tables = corrections(tables), audited(tables)
    kept, rejected = published_rows(tables, UNKNOWN if recipe["imported"] else recipe["teacher"]["model"])
    if kept.is_empty():
        raise RunError("no row is left to publish: `stillhouse inspect RUN audit --by reason` says why")
    configs = {
        "default": split_by_text(kept, recipe["publish"]["test_share"]),
        "rejected": {"train": rejected},
        "instructions": {"train": tables["instructions"]},
        "perspectives": {"train": tables["perspectives"]},
        "corrections": {"train": corrected},
    }
    configs = {name: splits for name, splits in configs.items() if any(len(rows) for rows in splits.values())}
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    layout = {name: _write_splits(partial / name, splits) for name, splits in configs.items()}
    facts = {**collect_facts(tables, manifest, recipe, findings), "waiver": waiver}
    (partial / "facts.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(render_card(facts, layout, len(kept)), encoding="utf-8")
    replace_folder(partial, target)
    return {name: sum(len(rows) for rows in splits.values()) for name, splits in configs.items()}


def _write_splits(folder: Path, splits: dict[str, pl.DataFrame]) -> dict[str, str]:
    """Write one file per split and return their names.

    A name holds a digest of its rows: `datasets` caches a local folder by its file names and would go on serving the
    rows of an earlier build.
    """
    folder.mkdir(parents=True)
    names: dict[str, str] = {}
    for split, rows in splits.items():
        content = io.BytesIO()
        rows.write_parquet(content)
        names[split] = f"{split}-{hashlib.sha256(content.getvalue()).hexdigest()[:12]}.parquet"
        (folder / names[split]).write_bytes(content.getvalue())
    return names


def render_card(facts: dict[str, Any], configs: dict[str, dict[str, str]], rows: int) -> str:
    """Return the README of the dataset: YAML metadata of the Hub's specification, and the text.

    `configs` names the file of each split of each config; `rows` is the size of the default config.
    """
    metadata: dict[str, Any] = {
        "license": (facts["licence"] or "").lower(),  # the Hub writes SPDX ids in lower case
        "language": facts["languages"],
        "pretty_name": facts["name"],
        "size_categories": [next((label for limit, label in SIZES if rows < limit), "n>1M")],
        "task_categories": ["text-generation", "text-classification"],
        "annotations_creators": [] if facts["imported"] else ["machine-generated"],
        "tags": ["distillation", "synthetic", "stillhouse"],
        "configs": [
            {
                "config_name": name,
                "data_files": [{"split": split, "path": f"{name}/{file}"} for split, file in splits.items()],
                **({"default": True} if name == "default" else {}),
            }
            for name, splits in configs.items()
        ],
    }
    header = yaml.safe_dump({key: value for key, value in metadata.items() if value}, sort_keys=False)
    environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
    environment.filters["literal"] = _literal
    environment.filters["figure"] = lambda value: "unknown" if value is None else f"{value:.3f}"
    environment.filters["percent"] = lambda value: "unknown" if value is None else f"{value:.1%}"
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts=facts, splits=configs["default"])
    return f"---\n{header}---\n\n{body}"


def _literal(value: object) -> str:
    """Show untrusted text as text: no Markdown, HTML or table syntax of its own."""
    text = "unknown" if value is None else " ".join(str(value).split())
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#!" else character for character in escaped)
