"""Instructions: open-ended analysis prompts and typed tasks, written by the teacher from perspectives (step 3)."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipelines.calls import Answer, Call, UnusableAnswerError, parse_answer
from pipelines.engine import Engine
from pipelines.prompting import Asker, load_template, object_schema
from stillhouse.errors import RunError
from stillhouse.recipe import Instructions
from stillhouse.schemas import INSTRUCTIONS, table_of
from stillhouse.tasks import Task, render

LOWEST, HIGHEST = 1, 5
ATTRIBUTES_SHOWN = 5
DEFINITION_TOKENS = 220
DEMO_TOKENS = 160
NAME = {"type": "string", "minLength": 3, "maxLength": 50}
MAX_SENTENCE = 200
SENTENCE = {"type": "string", "minLength": 15, "maxLength": MAX_SENTENCE}
LABEL = {"type": "string", "minLength": 2, "maxLength": 30}


@dataclass
class Draft:
    """An instruction on its way: the row so far, and the calls that made it."""

    perspective: dict[str, Any]
    task_type: str
    name: str
    instruction: str
    task: Task
    calls: list[str]
    demos: list[dict[str, str]] = field(default_factory=list)

    @property
    def instruction_id(self) -> str:
        """Return the id: perspective, type and wording, hashed."""
        key = json.dumps([self.perspective["perspective_id"], self.task_type, self.instruction])
        return "i" + hashlib.sha256(key.encode()).hexdigest()[:11]


def write_instructions(
    perspectives: pl.DataFrame, texts: pl.DataFrame, settings: Instructions, asker: Asker, engine: Engine
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Let the teacher write the instructions of every perspective, then demonstrations of every task.

    Returns the `instructions` table and the counts of definitions asked for, dropped (by reason) and kept.
    Raises RunError where no usable instruction is left.
    """
    asked = {call.call_id: (row, kind, call) for row, kind, call in _definition_calls(perspectives, settings, asker)}
    answers = engine.ask("instructions", [call for _, _, call in asked.values()])
    drafts: dict[str, Draft] = {}
    dropped: Counter[str] = Counter()
    for call_id, (perspective, kind, _) in asked.items():
        try:
            for draft in _drafts(perspective, kind, call_id, answers.get(call_id)):
                dropped["dropped: repeated"] += draft.instruction_id in drafts
                drafts.setdefault(draft.instruction_id, draft)
        except UnusableAnswerError as reason:
            dropped[f"dropped: {reason}"] += 1
    if not drafts:
        raise RunError(f"instructions: none is usable ({dict(dropped)}); use a stronger teacher")
    _add_demos(list(drafts.values()), texts, settings, asker, engine)
    rows = [_row(draft, asker) for draft in drafts.values()]
    return table_of(rows, INSTRUCTIONS, "instructions"), {"definitions": len(asked), **+dropped, "kept": len(rows)}


def _definition_calls(
    perspectives: pl.DataFrame, settings: Instructions, asker: Asker
) -> list[tuple[dict[str, Any], str, Call]]:
    kinds = ["analysis"] * bool(settings.analysis_per_perspective) + list(settings.task_types)
    return [
        (row, kind, _definition_call(row, kind, settings, asker))
        for row in perspectives.iter_rows(named=True)
        for kind in kinds
    ]


def _definition_call(row: dict[str, Any], kind: str, settings: Instructions, asker: Asker) -> Call:
    prompt = load_template(kind).fill(
        perspective=row["head"],
        members=", ".join(_shown(row)),
        description=row["members"][0]["description"],
        count=settings.analysis_per_perspective,
    )
    schema = _definition_schema(kind, settings.analysis_per_perspective)
    return asker.call(prompt, schema, settings.temperature, DEFINITION_TOKENS)


def _definition_schema(kind: str, analyses: int) -> dict[str, Any]:
    if kind == "analysis":
        return object_schema(prompts={"type": "array", "items": SENTENCE, "minItems": 1, "maxItems": analyses})
    common = {"name": NAME, "instruction": SENTENCE}
    if kind == "classification":
        return object_schema(**common, labels={"type": "array", "items": LABEL, "minItems": 2, "maxItems": 5})
    if kind == "structured":
        values = {"type": "array", "items": LABEL, "maxItems": 4}
        item = object_schema(name={"type": "string", "pattern": "^[a-z][a-z ]{1,24}$"}, values=values)
        return object_schema(**common, fields={"type": "array", "items": item, "minItems": 2, "maxItems": 3})
    return object_schema(**common)


def _drafts(perspective: dict[str, Any], kind: str, call_id: str, answer: Answer | None) -> list[Draft]:
    """Return the instructions that one answer defines. Raises UnusableAnswerError where it defines none."""
    if answer is None:
        raise UnusableAnswerError("failed")
    value = parse_answer(answer)
    try:
        if kind == "analysis":
            prompts = [_sentence(prompt) for prompt in value["prompts"]]
            names = (f"{perspective['head']} analysis {number}" for number in range(1, len(prompts) + 1))
            return [
                Draft(perspective, kind, name, prompt, Task(kind), [call_id])
                for name, prompt in zip(names, prompts, strict=True)
            ]
        task, form = _typed(kind, value)
        instruction = f"{_sentence(value['instruction'])} {form}"
        return [Draft(perspective, kind, str(value["name"]).strip(), instruction, task, [call_id])]
    except (KeyError, TypeError, AttributeError) as error:
        raise UnusableAnswerError("not the fields asked for") from error


def _sentence(text: str) -> str:
    """Return a sentence with its full stop. Raises UnusableAnswerError where it was cut off or is empty."""
    sentence = text.strip()
    if len(text) >= MAX_SENTENCE:
        raise UnusableAnswerError("instruction cut off")
    if not any(character.isalpha() for character in sentence):
        raise UnusableAnswerError("instruction without words")
    return sentence if sentence[-1] in ".?!" else f"{sentence}."


def _typed(kind: str, value: dict[str, Any]) -> tuple[Task, str]:
    """Return the task that a definition describes, and the sentence that states its output format."""
    if kind == "classification":
        labels = _distinct(value["labels"])
        if len(labels) < 2:
            raise UnusableAnswerError("label set of one")
        return Task(kind, labels=tuple(labels)), f"Answer with one of: {', '.join(labels)}."
    if kind == "scoring":
        form = f"Answer with a whole number from {LOWEST} (lowest) to {HIGHEST} (highest)."
        return Task(kind, scale=(LOWEST, HIGHEST)), form
    if kind == "extraction":
        return Task(kind), "Answer with a JSON list of exact words from the text, empty if there are none."
    fields = {item["name"].strip(): _distinct(item["values"]) for item in value["fields"]}
    if len(fields) < 2:
        raise UnusableAnswerError("record of one field")
    if any(len(values) == 1 for values in fields.values()):
        raise UnusableAnswerError("label set of one")
    parts = [f"{name} (one of: {', '.join(values)})" if values else f"{name} (text)" for name, values in fields.items()]
    return Task(kind, schema=_record_schema(fields)), f"Answer with a JSON object: {', '.join(parts)}."


def _distinct(values: list[str]) -> list[str]:
    return list(dict.fromkeys(value.strip().lower() for value in values if value.strip()))


def _record_schema(fields: dict[str, list[str]]) -> str:
    free = {"type": "string", "minLength": 1, "maxLength": 80}
    properties = {name: {"type": "string", "enum": values} if values else free for name, values in fields.items()}
    return json.dumps(object_schema(**properties))


def _add_demos(drafts: list[Draft], texts: pl.DataFrame, settings: Instructions, asker: Asker, engine: Engine) -> None:
    """Let the teacher write demonstrations of each task; those that break their own task are left out."""
    tasks = [draft for draft in drafts if draft.task_type != "analysis"] if settings.demos else []
    calls = [_demo_call(draft, number, texts, settings, asker) for number, draft in enumerate(tasks)]
    answers = engine.ask("instructions", calls)
    for draft, call in zip(tasks, calls, strict=True):
        if call.call_id in answers:
            draft.calls.append(call.call_id)
            draft.demos = _usable_demos(draft.task, answers[call.call_id])


def _demo_call(draft: Draft, number: int, texts: pl.DataFrame, settings: Instructions, asker: Asker) -> Call:
    styles = [texts["text"][(2 * number + offset) % len(texts)] for offset in (0, 1)]
    prompt = load_template("demos").fill(task=draft.instruction, examples=styles, count=settings.demos)
    demo = object_schema(text={"type": "string", "minLength": 15, "maxLength": 200}, output=draft.task.value_schema())
    schema = object_schema(demos={"type": "array", "items": demo, "minItems": 1, "maxItems": settings.demos})
    return asker.call(prompt, schema, settings.temperature, DEMO_TOKENS * settings.demos)


def _usable_demos(task: Task, answer: Answer) -> list[dict[str, str]]:
    try:
        items = parse_answer(answer)["demos"]
        pairs = {item["text"]: item["output"] for item in reversed(items) if isinstance(item["text"], str)}
    except (UnusableAnswerError, KeyError, TypeError):
        return []
    return [
        {"text": text, "output": render(output)} for text, output in pairs.items() if task.fault(output, text) is None
    ]


def _shown(perspective: dict[str, Any]) -> list[str]:
    return [member["name"] for member in perspective["members"][:ATTRIBUTES_SHOWN]]


def _row(draft: Draft, asker: Asker) -> dict[str, object]:
    return {
        "instruction_id": draft.instruction_id,
        "perspective_id": draft.perspective["perspective_id"],
        "kind": "analysis" if draft.task_type == "analysis" else "task",
        "task_type": draft.task_type,
        "name": draft.name,
        "instruction": draft.instruction,
        "labels": list(draft.task.labels),
        "scale": list(draft.task.scale),
        "schema": draft.task.schema,
        "verbatim": draft.task_type == "extraction",
        "examples": [],
        "demos": draft.demos,
        "lineage": {
            "attributes": _shown(draft.perspective),
            "calls": draft.calls,
            "model": asker.teacher.model,
        },
    }
