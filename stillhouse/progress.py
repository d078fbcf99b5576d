"""What a run says while it works; how it is shown is the caller's choice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

BREAKER_WINDOW, BREAKER_FAILURES = 40, 20  # the circuit breaker of a teacher stage
BREAKER = f"{BREAKER_FAILURES} of the last {BREAKER_WINDOW} calls failed for good"

Counts = Mapping[str, int | float]  # what a stage says of itself when it is done


@dataclass
class Tally:
    """How the rows of a teacher stage fare: those that ended, and what this run asked for them.

    `journal` counts answers that were on disk before, tokens are those of new answers only, `cost` is what all
    answers of the run folder have cost (None: no prices are known), `in_flight` how many requests are out.
    """

    ok: int = 0
    invalid: int = 0
    failed: int = 0
    journal: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    currency: str = ""
    in_flight: int = 0

    @property
    def done(self) -> int:
        """Rows that have ended, one way or another."""
        return self.ok + self.invalid + self.failed


class Progress(Protocol):
    """Told by each stage how far it is."""

    def start(self, stage: str, total: int, unit: str = "rows") -> None:
        """Begin a count of `total` rows, or of another unit."""

    def update(self, done: int, tokens: int = 0, told: str = "") -> None:
        """Say how many rows are done, how many tokens a local model read for them in this run, and what else is new."""

    def tally(self, tally: Tally) -> None:
        """Say how the rows of a teacher stage fare."""

    def finish(self, stage: str, counts: Counts, seconds: float) -> None:
        """Say that a stage is done and what it counted."""

    def skip(self, stage: str) -> None:
        """Say that a stage was done before."""

    def warn(self, message: str) -> None:
        """Say what a person should know."""


class Unseen:
    """A run that nobody watches."""

    def start(self, stage: str, total: int, unit: str = "rows") -> None:
        """Show nothing."""

    def update(self, done: int, tokens: int = 0, told: str = "") -> None:
        """Show nothing."""

    def tally(self, tally: Tally) -> None:
        """Show nothing."""

    def finish(self, stage: str, counts: Counts, seconds: float) -> None:
        """Show nothing."""

    def skip(self, stage: str) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Show nothing."""
