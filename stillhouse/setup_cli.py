"""Arguments of the commands before the first run: init and doctor."""

import shlex
from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder, which may be new.", show_default=False)],
) -> None:
    """Write a commented recipe, a small sample of texts and the recipes' JSON Schema into a folder, to start from."""
    from stillhouse.starter import start_in

    for path in start_in(folder):
        typer.echo(f"{path} written")
    for command in ("doctor", "run"):
        typer.echo(f"Next: stillhouse {command} {shlex.quote(str(folder / 'recipe.yaml'))}")


def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="Recipe, whose needs are checked too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check what a run needs: versions, models, GPU, disk, Argilla, the Hub, a recipe's texts and teacher."""
    from stillhouse.doctor import show_checks
    from stillhouse.errors import interruptible

    with interruptible():
        show_checks(recipe, as_json)
