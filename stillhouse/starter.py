"""What `stillhouse init` puts into a folder: a commented recipe, a sample of texts, the recipes' JSON Schema."""

import re
from itertools import islice
from pathlib import Path

import yaml

from stillhouse.errors import InputError, RunError
from stillhouse.store import write_atomically

RECIPES = Path(__file__).parent.parent / "recipes"  # beside the packages, in the checkout and in the wheel
SAMPLE = 42  # texts: six of each domain


def start_in(folder: Path) -> list[Path]:
    """Write the files that a first run needs into a folder, which may be new; return them.

    Raises InputError, and writes nothing, where one of them exists.
    """
    content = _files(_name_of(folder))
    taken = [name for name in content if (folder / name).exists()]
    if taken:
        raise InputError(f"{folder} has {', '.join(taken)} already; give another folder, or move them away first")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in content]


def _files(name: str) -> dict[str, str]:
    try:
        with (RECIPES / "demo_texts.jsonl").open(encoding="utf-8") as texts:
            sample = "".join(islice(texts, SAMPLE))
        recipe, schema = (
            (RECIPES / file).read_text(encoding="utf-8") for file in ("starter.yaml", "recipe.schema.json")
        )
    except FileNotFoundError as error:
        raise RunError(f"{error.filename} is not there; install stillhouse again") from error
    recipe = recipe.replace("name: starter\n", yaml.safe_dump({"name": name}), 1)  # a number has to be quoted
    return {"recipe.yaml": recipe, "texts.jsonl": sample, "recipe.schema.json": schema}


def _name_of(folder: Path) -> str:
    """Return the name of the run: the folder's, as far as a name may have its characters."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name).lstrip("._-")[:80] or "starter"
