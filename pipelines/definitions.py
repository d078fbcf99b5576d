"""Definitions: what one teacher answer makes of a perspective, as typed instructions, or the reason why nothing."""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pipelines.calls import UnusableAnswerError
from pipelines.prompting import object_schema
from stillhouse.sections import Instructions
from stillhouse.tasks import FIELD_KINDS, Task, record_fields, record_schema, render

MAX_SENTENCE = 200
MAX_FIELDS = 4
HIGHEST = 10  # of any scale
FITTING_EXAMPLES = 0.5  # share of a task's own examples that has to fit its definition
MAX_NAME = 50
NAME = {"type": "string", "minLength": 3, "maxLength": MAX_NAME}
SENTENCE = {"type": "string", "minLength": 15, "maxLength": MAX_SENTENCE}
LABEL = {"type": "string", "minLength": 2, "maxLength": 30}
TEXT = {"type": "string", "minLength": 5, "maxLength": 160}
PHRASE = {"type": "string", "minLength": 1, "maxLength": 60}
FIELD_NAME = {"type": "string", "pattern": "^[a-z][a-z ]{1,24}$"}

TWO_TEXTS = re.compile(
    r"\b(two|both|these|other|another|second|pairs? of|several|multiple|different) ([a-z]+ )?"
    r"(texts|text|reviews?|passages?|messages?|documents?|tweets?)\b"
    r"|\btexts? (a|b|one|two|1|2)\b|\breference text\b|\b(compare|between) (the )?texts\b",
    re.IGNORECASE,
)

KINDS_OF_TEXT = {"review", "tweet", "post", "ticket", "comment", "article", "abstract", "email", "headline"}
Demo = dict[str, str]


@dataclass
class Draft:
    """An instruction on its way. `reason` says why it is dropped; until a task is defined, `task` is only its type."""

    perspective: dict[str, Any]
    name: str
    instruction: str | None
    task: Task
    calls: list[str] = field(default_factory=list)
    examples: list[Demo] = field(default_factory=list)
    demos: list[Demo] = field(default_factory=list)
    reason: str | None = None

    @property
    def instruction_id(self) -> str:
        """Return the id: perspective, type and wording, hashed; what is dropped may repeat the wording of another."""
        wording = f"{self.reason}: {self.instruction} {self.name} {self.calls}" if self.reason else self.instruction
        return instruction_id(self.perspective["perspective_id"], self.task.task_type, str(wording))


def instruction_id(perspective_id: str, task_type: str, wording: str) -> str:
    """Return the id of an instruction."""
    key = json.dumps([perspective_id, task_type, wording])
    return "i" + hashlib.sha256(key.encode()).hexdigest()[:11]


def ideas_schema(settings: Instructions) -> dict[str, Any]:
    """Return the JSON Schema of the ideas for tasks of one type (stage 1)."""
    item = object_schema(name=NAME, description=SENTENCE)
    return object_schema(tasks={"type": "array", "items": item, "minItems": 1, "maxItems": settings.tasks_per_type})


def analysis_schema(settings: Instructions) -> dict[str, Any]:
    """Return the JSON Schema of the analysis prompts of one perspective."""
    count = settings.analysis_per_perspective
    return object_schema(prompts={"type": "array", "items": SENTENCE, "minItems": 1, "maxItems": count})


def definition_schema(task_type: str, settings: Instructions) -> dict[str, Any]:
    """Return the JSON Schema of a task's definition (stage 2)."""
    parts: dict[str, dict[str, Any]] = {
        "classification": {"labels": {"anyOf": [_labels(2, 6), _labels(0, 0)]}},
        "scoring": {"lowest": {"enum": [0, 1]}, "highest": {"enum": [3, 4, 5, 7, HIGHEST]}},
        "extraction": {"verbatim": {"type": "boolean"}},
        "structured": {"fields": {"type": "array", "items": _field_schema(), "minItems": 2, "maxItems": MAX_FIELDS}},
    }
    outputs: dict[str, dict[str, Any]] = {
        "classification": LABEL,
        "scoring": {"type": "integer", "minimum": 0, "maximum": HIGHEST},
        "extraction": {"type": "array", "items": PHRASE, "maxItems": 3},
        "structured": {"type": "array", "items": PHRASE, "minItems": 2, "maxItems": MAX_FIELDS},
    }
    example = object_schema(text=TEXT, output=outputs[task_type])
    examples = {"type": "array", "items": example, "minItems": settings.examples, "maxItems": settings.examples}
    return object_schema(instruction=SENTENCE, **parts[task_type], examples=examples)


def read_ideas(value: Any, settings: Instructions) -> list[tuple[str, str, str | None]]:
    """Return name, description and fault of each task. Raises UnusableAnswerError where none is without fault."""
    refuse_misfit(value, ideas_schema(settings))
    ideas = {_named(task["name"]): sentence(task["description"]) for task in value["tasks"]}
    faults = ["about two texts" if TWO_TEXTS.search(f"{name} {idea}") else None for name, idea in ideas.items()]
    if all(faults):
        raise UnusableAnswerError("about two texts")
    return [(name, idea, fault) for (name, idea), fault in zip(ideas.items(), faults, strict=True)]


def read_analyses(value: Any, settings: Instructions, domains: Collection[str]) -> list[str]:
    """Return the analysis prompts. Raises UnusableAnswerError where one is unusable."""
    refuse_misfit(value, analysis_schema(settings))
    prompts = list(dict.fromkeys(sentence(prompt) for prompt in value["prompts"]))
    for prompt in prompts:
        refuse_wording(prompt, domains)
    return prompts


def read_definition(
    task_type: str, value: Any, settings: Instructions, domains: Collection[str]
) -> tuple[str, Task, list[Demo]]:
    """Return instruction, task and those of its examples that fit it.

    Raises UnusableAnswerError where the definition is incomplete, is about two texts, names a domain, or where more
    than half of its own examples break it or repeat another.
    """
    refuse_misfit(value, definition_schema(task_type, settings))
    wording = sentence(value["instruction"])
    refuse_wording(wording, domains)
    task = _task(task_type, value)
    examples = [(" ".join(item["text"].split()), _output(task, item["output"])) for item in value["examples"]]
    fitting = {text: render(output) for text, output in examples if text.isprintable() and not task.fault(output, text)}
    if len(fitting) < FITTING_EXAMPLES * len(examples):
        repeated = len({text for text, _ in examples}) < len(examples)
        raise UnusableAnswerError("its own examples " + ("repeat" if repeated else "break the definition"))
    demos = [{"text": text, "output": output} for text, output in fitting.items()]
    return f"{wording} {task.output_format}", task, demos


def refuse_misfit(value: Any, schema: dict[str, Any]) -> None:
    """Raise UnusableAnswerError where a value does not fit its schema: decoding need not have been constrained."""
    import jsonschema

    if not jsonschema.Draft202012Validator(schema).is_valid(value):
        raise UnusableAnswerError("does not fit the schema")


def refuse_wording(wording: str, domains: Collection[str]) -> None:
    """Raise UnusableAnswerError where an instruction is about two texts or names one of the texts' domains."""
    if TWO_TEXTS.search(wording):
        raise UnusableAnswerError("about two texts")
    if any(re.search(rf"\b{re.escape(word)}s?\b", wording, re.IGNORECASE) for word in domain_words(domains)):
        raise UnusableAnswerError("names a domain")


def domain_words(domains: Collection[str]) -> set[str]:
    """Return what a domain is called by: its name, and its last word where that is a kind of text ("film review")."""
    names = {domain.strip().lower() for domain in domains} - {"", "general", "text", "texts"}
    heads = {name.rpartition(" ")[2].removesuffix("s") for name in names} & KINDS_OF_TEXT
    return {name.removesuffix("s") if name.removesuffix("s") in KINDS_OF_TEXT else name for name in names} | heads


def sentence(text: str) -> str:
    """Return a sentence with its full stop. Raises UnusableAnswerError where it was cut off or has no words."""
    found = " ".join(text.split())
    if len(text) >= MAX_SENTENCE:
        raise UnusableAnswerError("instruction cut off")
    if not any(character.isalpha() for character in found):
        raise UnusableAnswerError("instruction without words")
    if not found.isprintable():
        raise UnusableAnswerError("control characters")
    return found if found[-1] in ".?!" else f"{found}."


def _named(name: str) -> str:
    found = " ".join(name.split()).strip(" .")
    if not any(character.isalpha() for character in found) or not found.isprintable():
        raise UnusableAnswerError("task without a name")
    return found[:MAX_NAME]


def _task(task_type: str, value: dict[str, Any]) -> Task:
    if task_type == "classification":
        labels = _distinct(value["labels"])
        if len(labels) == 1:
            raise UnusableAnswerError("label set of one")
        return Task(task_type, labels=tuple(labels))
    if task_type == "scoring":
        return Task(task_type, scale=(value["lowest"], value["highest"]))
    if task_type == "extraction":
        return Task(task_type, verbatim=value["verbatim"])
    fields = {}
    for item in value["fields"]:
        fields[item["name"]] = _distinct(item["values"]) if item["kind"] == "choice" else item["kind"]
    return record_task(fields)


def record_task(fields: dict[str, list[str] | str]) -> Task:
    """Return a structured task. Raises UnusableAnswerError where a field is no choice and no kind, or too few are."""
    clean = {" ".join(name.split()): kind for name, kind in fields.items()}
    if len(clean) < max(len(fields), 2):
        raise UnusableAnswerError("record of one field" if len(fields) < 2 else "field given twice")
    for name, kind in clean.items():
        if not name or not name.isprintable():
            raise UnusableAnswerError("field without a name")
        if isinstance(kind, list) and len(set(kind) - {""}) < max(len(kind), 2):
            raise UnusableAnswerError("label set of one")
        if isinstance(kind, str) and kind not in FIELD_KINDS:
            raise UnusableAnswerError("field of unknown kind")
    return Task("structured", schema=json.dumps(record_schema(clean)), verbatim="quote" in clean.values())


def _output(task: Task, output: Any) -> Any:
    """Return an example's output as a task's value: a record is written as a list of values, in the fields' order."""
    if task.task_type == "classification":
        return " ".join(output.split()).lower()
    if task.task_type != "structured":
        return output
    fields = record_fields(task.value_schema)
    if len(output) != len(fields):
        return output  # which fits no record
    return {name: _field_value(kind, value) for (name, kind), value in zip(fields.items(), output, strict=True)}


def _field_value(kind: list[str] | str, written: str) -> Any:
    if isinstance(kind, list):
        return " ".join(written.split()).lower()
    return [item.strip() for item in written.split(";") if item.strip()] if kind == "list" else written


def _distinct(values: list[str]) -> list[str]:
    found = list(dict.fromkeys(" ".join(value.split()).lower() for value in values if value.strip()))
    if not all(value.isprintable() for value in found):
        raise UnusableAnswerError("control characters")
    return found


def _labels(least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": LABEL, "minItems": least, "maxItems": most}


def _field_schema() -> dict[str, Any]:
    choice = object_schema(name=FIELD_NAME, kind={"enum": ["choice"]}, values=_labels(2, 5))
    return {"anyOf": [choice, object_schema(name=FIELD_NAME, kind={"enum": list(FIELD_KINDS)}, values=_labels(0, 0))]}
