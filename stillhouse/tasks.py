"""Instructions as typed data: what a valid answer is, as a sentence, as a JSON Schema and as a check by program."""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stillhouse.errors import RunError

FIELD_KINDS = ("text", "quote", "list")  # of a record, besides a closed set of values
MAX_ANALYSIS_CHARACTERS = 400
MAX_LABEL_CHARACTERS = 40
MAX_SPAN_CHARACTERS = 120
MAX_ITEMS = 5

# A string that has to be copied from the text says so where JSON Schema has its place for it.
EXACT_WORDS = "exact words of the text"


def quote_schema() -> dict[str, Any]:
    """Return the JSON Schema of a verbatim span."""
    return {"type": "string", "description": EXACT_WORDS, "minLength": 1, "maxLength": MAX_SPAN_CHARACTERS}


def phrase_schema() -> dict[str, Any]:
    """Return the JSON Schema of a short free text."""
    return {"type": "string", "minLength": 1, "maxLength": MAX_SPAN_CHARACTERS}


@dataclass(frozen=True)
class Task:
    """What an instruction asks for.

    `task_type` is analysis, classification, scoring, extraction or structured. `labels` is the closed set of a
    classification (empty: an open one), `scale` the lowest and highest score, `schema` the JSON Schema of a
    structured answer; `verbatim` says whether the items of an extraction are exact words of the text.
    """

    task_type: str
    labels: tuple[str, ...] = ()
    scale: tuple[int, ...] = ()
    schema: str | None = None
    verbatim: bool = False

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Task":
        """Make the task of a row of the `instructions` table."""
        labels, scale = tuple(row["labels"] or ()), tuple(row["scale"] or ())
        return cls(row["task_type"], labels, scale, row["schema"], bool(row["verbatim"]))

    @cached_property
    def value_schema(self) -> dict[str, Any]:
        """The JSON Schema of the answer's value."""
        if self.task_type == "analysis":
            return {"type": "string", "minLength": 10, "maxLength": MAX_ANALYSIS_CHARACTERS}
        if self.task_type == "classification":
            closed = {"type": "string", "enum": list(self.labels)}
            return closed if self.labels else {"type": "string", "minLength": 2, "maxLength": MAX_LABEL_CHARACTERS}
        if self.task_type == "scoring":
            return {"type": "integer", "enum": list(range(self.scale[0], self.scale[1] + 1))}
        if self.task_type == "extraction":
            item = quote_schema() if self.verbatim else phrase_schema()
            return {"type": "array", "items": item, "maxItems": MAX_ITEMS}
        if self.task_type == "structured" and self.schema:
            schema: dict[str, Any] = json.loads(self.schema)
            return schema
        raise RunError(f"instructions: unknown task type {self.task_type!r}; delete the run's instructions and rerun")

    @property
    def output_format(self) -> str:
        """The sentence that tells student and teacher the form of the answer; an analysis has none."""
        if self.task_type == "classification":
            return f"Answer with one of: {', '.join(self.labels)}." if self.labels else "Answer with a short label."
        if self.task_type == "scoring":
            return f"Answer with a whole number from {self.scale[0]} (lowest) to {self.scale[1]} (highest)."
        if self.task_type == "extraction":
            items = "exact words from the text" if self.verbatim else "short phrases"
            return f"Answer with a JSON list of {items}, empty if there are none."
        if self.task_type == "structured":
            fields = self.value_schema["properties"].items()
            return (
                f"Answer with a JSON object: {', '.join(f'{name} ({_field_format(part)})' for name, part in fields)}."
            )
        return ""

    def wording_of(self, instruction: str) -> str:
        """Return an instruction without the output format that ends it."""
        return instruction.removesuffix(self.output_format).strip()

    @cached_property
    def _validator(self) -> Any:
        import jsonschema

        return jsonschema.Draft202012Validator(self.value_schema)

    def fault(self, value: Any, text: str) -> str | None:
        """Return why `value` is no valid answer for `text`, or None where it is one."""
        if not self._validator.is_valid(value):
            return _REASONS.get(self.task_type, "does not fit the schema")
        for string, part in strings_of(value, self.value_schema):
            fault = _string_fault(string, part, text)
            if fault:
                return fault
        if self.task_type == "extraction" and len({item.strip().casefold() for item in value}) < len(value):
            return "repeated item"
        if self.task_type == "analysis" and not any(character.isalpha() for character in value):
            return "no words"
        return None

    def spans(self, value: Any, text: str) -> list[tuple[int, int]]:
        """Return where a valid answer's verbatim strings stand in `text`: (start, end) of each first occurrence."""
        quotes = [string for string, part in strings_of(value, self.value_schema) if _is_quote(part)]
        starts = [text.index(quote) for quote in quotes]
        return [(start, start + len(quote)) for start, quote in zip(starts, quotes, strict=True)]

    def free_strings(self, value: Any) -> list[str]:
        """Return the strings of a valid answer that the teacher worded: no labels, no verbatim spans."""
        return [string for string, part in strings_of(value, self.value_schema) if _is_free(part)]


def record_schema(fields: dict[str, list[str] | str]) -> dict[str, Any]:
    """Return the JSON Schema of a record: per field its allowed values, or one of FIELD_KINDS."""
    kinds = {"text": phrase_schema(), "quote": quote_schema()}
    kinds["list"] = {"type": "array", "items": phrase_schema(), "maxItems": MAX_ITEMS}
    return {
        "type": "object",
        "properties": {
            name: kinds[kind] if isinstance(kind, str) else {"type": "string", "enum": kind}
            for name, kind in fields.items()
        },
        "required": list(fields),
        "additionalProperties": False,
    }


def record_fields(schema: dict[str, Any]) -> dict[str, list[str] | str]:
    """Return the fields that `record_schema` made a schema of."""
    return {name: _field_kind(part) for name, part in schema["properties"].items()}


def strings_of(value: Any, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the strings of a value that fits `schema`, each with its own part of the schema."""
    if isinstance(value, str):
        yield value, schema
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item, schema["items"])
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from strings_of(item, schema["properties"][name])


def longest_answer(schema: dict[str, Any]) -> int:
    """Return how many characters the longest value of a schema may have, written as JSON."""
    if "enum" in schema:
        return max(len(json.dumps(value, ensure_ascii=False)) for value in schema["enum"])
    if schema["type"] == "array":
        return int(schema["maxItems"]) * longest_answer(schema["items"])
    if schema["type"] == "object":
        return sum(len(name) + longest_answer(part) for name, part in schema["properties"].items())
    return int(schema["maxLength"])


def render(value: Any) -> str:
    """Return an answer's value as it is shown and trained on: plain for text and numbers, else JSON."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # JSON Schema counts 3.0 as an integer
    return json.dumps(value, ensure_ascii=False)


def unrender(task: Task, output: str) -> Any:
    """Return the value that `render` made `output` of. Raises ValueError where it is none."""
    plain = task.task_type in ("analysis", "classification")
    return output if plain else json.loads(output)


def _string_fault(string: str, schema: dict[str, Any], text: str) -> str | None:
    if "enum" in schema:
        return None
    if any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in string):
        return "control characters"
    if len(string) >= int(schema.get("maxLength", len(string) + 1)):
        return "cut off at the length limit"  # constrained decoding closes a string there, in the middle of a word
    if not string.strip():
        return "blank"
    if _is_quote(schema) and string not in text:
        return "span not in the text"
    return None


def _is_quote(schema: dict[str, Any]) -> bool:
    return schema.get("description") == EXACT_WORDS


def _is_free(schema: dict[str, Any]) -> bool:
    return "enum" not in schema and not _is_quote(schema)


def _field_kind(schema: dict[str, Any]) -> list[str] | str:
    if "enum" in schema:
        return list(schema["enum"])
    if schema["type"] == "array":
        return "list"
    return "quote" if _is_quote(schema) else "text"


def _field_format(schema: dict[str, Any]) -> str:
    kind = _field_kind(schema)
    if isinstance(kind, list):
        return f"one of: {', '.join(kind)}"
    return {"text": "text", "quote": EXACT_WORDS, "list": "list of texts"}[kind]


_REASONS = {
    "analysis": "not a text of fitting length",
    "classification": "label not in the set",
    "scoring": "score not on the scale",
    "extraction": "not a list of phrases",
}
