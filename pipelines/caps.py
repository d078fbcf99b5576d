"""Hard caps on calls, tokens and money of a run folder: a call that could go beyond one is not sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipelines.calls import Answer, Call
from pipelines.journal import Usage
from stillhouse.errors import RunError
from stillhouse.sections import Price, Runtime

CHARACTERS_PER_TOKEN = 2.0  # few, so that a prompt is seldom longer than was set aside for it
MILLION = 1_000_000


@dataclass
class Caps:
    """What has been used, over all runs of the folder, and what is set aside for calls in flight."""

    runtime: Runtime
    price: Price | None
    used: Usage
    set_aside: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        """See whether there is a cap at all."""
        caps = (self.runtime.max_calls, self.runtime.max_tokens, self.runtime.max_cost)
        self._is_limited = any(cap is not None for cap in caps)

    @property
    def cost(self) -> float | None:
        """Money that all answers so far have cost; None where the recipe has no prices."""
        return cost_of(self.used.prompt_tokens, self.used.output_tokens, self.price)

    @contextmanager
    def admitted(self, call: Call) -> Iterator[None]:
        """Set aside what a call can use at most, while it is in flight."""
        prompt_tokens = _most_prompt_tokens(call)
        self.set_aside.add(prompt_tokens, call.max_tokens)
        try:
            yield
        finally:
            self.set_aside.add(-prompt_tokens, -call.max_tokens, calls=-1)

    def has_room(self, call: Call) -> bool:
        """Say whether a call fits besides those in flight. Raises RunError where it would not fit without them."""
        if not self._is_limited or not self._reached(call, self.set_aside):
            return True
        key = self._reached(call, Usage())
        if not key:
            return False
        money = f", {self.cost:,.2f} {self.price.currency}" if self.price else ""
        raise RunError(
            f"runtime.{key} ({getattr(self.runtime, key):,g}) does not allow a further call: {self.used.calls:,} "
            f"calls, {self.used.prompt_tokens:,} prompt and {self.used.output_tokens:,} output tokens{money} are used. "
            "All answers are kept; raise the cap and run the same command again to resume"
        )

    def is_blind(self, answer: Answer) -> bool:
        """Say whether a cap cannot be kept because the server does not tell what an answer has used."""
        counts = self.runtime.max_tokens is not None or self.runtime.max_cost is not None
        return counts and not answer.prompt_tokens + answer.output_tokens

    def take(self, answer: Answer) -> None:
        """Count a new answer."""
        self.used.add(answer.prompt_tokens, answer.output_tokens)

    def _reached(self, call: Call, set_aside: Usage) -> str | None:
        """Return the first cap that a call could go beyond, with what is used and set aside."""
        prompt_tokens = self.used.prompt_tokens + set_aside.prompt_tokens + _most_prompt_tokens(call)
        output_tokens = self.used.output_tokens + set_aside.output_tokens + call.max_tokens
        figures = {
            "max_calls": self.used.calls + set_aside.calls + 1,
            "max_tokens": prompt_tokens + output_tokens,
            "max_cost": cost_of(prompt_tokens, output_tokens, self.price) or 0.0,
        }
        caps = ((key, getattr(self.runtime, key)) for key in figures)
        return next((key for key, cap in caps if cap is not None and figures[key] > cap), None)


def _most_prompt_tokens(call: Call) -> int:
    return round(len(call.json) / CHARACTERS_PER_TOKEN)


def cost_of(prompt_tokens: float, output_tokens: float, price: Price | None) -> float | None:
    """Return the money that tokens cost; None without prices."""
    return (prompt_tokens * price.prompt + output_tokens * price.output) / MILLION if price else None
