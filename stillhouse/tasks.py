"""Instructions as typed data: what a valid answer is, as a JSON Schema and as a check by program."""

import json
from dataclasses import dataclass
from typing import Any

from stillhouse.errors import RunError

MAX_ANALYSIS_CHARACTERS = 400
MAX_SPAN_CHARACTERS = 120
MAX_SPANS = 5


@dataclass(frozen=True)
class Task:
    """What an instruction asks for.

    `task_type` is analysis, classification, scoring, extraction or structured; `labels` is the closed set of a
    classification, `scale` the lowest and highest score, `schema` the JSON Schema of a structured answer.
    """

    task_type: str
    labels: tuple[str, ...] = ()
    scale: tuple[int, ...] = ()
    schema: str | None = None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Task":
        """Make the task of a row of the `instructions` table."""
        return cls(row["task_type"], tuple(row["labels"] or ()), tuple(row["scale"] or ()), row["schema"])

    def value_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the answer's value."""
        if self.task_type == "analysis":
            return {"type": "string", "minLength": 10, "maxLength": MAX_ANALYSIS_CHARACTERS}
        if self.task_type == "classification":
            return {"type": "string", "enum": list(self.labels)}
        if self.task_type == "scoring":
            return {"type": "integer", "enum": list(range(self.scale[0], self.scale[1] + 1))}
        if self.task_type == "extraction":
            span = {"type": "string", "minLength": 1, "maxLength": MAX_SPAN_CHARACTERS}
            return {"type": "array", "items": span, "maxItems": MAX_SPANS}
        if self.task_type == "structured" and self.schema:
            schema: dict[str, Any] = json.loads(self.schema)
            return schema
        raise RunError(f"instructions: unknown task type {self.task_type!r}; delete the run's instructions and rerun")

    def fault(self, value: Any, text: str) -> str | None:
        """Return why `value` is no valid answer for `text`, or None where it is one."""
        import jsonschema

        error = jsonschema.exceptions.best_match(
            jsonschema.Draft202012Validator(self.value_schema()).iter_errors(value)
        )
        if error is not None:
            return _REASONS.get(self.task_type, "does not fit the schema")
        if _is_cut_off(value, self.value_schema()):
            return "cut off at the length limit"
        if self.task_type == "analysis" and not any(character.isalpha() for character in value):
            return "no words"
        if self.task_type == "analysis" and value.strip().casefold() == text.strip().casefold():
            return "echoes the text"
        if self.task_type == "extraction" and any(not span.strip() for span in value):
            return "blank span"
        if self.task_type == "extraction" and len(set(value)) < len(value):
            return "repeated span"
        if self.task_type == "extraction" and any(span not in text for span in value):
            return "span not in the text"
        return None


def _is_cut_off(value: Any, schema: dict[str, Any]) -> bool:
    """Say whether a string has its greatest length: constrained decoding closes it there, in the middle of a word."""
    if isinstance(value, str):
        return "maxLength" in schema and len(value) >= int(schema["maxLength"])
    if isinstance(value, list):
        return any(_is_cut_off(item, schema["items"]) for item in value)
    if isinstance(value, dict):
        return any(_is_cut_off(item, schema["properties"][name]) for name, item in value.items())
    return False


_REASONS = {
    "analysis": "not a text of fitting length",
    "classification": "label not in the set",
    "scoring": "score not on the scale",
    "extraction": "not a list of spans",
}


def render(value: Any) -> str:
    """Return an answer's value as it is shown and trained on: plain for text and numbers, else JSON."""
    if isinstance(value, str):
        return value.strip()
    return json.dumps(value, ensure_ascii=False)
