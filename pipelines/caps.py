"""Hard caps on calls, tokens and money of a run folder: a call that could go beyond one is not sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipelines.calls import Answer, Call
from pipelines.journal import Usage
from stillhouse.errors import RunError
from stillhouse.recipe import Price, Runtime

CHARACTERS_PER_TOKEN = 2.0  # few, so that a prompt is seldom longer than was set aside for it
PER_MILLION = 1_000_000


@dataclass
class Caps:
    """What has been used, over all runs of the folder, and what is set aside for calls in flight."""

    runtime: Runtime
    price: Price | None
    used: Usage
    set_aside: Usage = field(default_factory=Usage)

    @property
    def cost(self) -> float | None:
        """Money that all answers so far have cost; None where the recipe has no prices."""
        return cost_of(self.used, self.price)

    @contextmanager
    def admitted(self, call: Call) -> Iterator[None]:
        """Set aside what a call can use at most, while it is in flight. Raises RunError where a cap forbids it."""
        most = Usage(1, round(len(str(call.prompt)) / CHARACTERS_PER_TOKEN), call.max_tokens)
        self._refuse_beyond(self.used + self.set_aside + most)
        self.set_aside += most
        try:
            yield
        finally:
            self.set_aside -= most

    def take(self, answer: Answer) -> None:
        """Count a new answer."""
        self.used = self.used.plus(answer)

    def _refuse_beyond(self, usage: Usage) -> None:
        figures = (
            ("max_calls", self.runtime.max_calls, usage.calls),
            ("max_tokens", self.runtime.max_tokens, usage.prompt_tokens + usage.output_tokens),
            ("max_cost", self.runtime.max_cost, cost_of(usage, self.price) or 0.0),
        )
        for key, cap, figure in figures:
            if cap is not None and figure > cap:
                raise RunError(
                    f"runtime.{key} ({cap:,g}) is reached: {self.used.calls:,} calls, {self.used.prompt_tokens:,} "
                    f"prompt and {self.used.output_tokens:,} output tokens are used. All answers are kept; raise the "
                    "cap and run the same command again to resume"
                )


def cost_of(usage: Usage, price: Price | None) -> float | None:
    """Return the money that calls cost; None without prices."""
    if price is None:
        return None
    return (usage.prompt_tokens * price.prompt + usage.output_tokens * price.output) / PER_MILLION
