"""Hard caps on calls, tokens and money of a run folder: a call that could go beyond one is not sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipelines.calls import Answer, Call
from pipelines.journal import Usage
from stillhouse.errors import RunError
from stillhouse.recipe import Price, Runtime

CHARACTERS_PER_TOKEN = 2.0  # few, so that a prompt is seldom longer than was set aside for it
MILLION = 1_000_000


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
        return cost_of(self.used.prompt_tokens, self.used.output_tokens, self.price)

    @contextmanager
    def admitted(self, call: Call) -> Iterator[None]:
        """Set aside what a call can use at most, while it is in flight. Raises RunError where a cap forbids it."""
        prompt_tokens = round(len(call.json) / CHARACTERS_PER_TOKEN)
        self.set_aside.add(prompt_tokens, call.max_tokens)
        try:
            self._refuse_beyond()
            yield
        finally:
            self.set_aside.add(-prompt_tokens, -call.max_tokens, calls=-1)

    def take(self, answer: Answer) -> None:
        """Count a new answer."""
        self.used.add(answer.prompt_tokens, answer.output_tokens)

    def _refuse_beyond(self) -> None:
        prompt_tokens = self.used.prompt_tokens + self.set_aside.prompt_tokens
        output_tokens = self.used.output_tokens + self.set_aside.output_tokens
        caps = self.runtime
        if caps.max_calls is not None and self.used.calls + self.set_aside.calls > caps.max_calls:
            raise self._reached("max_calls", caps.max_calls)
        if caps.max_tokens is not None and prompt_tokens + output_tokens > caps.max_tokens:
            raise self._reached("max_tokens", caps.max_tokens)
        if caps.max_cost is not None and (cost_of(prompt_tokens, output_tokens, self.price) or 0) > caps.max_cost:
            raise self._reached("max_cost", caps.max_cost)

    def _reached(self, key: str, cap: float) -> RunError:
        money = f", {self.cost:,.2f} {self.price.currency}" if self.price else ""
        return RunError(
            f"runtime.{key} ({cap:,g}) does not allow a further call: {self.used.calls:,} calls, "
            f"{self.used.prompt_tokens:,} prompt and {self.used.output_tokens:,} output tokens{money} are used. All "
            "answers are kept; raise the cap and run the same command again to resume"
        )


def cost_of(prompt_tokens: float, output_tokens: float, price: Price | None) -> float | None:
    """Return the money that tokens cost; None without prices."""
    return (prompt_tokens * price.prompt + output_tokens * price.output) / MILLION if price else None
