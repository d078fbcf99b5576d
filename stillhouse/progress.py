"""What a run says while it works; how it is shown is the caller's choice."""

from collections.abc import Mapping
from typing import Protocol

Counts = Mapping[str, int | float]  # what a stage says of itself when it is done


class Progress(Protocol):
    """Told by each stage how far it is."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """Begin a count of `total` rows, `done` of which are there already."""

    def update(self, done: int, tokens: int = 0) -> None:
        """Say how many rows are done, and how many tokens a model wrote or read for them in this run."""

    def finish(self, stage: str, counts: Counts, seconds: float) -> None:
        """Say that a stage is done and what it counted."""

    def skip(self, stage: str) -> None:
        """Say that a stage was done before."""
