"""A sample as an annotator sees it: plain data that every way of showing it renders and escapes for itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from stillhouse.tasks import Task

NO_TASK = "Judge whether the answer is a right one to this text."  # of imported rows, which are their own instruction


@dataclass(frozen=True)
class Part:
    """A stretch of a text, and whether the answer quotes it."""

    text: str
    marked: bool = False


@dataclass(frozen=True)
class Record:
    """One sample of a round.

    `parts` make up the text. The answer is shown as `fields` (name and value of a record), as `items` (of a list), or,
    where both are empty, as it is (`answer`, which is also what a correction starts from). `form` says which form an
    answer has to have. `population` says which rows the sample stands for; an annotator does not see it.
    """

    sample_id: str
    version: str
    parts: tuple[Part, ...]
    instruction: str
    form: str
    answer: str
    items: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    perspective: str
    task_type: str
    domain: str
    difficulty: float | None
    stratum: str
    population: str
    answers: int  # annotators who shall answer it


@dataclass(frozen=True)
class Answer:
    """What one annotator said of one record; `status` is submitted, draft or discarded."""

    sample_id: str
    version: str
    annotator: str
    status: str
    verdict: str | None
    faults: tuple[str, ...]
    rating: int | None
    correction: str | None
    comment: str | None
    given_at: datetime  # UTC
    problem: str | None = None  # why it does not count: a value that is no answer to the question


def record_of(row: dict[str, Any]) -> Record:
    """Return the record of a row that joins the round's frame with texts, instructions, responses and scores."""
    task = Task.from_row(row)
    items, fields = _shape(row["output"])
    return Record(
        sample_id=row["sample_id"],
        version=row["version"],
        parts=tuple(_parts(row["text"], row["spans"] or [])),
        instruction=task.wording_of(row["instruction"]) or (row["prompt"] if row["prompt"] != row["text"] else NO_TASK),
        form=task.output_format,
        answer=row["output"],
        items=items,
        fields=fields,
        perspective=row["perspective"],
        task_type=row["task_type"],
        domain=row["domain"],
        difficulty=row["difficulty"],
        stratum=row["stratum"],
        population=row["population"],
        answers=row["answers"],
    )


def record_from(entry: dict[str, Any]) -> Record:
    """Return the record that `dataclasses.asdict` made `entry` of, as JSON gives it back."""
    parts = tuple(Part(**part) for part in entry["parts"])
    fields = tuple((name, value) for name, value in entry["fields"])
    return Record(**{**entry, "parts": parts, "items": tuple(entry["items"]), "fields": fields})


def _parts(text: str, spans: Sequence[dict[str, int]]) -> list[Part]:
    """Cut a text where marked spans begin and end; spans may overlap."""
    marked = [False] * len(text)
    for span in spans:
        marked[span["start"] : span["end"]] = [True] * (span["end"] - span["start"])
    cuts = [0, *(place for place in range(1, len(text)) if marked[place] != marked[place - 1]), len(text)]
    return [Part(text[start:end], marked[start]) for start, end in pairwise(cuts) if start < end]


def _shape(output: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the items of a JSON list and the fields of a JSON object; of anything else neither."""
    try:
        value = json.loads(output)
    except ValueError:
        return (), ()
    if isinstance(value, list):
        return tuple(map(_shown, value)), ()
    if isinstance(value, dict):
        return (), tuple((name, _shown(part)) for name, part in value.items())
    return (), ()


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
