"""Instructions as a YAML file that a person can edit: written from the table, and read back into it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.definitions import instruction_id, record_task
from stillhouse.errors import InputError
from stillhouse.schemas import INSTRUCTIONS, table_of
from stillhouse.tasks import Task, record_fields, unrender

LEFT_OUT = "left out by a person"
WIDEST_SCALE = 100
HEAD = """\
# Instructions of a run. Edit, add or delete entries, then: stillhouse instructions import RUN FILE
# An entry without `id` is new. `instruction` is the wording without its output format, which is made of the rest:
# labels (empty: free) for a classification, scale for a scoring, verbatim for an extraction, fields for a structured
# task (a list of values, or text, quote or list).
"""


class Demonstration(BaseModel):
    """A text and its output, as the student would write it."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1)
    output: str


class Entry(BaseModel):
    """One instruction in the file."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    perspective: str = Field(min_length=1)
    type: Literal["analysis", "classification", "scoring", "extraction", "structured"]
    name: str = Field(min_length=1)
    instruction: str = Field(min_length=1)
    labels: list[str] = []
    scale: list[int] = []
    verbatim: bool = False
    fields: dict[str, list[str] | str] = {}
    examples: list[Demonstration] = []
    demos: list[Demonstration] = []

    @model_validator(mode="after")
    def _is_whole(self) -> "Entry":
        if not any(character.isalpha() for character in self.instruction):
            raise ValueError("the instruction has no words")
        distinct = {" ".join(label.split()).casefold() for label in self.labels} - {""}
        if len(distinct) < len(self.labels) or len(distinct) == 1:
            raise ValueError("`labels` needs at least two different labels, or none where the label is free")
        if self.type == "scoring" and not (len(self.scale) == 2 and 0 < self.scale[1] - self.scale[0] <= WIDEST_SCALE):
            raise ValueError("`scale` needs the lowest and the highest number, at most 100 apart, for example [1, 5]")
        mine = {"classification": "labels", "scoring": "scale", "extraction": "verbatim", "structured": "fields"}
        others = [name for kind, name in mine.items() if kind != self.type and getattr(self, name)]
        if others:
            raise ValueError(f"`{others[0]}` does not go with type {self.type}")
        task = self.task()
        for demo in self.examples + self.demos:
            fault = _demo_fault(task, demo)
            if fault:
                raise ValueError(f"the output {demo.output!r} does not fit the task: {fault}")
        return self

    def task(self) -> Task:
        """Return the typed task. Raises ValueError where the fields of a record are not usable."""
        if self.type == "structured":
            return record_task(dict(self.fields))
        labels = tuple(" ".join(label.split()) for label in self.labels)
        return Task(self.type, labels, tuple(self.scale), None, self.verbatim)


def export_instructions(instructions: pl.DataFrame, perspectives: pl.DataFrame) -> str:
    """Return the kept instructions as YAML with a comment that says how to edit it."""
    entries = entries_of(instructions, perspectives)
    return HEAD + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=110)


def entries_of(instructions: pl.DataFrame, perspectives: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the kept instructions as entries of the file."""
    heads = dict(perspectives.select("perspective_id", "head").iter_rows())
    return [_entry(row, heads[row["perspective_id"]]) for row in instructions.filter("kept").iter_rows(named=True)]


def kept_edits(entries: Sequence[Entry], instructions: pl.DataFrame) -> str:
    """Return an edited file as it is kept in the run: with the ids of all instructions that the person had seen."""
    content = {
        "seen": sorted(instructions["instruction_id"]),
        "instructions": [entry.model_dump(exclude_defaults=True) for entry in entries],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def read_kept_edits(path: Path) -> tuple[list[Entry], set[str]]:
    """Return what `kept_edits` wrote: the entries, and the ids of what the person had seen.

    Raises InputError where the file is not as it was written.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [Entry.model_validate(entry) for entry in content["instructions"]], set(content["seen"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        cause = str(error).partition("\n")[0]
        raise InputError(f"{path} is damaged ({cause}); import the edited instructions again") from error


def read_entries(path: Path) -> list[Entry]:
    """Read an edited file. Raises InputError that names file, entry and remedy for each fault."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, list) or not data:
        raise InputError(f"{path} must be a list of instructions; `stillhouse instructions export` writes one")
    entries, faults = [], []
    for number, item in enumerate(data, start=1):
        try:
            entries.append(Entry.model_validate(item))
        except ValidationError as error:
            name = item.get("name") if isinstance(item, dict) else None
            faults += [f"  entry {number} ({name}): {_explain(fault)}" for fault in error.errors()]
    if faults:
        raise InputError(f"{path} has {len(faults)} fault(s):\n" + "\n".join(faults))
    return entries


def apply_entries(
    entries: Sequence[Entry],
    instructions: pl.DataFrame,
    perspectives: pl.DataFrame,
    seen: set[str] | None = None,
    earlier: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the `instructions` table as a person edited it.

    Entries that say what the teacher wrote keep their row; one that says more, or something else, is marked as edited,
    and has a new id where its wording is new. What is not among the entries stays in the table as left out, unless
    `seen` is given and does not hold its id: what a person has not seen is kept. `earlier` is a table with the lineage
    of earlier edits. Raises InputError where an entry's perspective is not one of the run's, or two are the same.
    """
    ids = {row["head"]: row["perspective_id"] for row in perspectives.iter_rows(named=True)}
    unknown = sorted({entry.perspective for entry in entries} - ids.keys())
    if unknown:
        raise InputError(
            f"instructions: no perspective is called {', '.join(unknown)}; known: {', '.join(ids)}. Mend the file; "
            "where the perspectives have changed since, import a new one, or delete the run's edited_instructions.yaml"
        )
    known = {row["instruction_id"]: row for row in instructions.iter_rows(named=True)}
    before = {row["instruction_id"]: row for row in earlier.iter_rows(named=True)} if earlier is not None else {}
    before.update(known)
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        row = _row(entry, ids[entry.perspective], before.get(entry.id or ""))
        if row["instruction_id"] in rows:
            raise InputError(f"instructions: `{entry.name}` of {entry.perspective} is in the file twice")
        rows[row["instruction_id"]] = row
    others = [row for key, row in known.items() if key not in rows]
    for row in others:
        if row["kept"] and (seen is None or row["instruction_id"] in seen):
            row["kept"], row["reason"] = False, LEFT_OUT
    return table_of([*rows.values(), *others], INSTRUCTIONS, "instructions")


def _entry(row: dict[str, Any], head: str) -> dict[str, Any]:
    """Return a row as an entry of the file: only what its type has."""
    task = Task.from_row(row)
    typed: dict[str, Any] = {}
    if task.task_type == "classification":
        typed = {"labels": list(task.labels)}
    elif task.task_type == "scoring":
        typed = {"scale": list(task.scale)}
    elif task.task_type == "extraction":
        typed = {"verbatim": task.verbatim}
    elif task.task_type == "structured":
        typed = {"fields": record_fields(task.value_schema)}
    demos = {name: row[name] for name in ("examples", "demos") if row[name]}
    named = {"id": row["instruction_id"], "perspective": head, "type": task.task_type, "name": row["name"]}
    return {**named, "instruction": task.wording_of(row["instruction"]), **typed, **demos}


def _row(entry: Entry, perspective_id: str, old: dict[str, Any] | None) -> dict[str, Any]:
    task = entry.task()
    wording = f"{' '.join(entry.instruction.split())} {task.output_format}".strip()
    demos = {"examples": [demo.model_dump() for demo in entry.examples]}
    demos["demos"] = [demo.model_dump() for demo in entry.demos]
    content = {
        "perspective_id": perspective_id,
        "kind": "analysis" if task.task_type == "analysis" else "task",
        "task_type": task.task_type,
        "name": entry.name,
        "instruction": wording,
        "labels": list(task.labels),
        "scale": list(task.scale),
        "schema": task.schema,
        "verbatim": task.verbatim,
        **demos,
    }
    if old and all(old[key] == value for key, value in content.items()):
        return {**old, "kept": True, "reason": None}
    nothing: dict[str, Any] = {"attributes": [], "calls": [], "model": None, "revision": None, "seed": None}
    lineage = {**(old["lineage"] if old else nothing), "edited": True}
    key = instruction_id(perspective_id, task.task_type, wording)
    return {"instruction_id": key, **content, "lineage": lineage, "kept": True, "reason": None}


def _demo_fault(task: Task, demo: Demonstration) -> str | None:
    try:
        return task.fault(unrender(task, demo.output), demo.text)
    except ValueError:
        return "not JSON"


def _explain(fault: Any) -> str:
    place = ".".join(map(str, fault["loc"]))
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
