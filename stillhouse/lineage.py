"""How one sample came to be, step by step: from the text it is about to where it is published."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
from polars import selectors

from stillhouse.schemas import REVIEWS

Tables = Mapping[str, pl.LazyFrame]
Row = dict[str, Any]
TRACED = ("call_id", "finish_reason", "prompt_tokens", "output_tokens", "seconds", "told", "failures")  # in short
NEAREST_SHOWN = 200  # characters of the prompt of the nearest sample
BEFORE = "corrections/"  # starts the gates' key of a teacher's answer that people corrected


@dataclass(frozen=True)
class Step:
    """One step. `found` is what is known of it; where that is nothing, `missing` says why."""

    name: str
    found: Row
    missing: str = ""


@dataclass(frozen=True)
class Beside:
    """What is known of a run besides its tables.

    `trace` returns a teacher call after those that it corrects, or nothing where the journal does not know it; `places`
    are the configs and splits of the dataset with the rows in them, None before there is a dataset.
    """

    trace: Callable[[str], list[Row]] = lambda _: []
    reviews: pl.DataFrame = field(default_factory=REVIEWS.to_frame)
    places: Mapping[str, pl.LazyFrame] | None = None
    imported: bool = False


def lineage_of(tables: Tables, sample_id: str, beside: Beside) -> list[Step]:
    """Return the steps of a sample, in their order. `tables` are those that are made, with `responses` among them.

    Only the rows concerned are read.
    """
    answer = _row(tables, "responses", sample_id=sample_id)
    text = _row(tables, "texts", text_id=answer["text_id"])
    instruction = _row(tables, "instructions", instruction_id=answer["instruction_id"])
    attributes = _rows(tables, "attributes", text_id=answer["text_id"])
    perspective = _row(tables, "perspectives", perspective_id=instruction.get("perspective_id"))
    keys = (sample_id, BEFORE + sample_id, answer["instruction_id"], instruction.get("perspective_id"))
    return [
        Step("text", text, f"text {answer['text_id']} is gone"),
        _attributes(attributes, beside.imported),
        Step("perspective", _perspective(perspective), "the perspective is gone"),
        Step("instruction", _instruction(instruction), f"instruction {answer['instruction_id']} is gone"),
        _calls(answer, attributes, instruction, beside),
        Step("checks", _checks(answer, text.get("text") or "")),
        _scores(tables, answer),
        _of_sample(tables, "decisions", "decision", sample_id, "nothing is decided on it"),
        _reviews(beside.reviews, sample_id),
        _of_sample(tables, "audit", "audit", sample_id, "no verdict on it so far"),
        _gates(tables, [key for key in keys if key]),
        _published(beside.places, sample_id),
    ]


def as_json(steps: Sequence[Step]) -> Row:
    """Return the steps as one object, by name."""
    return {step.name: step.found or {"missing": step.missing} for step in steps}


def _rows(tables: Tables, name: str, **key: Any) -> list[Row]:
    if name not in tables:
        return []
    return _told(tables[name].filter(pl.col(column) == value for column, value in key.items()).collect())


def _told(rows: pl.DataFrame) -> list[Row]:
    """Return rows as JSON can hold them."""
    return rows.with_columns(selectors.datetime().dt.to_string("iso:strict")).to_dicts()


def _row(tables: Tables, name: str, **key: Any) -> Row:
    return next(iter(_rows(tables, name, **key)), {})


def _of_sample(tables: Tables, table: str, step: str, sample_id: str, missing: str) -> Step:
    """Return the step that is a sample's row of a table."""
    row = _row(tables, table, sample_id=sample_id)
    found = {name: value for name, value in row.items() if name != "sample_id"}
    return Step(step, found, missing if table in tables else _not_yet(table))


def _not_yet(stage: str) -> str:
    return f"not yet: stage {stage} has not run"


def _attributes(rows: list[Row], imported: bool) -> Step:
    found = [{name: row[name] for name in ("name", "description", "value")} for row in rows if row["name"]]
    reasons = [row["reason"] for row in rows if row["reason"]]
    missing = "none: the data was imported, nothing was looked for" if imported else "none was found in this text"
    return Step("attributes", {"attributes": found} if found else {}, ", ".join(reasons) or missing)


def _perspective(row: Row) -> Row:
    """Return a perspective without its place on the map."""
    return {name: value for name, value in row.items() if name not in ("x", "y")}


def _instruction(row: Row) -> Row:
    """Return an instruction with its lineage among the rest; its calls are told with the others."""
    lineage = {name: value for name, value in (row.get("lineage") or {}).items() if name != "calls"}
    return {name: value for name, value in row.items() if name != "lineage"} | lineage


def _calls(answer: Row, attributes: list[Row], instruction: Row, beside: Beside) -> Step:
    """Return the calls that made the answer as a whole, those that made attributes and instruction in short."""
    if beside.imported:
        return Step("calls", {}, "none: the data was imported")
    ids = {
        "responses": [answer["call_id"]],
        "attributes": [row["call_id"] for row in attributes],
        "instructions": (instruction.get("lineage") or {}).get("calls") or [],
    }
    found = {stage: traces for stage, some in ids.items() if (traces := _traced(some, stage == "responses", beside))}
    if "responses" in found:
        return Step("calls", found)
    gone = "the journal does not know the calls; was it moved away?"
    failed = "the call failed; `stillhouse inspect RUN failures` has its cause"
    return Step("calls", {"missing": failed if answer["call_id"] is None else gone, **found})


def _traced(ids: Sequence[str | None], as_a_whole: bool, beside: Beside) -> list[Row]:
    """Return calls with those they correct, each once."""
    traces = {trace["call_id"]: trace for call_id in ids if call_id for trace in beside.trace(call_id)}
    if as_a_whole:
        return list(traces.values())
    return [{name: trace[name] for name in TRACED} for trace in traces.values()]


def _checks(answer: Row, text: str) -> Row:
    quotes = [text[span["start"] : span["end"]] for span in answer["spans"] or []]
    names = ("prompt", "output", "status", "reason", "attempts", "spans")
    return {name: answer[name] for name in names} | {"quotes": quotes}


def _scores(tables: Tables, answer: Row) -> Step:
    missing = f"not scored: the answer is {answer['status']}"
    step = _of_sample(tables, "scores", "scores", answer["sample_id"], missing)
    if not step.found.get("nearest_id"):
        return step
    nearest = _row(tables, "responses", sample_id=step.found["nearest_id"])
    return replace(step, found={**step.found, "nearest_prompt": (nearest.get("prompt") or "")[:NEAREST_SHOWN]})


def _reviews(reviews: pl.DataFrame, sample_id: str) -> Step:
    answers = _told(reviews.filter(pl.col("sample_id") == sample_id).drop("sample_id"))
    return Step("reviews", {"answers": answers} if answers else {}, "nobody has answered so far")


def _gates(tables: Tables, keys: list[str]) -> Step:
    if "gates" not in tables:
        return Step("gates", {}, _not_yet("gates"))
    found = tables["gates"].filter(pl.col("key").is_in(keys)).collect().to_dicts()
    return Step("gates", {"findings": found} if found else {}, "nothing was found in it")


def _published(places: Mapping[str, pl.LazyFrame] | None, sample_id: str) -> Step:
    if places is None:
        return Step("published", {}, _not_yet("dataset"))
    found = [
        name
        for name, rows in places.items()
        if rows.filter(pl.col("id") == sample_id).select(pl.len()).collect().item()
    ]
    return Step("published", {"in": found} if found else {}, "in no part of the dataset")
