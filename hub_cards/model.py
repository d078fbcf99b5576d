"""What describes a trained student: its card and the picture of its loss, from the facts that training wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_cards.card import model_card
from hub_cards.plots import write_loss_plot
from stillhouse.errors import InputError
from stillhouse.store import write_atomically, write_json

BENCHMARK_KEYS = ("benchmark", "shots", "seeds", "limit", "wording", "sets", "categories", "mean")  # shown in a card


def student_facts(folder: Path) -> dict[str, Any]:
    """Return the facts of a student that `stillhouse train` made. Raises InputError where the folder has none."""
    path = folder / "facts.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "base_model" not in facts:
        raise InputError(f"{folder} is not a student that `stillhouse train` made: it has no facts.json of a training")
    return facts


def write_model_card(folder: Path, repo: str | None = None) -> None:
    """Write the card of a student that `stillhouse train` made; `repo` is where on the Hub it goes.

    Raises InputError where the folder has no facts of a training.
    """
    _write(folder, student_facts(folder) | {"repo": repo})


def add_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write what a benchmark measured into facts and card of a student. Raises InputError as `write_model_card`."""
    _write(
        folder, {"repo": None} | student_facts(folder) | {"benchmark": {key: results[key] for key in BENCHMARK_KEYS}}
    )


def _write(folder: Path, facts: dict[str, Any]) -> None:
    write_json(folder / "facts.json", facts)
    held_out = (facts["held_out"] or {}).get("by_step", [])
    pictures = write_loss_plot(facts["losses"], held_out, folder)
    write_atomically(folder / "README.md", model_card(facts, pictures).encode())
