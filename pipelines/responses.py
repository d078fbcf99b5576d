"""Responses: texts paired evenly with instructions, answered by the teacher, checked by program (method, step 4)."""

import hashlib
import json
import math
import random
from typing import Any

import polars as pl

from pipelines.calls import Answer, Call, UnusableAnswerError, parse_answer
from pipelines.engine import Engine
from pipelines.prompting import Asker, load_template, object_schema
from stillhouse.recipe import Responses
from stillhouse.schemas import RESPONSES, table_of
from stillhouse.tasks import Task, render

MAX_TOKENS = 160


def answer_samples(
    texts: pl.DataFrame, instructions: pl.DataFrame, settings: Responses, asker: Asker, engine: Engine
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Let the teacher answer `settings.samples` pairs of text and instruction.

    Returns the `responses` table, one row per pair with its status and reason, and the counts by status.
    """
    rows = {row["instruction_id"]: row for row in instructions.iter_rows(named=True)}
    contents = dict(texts.select("text_id", "text").iter_rows())
    pairs = pair_evenly(texts["text_id"].to_list(), list(rows), settings.samples, asker.seed)
    calls = [_call(rows[instruction_id], contents[text_id], settings, asker) for text_id, instruction_id in pairs]
    answers = engine.ask("responses", calls)
    table = table_of(
        [
            _row(text_id, contents[text_id], rows[instruction_id], call, answers.get(call.call_id))
            for (text_id, instruction_id), call in zip(pairs, calls, strict=True)
        ],
        RESPONSES,
        "responses",
    )
    statuses = table["status"].cast(pl.String)
    return table, {status: int((statuses == status).sum()) for status in ("valid", "invalid", "failed")}


def pair_evenly(text_ids: list[str], instruction_ids: list[str], samples: int, seed: int) -> list[tuple[str, str]]:
    """Return up to `samples` distinct pairs in which the uses of any two texts, or instructions, differ by one at most.

    Shuffled texts and instructions both take turns. Where both are back at their starts, after the least common
    multiple of their numbers, the texts move one on, so no pair repeats before every text has met every instruction.
    """
    order = sorted(text_ids)
    random.Random(seed).shuffle(order)
    texts, count = len(order), len(instruction_ids)
    cycle = math.lcm(texts, count)
    return [
        (order[(number + number // cycle) % texts], instruction_ids[number % count])
        for number in range(min(samples, texts * count))
    ]


def student_prompt(instruction: str, text: str) -> str:
    """Return what the student reads before its answer: scored, published and trained on as it is."""
    return f"{instruction}\n\nText: {text}\n\nAnswer:\n"


def _call(row: dict[str, Any], text: str, settings: Responses, asker: Asker) -> Call:
    template = load_template("responses")
    shots = [shot for shot in template.shots if shot["task_type"] == row["task_type"]]
    shots += [
        {"task": row["instruction"], "text": demo["text"], "answer": _envelope(row, demo)} for demo in row["demos"]
    ]
    prompt = template.fill(shots, task=row["instruction"], text=text)
    schema = object_schema(answer=Task.from_row(row).value_schema())
    return asker.call(prompt, schema, settings.temperature, MAX_TOKENS)


def _envelope(row: dict[str, Any], demo: dict[str, str]) -> dict[str, Any]:
    plain = row["task_type"] == "classification"
    return {"answer": demo["output"] if plain else json.loads(demo["output"])}


def _row(text_id: str, text: str, instruction: dict[str, Any], call: Call, answer: Answer | None) -> dict[str, object]:
    output, status, reason = _judge(Task.from_row(instruction), text, answer)
    pair = f"{text_id} {instruction['instruction_id']}"
    return {
        "sample_id": "s" + hashlib.sha256(pair.encode()).hexdigest()[:15],
        "text_id": text_id,
        "instruction_id": instruction["instruction_id"],
        "prompt": student_prompt(instruction["instruction"], text),
        "output": output,
        "status": status,
        "reason": reason,
        "call_id": call.call_id,
    }


def _judge(task: Task, text: str, answer: Answer | None) -> tuple[str | None, str, str | None]:
    """Return output, status and reason; an invalid answer keeps its raw text as output."""
    if answer is None:
        return None, "failed", "teacher call failed"
    try:
        value = parse_answer(answer)
    except UnusableAnswerError as reason:
        return answer.text, "invalid", str(reason)
    if not isinstance(value, dict) or set(value) != {"answer"}:
        return answer.text, "invalid", "not the fields asked for"
    fault = task.fault(value["answer"], text)
    return render(value["answer"]), "invalid" if fault else "valid", fault
