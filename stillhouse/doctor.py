"""`stillhouse doctor`: everything that a run needs is looked at before it is needed, one line each, with the remedy."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from stillhouse.checks import Check, check_machine, examined
from stillhouse.display import print_json
from stillhouse.errors import InputError, RunError
from stillhouse.inspection import plain
from stillhouse.needs import check_argilla, check_hub, check_needs
from stillhouse.recipe import Recipe, load_recipe
from stillhouse.sections import Review

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "fault": ("✗", "bold red"), "not asked": ("·", "dim")}
NAME_WIDTH = 24


def show_checks(recipe_path: Path | None = None, as_json: bool = False) -> list[dict[str, Any]]:
    """Look at this machine, at servers and at what a recipe names; print each check and return all of them.

    Raises RunError where one of them is a fault.
    """
    console, found = Console(), []
    for part, checks in _parts(recipe_path):
        if not as_json:
            console.print(Text(f"\n{part}", style="bold"))
        for check in checks:
            found.append({"part": part, **asdict(check)})
            if not as_json:
                _show(check, console)
    faults = [check["name"] for check in found if check["state"] == "fault"]
    if as_json:
        print_json(found)
    if faults:
        raise RunError(f"{len(faults)} fault(s): {', '.join(faults)}. What to do is said above")
    return found


def _parts(recipe_path: Path | None) -> Iterator[tuple[str, Iterator[Check]]]:
    """Yield the parts, each with its checks, which are made while they are read."""
    recipe: Recipe | None = None
    if recipe_path:
        try:
            recipe = load_recipe(recipe_path)
            stated = Check("recipe", "ok", f"{recipe_path} is valid; it makes the run {recipe.name}")
        except InputError as error:
            stated = Check("recipe", "fault", str(error))
        yield "Recipe", iter([stated])
    needed = frozenset({"curate"} if recipe and recipe.imported else {"generate", "curate"} if recipe else ())
    yield "This machine", check_machine(Path("runs"), needed)
    yield "Servers", _servers(recipe.review if recipe else Review.model_validate({}))
    if recipe:
        yield f"What {recipe_path} needs", check_needs(recipe)


def _servers(review: Review) -> Iterator[Check]:
    yield examined("Argilla", lambda: check_argilla(review))
    yield examined("Hub", check_hub)


def _show(check: Check, console: Console) -> None:
    mark, style = MARKS[check.state]
    line = Text.assemble((f"{mark} ", style), f"{check.name:{NAME_WIDTH}} ", plain(check.found))
    console.print(line, soft_wrap=True)
    if check.remedy:
        console.print(Text(f"{'':{NAME_WIDTH + 3}}{plain(check.remedy)}", style="dim"), soft_wrap=True)
