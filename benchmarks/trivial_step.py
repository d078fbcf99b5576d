"""A step of distilabel that does nothing: it must stand in a module, because distilabel pickles it."""

from typing import Any

from distilabel.steps import StepInput, step


@step(inputs=["text"], outputs=["answer"])
def Trivial(inputs: StepInput) -> Any:  # noqa: N802 # distilabel makes a class of it
    """Add a constant answer."""
    for row in inputs:
        row["answer"] = "calm"
    yield inputs
