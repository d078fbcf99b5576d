"""What describes a trained student: its card and the picture of its loss, from the facts that training wrote."""

import json
from pathlib import Path

from hub_cards.card import model_card
from hub_cards.plots import write_loss_plot
from stillhouse.errors import InputError
from stillhouse.store import write_atomically


def write_model_card(folder: Path, repo: str | None = None) -> None:
    """Write the card of a student that `stillhouse train` made; `repo` is where on the Hub it goes.

    Raises InputError where the folder has no facts of a training.
    """
    path = folder / "facts.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "base_model" not in facts:
        raise InputError(f"{folder} is not a student that `stillhouse train` made: it has no facts.json of a training")
    facts["repo"] = repo
    write_atomically(path, (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())
    pictures = write_loss_plot(facts["losses"], folder)
    write_atomically(folder / "README.md", model_card(facts, pictures).encode())
