"""stillhouse: distillation datasets people can trust.

This package is the core that every part shares: table schemas, recipe, errors, the run folder,
model references, and the order of the stages. The commands as Python calls (`stillhouse.open_run("runs/demo")`)
stand in stillhouse/api.py, which is imported when one of them is used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
CALLS = ("Run", "open_run", "run", "plan", "curate", "score", "train")


def __getattr__(name: str) -> Any:
    """Return one of the calls of stillhouse/api.py."""
    if name in CALLS:
        return getattr(import_module("stillhouse.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names for a notebook to complete."""
    return [*globals(), *CALLS]
