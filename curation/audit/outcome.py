"""The `audit` table: what becomes of each kept sample that people judged, and of those of instructions that failed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from curation.audit.verdicts import KEYS, SETTLED
from curation.difficulty import Score
from stillhouse.schemas import AUDIT, table_of
from stillhouse.sections import UNKNOWN
from stillhouse.tasks import Task, render, unrender

Scorer = Callable[[Sequence[tuple[str, str]]], list[Score]]  # of pairs of prompt and answer
SCORES = ("difficulty", "perplexity", "ifd")


def audit_table(
    judged: pl.DataFrame, settlement: pl.DataFrame, dropped: Mapping[str, str], score: Scorer
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the table and its counts. `judged` are the kept samples that it is about, with text and instruction.

    `dropped` are instructions that failed, with the reason.

    A correction has to be a valid answer, as a teacher's has; then it is scored as one. A wrong answer without a valid
    correction is rejected, and so are all answers to an instruction that was dropped.
    """
    verdicts = {tuple(row[key] for key in KEYS): row for row in settlement.iter_rows(named=True)}
    rows = []
    for sample in judged.iter_rows(named=True):
        verdict = verdicts.get((sample["sample_id"], sample["version"]), {})
        row = {key: verdict.get(key) for key in ("faults", "annotators", "settled_at")}
        if sample["instruction_id"] in dropped:
            rows.append({**row, **_rejected(sample, dropped[sample["instruction_id"]])})
        elif verdict.get("verdict") in SETTLED:
            rows.append({**row, **_outcome(sample, verdict)})
    corrected = [number for number, row in enumerate(rows) if row["outcome"] == "corrected"]
    prompts = dict(judged.select("sample_id", "prompt").iter_rows())
    scores = score([(prompts[rows[number]["sample_id"]], rows[number]["completion"]) for number in corrected])
    for number, found in zip(corrected, scores, strict=True):
        rows[number] |= {name: asdict(found)[name] for name in SCORES}
    table = table_of(rows, AUDIT, "audit")
    return table, {
        outcome: table.filter(pl.col("outcome") == outcome).height for outcome in ("accepted", "corrected", "rejected")
    }


def judged_samples(population: pl.DataFrame, tables: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
    """Return rows of a population with what their answers are checked by: prompt, text, instruction and its task."""
    return (
        population.lazy()
        .drop("task_type")
        .join(
            tables["responses"].select("sample_id", "text_id", "prompt", "output"),
            on="sample_id",
            maintain_order="left",
        )
        .join(tables["texts"].select("text_id", "text"), on="text_id", maintain_order="left")
        .join(tables["instructions"].drop("reason", "perspective_id"), on="instruction_id", maintain_order="left")
        .collect()
    )


def _outcome(sample: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    if verdict["verdict"] == "correct":
        return {"sample_id": sample["sample_id"], "outcome": "accepted"}
    faults = ", ".join(verdict["faults"]) or "wrong"
    if verdict["correction"] is None:
        return _rejected(sample, f"people found it {faults}, and gave no correction")
    answer, spans, fault = corrected_answer(sample, verdict["correction"])
    if fault:
        return _rejected(sample, f"people found it {faults}; their correction is not valid: {fault}")
    if answer == sample["output"]:
        return _rejected(sample, f"people found it {faults}; their correction is the same answer")
    spans_ = [{"start": start, "end": end} for start, end in spans]
    return {
        "sample_id": sample["sample_id"],
        "outcome": "corrected",
        "reason": faults,
        "completion": answer,
        "spans": spans_,
    }


def corrected_answer(sample: dict[str, Any], correction: str) -> tuple[str, list[tuple[int, int]], str | None]:
    """Return a person's answer in the task's own form, its verbatim spans, and why it is not valid (None: it is)."""
    task = Task.from_row(sample)
    if task.task_type == UNKNOWN or not sample["instruction"]:
        return correction, [], None  # of imported data no task is known
    try:
        value = unrender(task, correction.strip())
    except (ValueError, RecursionError):
        return correction, [], "not JSON"
    labels = {label.casefold(): label for label in task.labels}
    value = labels.get(value.casefold(), value) if isinstance(value, str) else value
    fault = task.fault(value, sample["text"])
    if fault is None and not _is_writable(render(value)):
        fault = "half a character"
    return (correction, [], fault) if fault else (render(value), task.spans(value, sample["text"]), None)


def _is_writable(text: str) -> bool:
    """Say whether a text can be stored: JSON can spell half a character, which cannot."""
    return text.encode("utf-8", "replace").decode("utf-8") == text


def _rejected(sample: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"sample_id": sample["sample_id"], "outcome": "rejected", "reason": reason}
