"""The three series of models that the method is tried on, and what the chat template and sampling of each need."""

from dataclasses import dataclass, field
from typing import Any, Literal

SeriesName = Literal["llama-3", "qwen-3", "gemma-3"]


@dataclass(frozen=True)
class Series:
    """What is sent with every call to a teacher of the series, and given to the chat template of a student.

    `template` are arguments of the chat template; `sampling` is what the model's makers recommend.
    """

    template: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return the fields of a request."""
        return {**self.sampling, **({"chat_template_kwargs": self.template} if self.template else {})}


SERIES: dict[SeriesName, Series] = {
    # The template writes today's date into the system turn unless it is given one: prompts would change every day.
    "llama-3": Series(template={"date_string": "26 Jul 2024"}, sampling={"top_p": 0.9}),
    # Thinking is on unless it is switched off; an empty thought then stands before the answer.
    "qwen-3": Series(template={"enable_thinking": False}, sampling={"top_p": 0.8, "top_k": 20}),
    # The template puts the system turn into the first user turn.
    "gemma-3": Series(sampling={"top_p": 0.95, "top_k": 64}),
}
