"""Responses: texts paired with instructions, answered by the teacher, checked by program (method, step 4)."""

import hashlib
import random
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipelines.asking import FAILED, Outcome, Question, ask_each
from pipelines.calls import UnusableAnswerError
from pipelines.engine import Engine
from pipelines.pairing import Cell, pair_evenly
from pipelines.prompting import Asker, load_template, object_schema
from pipelines.validation import wording_fault
from stillhouse.progress import Counts
from stillhouse.schemas import RESPONSES, Rows
from stillhouse.sections import Responses
from stillhouse.tasks import Task, longest_answer, render, unrender

FRAME_TOKENS, CHARACTERS_PER_TOKEN = 40, 2.5  # of JSON around an answer; few, so that no valid answer is cut

Shot = dict[str, Any]


@dataclass(frozen=True)
class _Sample:
    """A text, the row of the instruction that it meets, and the sample's place in the table."""

    place: int
    text_id: str
    text: str
    row: dict[str, Any]
    task: Task


def answer_samples(
    texts: pl.DataFrame, instructions: pl.DataFrame, settings: Responses, asker: Asker, engine: Engine
) -> tuple[pl.DataFrame, Counts]:
    """Let the teacher answer `settings.samples` pairs of text and instruction.

    Returns the `responses` table, one row per pair with its status and reason, and the counts by status, the invalid
    by reason, and those that were mended after their fault was told.
    """
    by_id = {row["instruction_id"]: row for row in instructions.iter_rows(named=True)}
    tasks = {key: Task.from_row(row) for key, row in by_id.items()}
    cells = [Cell(key, row["perspective_id"], row["task_type"]) for key, row in by_id.items()]
    asked, rows = _asked(texts, cells, settings.samples, asker.seed), Rows(RESPONSES, "responses")

    def sample(number: int) -> _Sample:
        place, text_id, key, text = asked.row(number)
        return _Sample(place, text_id, text, by_id[key], tasks[key])

    def question(number: int) -> Question:
        return _question(sample(number), settings, asker.seed)

    def check(number: int, value: Any) -> str:
        one = sample(number)
        shots = _shots(one, settings.demos, asker.seed)
        return checked_output(one.task, value, one.text, one.row["instruction"], shots, settings)

    def keep(number: int, outcome: Outcome[str]) -> None:
        one = sample(number)
        rows.add(one.place, _row(one, outcome))

    ask_each(range(len(asked)), question, check, keep, "responses", asker, engine)
    table = rows.table()
    return table, _counts(table)


def _asked(texts: pl.DataFrame, cells: list[Cell], samples: int, seed: int) -> pl.DataFrame:
    """Return the pairs (place in the table, text_id, instruction_id, text) in the order in which they are asked.

    Instruction by instruction: a shared beginning is computed once by most servers.
    """
    pairs = pair_evenly(list(texts.select("text_id", "domain").iter_rows()), cells, samples, seed)
    table = pl.DataFrame(pairs, {"text_id": pl.String, "instruction_id": pl.String}, orient="row").with_row_index()
    asked = table.join(texts.select("text_id", "text"), on="text_id", maintain_order="left")
    return asked.sort("instruction_id", maintain_order=True)


def checked_output(task: Task, value: Any, text: str, instruction: str, shots: list[Shot], settings: Responses) -> str:
    """Return the output of an answer. Raises UnusableAnswerError with the reason where it is not valid for its task."""
    if not isinstance(value, dict) or set(value) != {"answer"}:
        raise UnusableAnswerError("not the fields asked for")
    answer = value["answer"]
    shown = [("the instruction", instruction)]
    if task.task_type == "analysis":  # a record or a list may well hold the words of the text
        shown.append(("the text", text))
        shown += [("the prompt", load_template("responses").instruction)]
        shown += [("a demonstration", shot["text"]) for shot in shots]
    shown += [("a demonstration", string) for shot in shots for string in _strings(shot["answer"]["answer"])]
    whole = task.task_type in ("analysis", "classification")
    fault = task.fault(answer, text) or wording_fault(task.free_strings(answer), whole, settings.language, shown)
    if fault:
        raise UnusableAnswerError(fault)
    return render(answer)


def student_prompt(instruction: str, text: str) -> str:
    """Return what the student reads before its answer: scored, published and trained on as it is."""
    return f"{instruction}\n\nText: {text}\n\nAnswer:\n"


def _shots(sample: _Sample, demos: int, seed: int) -> list[Shot]:
    """Return what the teacher is shown: fixed shots of the type, then demonstrations of the task drawn for this pair.

    A task without demonstrations shows its definition's examples. A demonstration on the pair's own text, as people's
    corrections are, would tell the answer.
    """
    row, pair = sample.row, (sample.text_id, sample.row["instruction_id"])
    shots = [shot for shot in load_template("responses").shots if shot["task_type"] == row["task_type"]]
    pool = [demo for demo in row["demos"] if demo["text"] != sample.text] or row["examples"]
    drawn = random.Random(f"{seed} {pair}").sample(pool, min(demos, len(pool)))
    return shots + [
        {"task": row["instruction"], "text": demo["text"], "answer": {"answer": unrender(sample.task, demo["output"])}}
        for demo in drawn
    ]


def _question(sample: _Sample, settings: Responses, seed: int) -> Question:
    schema, shots = sample.task.value_schema, _shots(sample, settings.demos, seed)
    prompt = load_template("responses").fill(shots, task=sample.row["instruction"], text=sample.text)
    max_tokens = FRAME_TOKENS + round(longest_answer(schema) / CHARACTERS_PER_TOKEN)
    return Question(prompt, object_schema(answer=schema), settings.temperature, max_tokens)


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [string for part in value.values() for string in _strings(part)]
    if isinstance(value, list):
        return [string for part in value for string in _strings(part)]
    return [value] if isinstance(value, str) else []


def _row(sample: _Sample, outcome: Outcome[str]) -> dict[str, object]:
    """Return a row; an invalid answer keeps its raw text as output."""
    value, task, key = outcome.value, sample.task, sample.row["instruction_id"]
    spans = task.spans(unrender(task, value), sample.text) if value is not None else []
    status = "failed" if outcome.reason == FAILED else "invalid" if outcome.reason else "valid"
    return {
        "sample_id": "s" + hashlib.sha256(f"{sample.text_id} {key}".encode()).hexdigest()[:15],
        "text_id": sample.text_id,
        "instruction_id": key,
        "prompt": student_prompt(sample.row["instruction"], sample.text),
        "output": value if value is not None else outcome.answer and _printable(outcome.answer.text),
        "spans": [{"start": start, "end": end} for start, end in spans],
        "status": status,
        "reason": outcome.reason,
        "attempts": len(outcome.calls),
        "call_id": outcome.calls[-1] if outcome.calls else None,
    }


def _printable(text: str) -> str:
    """Return a raw answer as text that can be stored: half a character cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _counts(table: pl.DataFrame) -> Counts:
    statuses = dict(table["status"].cast(pl.String).value_counts().iter_rows())
    invalid = table.filter(pl.col("status") == "invalid").group_by("reason", maintain_order=True).len()
    mended = table.filter((pl.col("status") == "valid") & (pl.col("attempts") > 1)).height
    known = {status: statuses.get(status, 0) for status in ("valid", "invalid", "failed")}
    reasons = invalid.sort("len", descending=True, maintain_order=True).iter_rows()
    return {**known, "mended": mended, **{f"invalid: {reason}": count for reason, count in reasons}}
