"""A task of distilabel with a JSON Schema; it stands in a module because distilabel pickles it."""

from typing import Any

from distilabel.steps.tasks import Task

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["positive", "negative"]}},
    "required": ["label"],
    "additionalProperties": False,
}


class Label(Task):  # type: ignore[misc]
    """Ask for a label of a text."""

    @property
    def inputs(self) -> list[str]:
        """Return the column that is read."""
        return ["text"]

    @property
    def outputs(self) -> list[str]:
        """Return the column that is added."""
        return ["answer"]

    def format_input(self, input: dict[str, Any]) -> Any:  # noqa: A002
        """Return the messages and the schema."""
        return [{"role": "user", "content": f"Is this positive or negative? {input['text']}"}], {"schema": SCHEMA}

    def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> dict[str, Any]:  # noqa: A002
        """Return the answer as it is."""
        return {"answer": output}
