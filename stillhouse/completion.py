"""What the shell completes besides commands and options. Asked at every press of a key: imports nothing heavy."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import get_args

from stillhouse.series import SeriesName

# Said again here, as their own modules take a second to import; a test sees to it that they are the same.
STAGES = ("texts", "attributes", "perspectives", "instructions", "responses", "scores", "decisions", "audit", "gates")
MORE_TABLES = ("coverage", "failures", "reviews")
STRATEGIES = ("soft", "hard", "random", "k-center", "facility")
CONTROLS = ("random", "top", "diverse")


def stages(incomplete: str) -> list[str]:
    """Return the stages of a run."""
    return _beginning((*STAGES, "dataset"), incomplete)


def tables(incomplete: str) -> list[str]:
    """Return what `stillhouse inspect` shows."""
    return _beginning((*STAGES, *MORE_TABLES), incomplete)


def strategies(incomplete: str) -> list[str]:
    """Return the ways to select."""
    return _beginning(STRATEGIES, incomplete)


def controls(incomplete: str) -> list[str]:
    """Return the controls, the last of a list with commas."""
    return _last_of_several(CONTROLS, incomplete)


def series(incomplete: str) -> list[str]:
    """Return the series of models."""
    return _beginning(get_args(SeriesName), incomplete)


def presets(incomplete: str) -> list[str]:
    """Return the presets of trainings, the last of a list with commas."""
    names = (Path(file.name) for file in (files("training") / "presets").iterdir())
    return _last_of_several(sorted(name.stem for name in names if name.suffix == ".yaml"), incomplete)


def run_folders(incomplete: str) -> list[str]:
    """Return the runs in runs/, and the folders that what is typed begins."""
    given = Path(incomplete)
    place, begun = (given, "") if incomplete.endswith("/") else (given.parent, given.name)
    inside = sorted(path for path in place.glob("*") if path.is_dir() and path.name.startswith(begun))
    runs = sorted(str(path.parent) for path in Path("runs").glob("*/manifest.json"))
    found = [str(path) if (path / "manifest.json").exists() else f"{path}/" for path in inside]
    return list(dict.fromkeys([*_beginning(runs, incomplete), *(found if incomplete else [])]))


def _beginning(names: Sequence[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _last_of_several(names: Sequence[str], incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning(names, last)]
