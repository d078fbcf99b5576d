"""Responses: texts paired with instructions, answered by the teacher, checked by program (method, step 4)."""

import hashlib
import random
from collections import Counter
from typing import Any

import polars as pl

from pipelines.asking import FAILED, Outcome, Question, ask_checked
from pipelines.calls import UnusableAnswerError
from pipelines.engine import Engine
from pipelines.pairing import Cell, pair_evenly
from pipelines.prompting import Asker, load_template, object_schema
from pipelines.validation import wording_fault
from stillhouse.progress import Counts
from stillhouse.schemas import RESPONSES, table_of
from stillhouse.sections import Responses
from stillhouse.tasks import Task, longest_answer, render, unrender

FRAME_TOKENS, CHARACTERS_PER_TOKEN = 40, 2.5  # of JSON around an answer; few, so that no valid answer is cut

Pair = tuple[str, str]  # text_id, instruction_id
Shot = dict[str, Any]


def answer_samples(
    texts: pl.DataFrame, instructions: pl.DataFrame, settings: Responses, asker: Asker, engine: Engine
) -> tuple[pl.DataFrame, Counts]:
    """Let the teacher answer `settings.samples` pairs of text and instruction.

    Returns the `responses` table, one row per pair with its status and reason, and the counts by status, the invalid
    by reason, and those that were mended after their fault was told.
    """
    rows = {row["instruction_id"]: row for row in instructions.iter_rows(named=True)}
    tasks = {key: Task.from_row(row) for key, row in rows.items()}
    contents = dict(texts.select("text_id", "text").iter_rows())
    cells = [Cell(key, row["perspective_id"], row["task_type"]) for key, row in rows.items()]
    pairs = pair_evenly(list(texts.select("text_id", "domain").iter_rows()), cells, settings.samples, asker.seed)

    def shots(pair: Pair) -> list[Shot]:
        return _shots(rows[pair[1]], tasks[pair[1]], pair, contents[pair[0]], settings.demos, asker.seed)

    def question(pair: Pair) -> Question:
        text_id, key = pair
        return _question(rows[key], tasks[key], contents[text_id], shots(pair), settings)

    def check(pair: Pair, value: Any) -> str:
        text_id, key = pair
        return checked_output(tasks[key], value, contents[text_id], rows[key]["instruction"], shots(pair), settings)

    # Instruction by instruction: a shared beginning is computed once by most servers.
    in_order = sorted(pairs, key=lambda pair: pair[1])
    outcomes = ask_checked(in_order, question, check, "responses", asker, engine)
    table = table_of(
        [_row(pair, contents[pair[0]], rows[pair[1]]["instruction"], tasks[pair[1]], outcomes[pair]) for pair in pairs],
        RESPONSES,
        "responses",
    )
    return table, _counts(table)


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


def _shots(row: dict[str, Any], task: Task, pair: Pair, text: str, demos: int, seed: int) -> list[Shot]:
    """Return what the teacher is shown: fixed shots of the type, then demonstrations of the task drawn for this pair.

    A task without demonstrations shows its definition's examples. A demonstration on the pair's own text, as people's
    corrections are, would tell the answer.
    """
    shots = [shot for shot in load_template("responses").shots if shot["task_type"] == row["task_type"]]
    pool = [demo for demo in row["demos"] if demo["text"] != text] or row["examples"]
    drawn = random.Random(f"{seed} {pair}").sample(pool, min(demos, len(pool)))
    return shots + [
        {"task": row["instruction"], "text": demo["text"], "answer": {"answer": unrender(task, demo["output"])}}
        for demo in drawn
    ]


def _question(row: dict[str, Any], task: Task, text: str, shots: list[Shot], settings: Responses) -> Question:
    prompt = load_template("responses").fill(shots, task=row["instruction"], text=text)
    max_tokens = FRAME_TOKENS + round(longest_answer(task.value_schema) / CHARACTERS_PER_TOKEN)
    return Question(prompt, object_schema(answer=task.value_schema), settings.temperature, max_tokens)


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [string for part in value.values() for string in _strings(part)]
    if isinstance(value, list):
        return [string for part in value for string in _strings(part)]
    return [value] if isinstance(value, str) else []


def _row(pair: Pair, text: str, instruction: str, task: Task, outcome: Outcome[str]) -> dict[str, object]:
    """Return a row; an invalid answer keeps its raw text as output."""
    spans = task.spans(unrender(task, outcome.value), text) if outcome.value is not None else []
    status = "failed" if outcome.reason == FAILED else "invalid" if outcome.reason else "valid"
    return {
        "sample_id": "s" + hashlib.sha256(" ".join(pair).encode()).hexdigest()[:15],
        "text_id": pair[0],
        "instruction_id": pair[1],
        "prompt": student_prompt(instruction, text),
        "output": outcome.value if outcome.value is not None else outcome.answer and _printable(outcome.answer.text),
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
    statuses = Counter(table["status"].cast(pl.String))
    reasons = Counter(f"invalid: {reason}" for reason in table.filter(pl.col("status") == "invalid")["reason"])
    mended = table.filter((pl.col("status") == "valid") & (pl.col("attempts") > 1)).height
    known = {status: statuses[status] for status in ("valid", "invalid", "failed")}
    return {**known, "mended": mended, **dict(reasons.most_common())}
