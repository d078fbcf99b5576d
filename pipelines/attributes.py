"""Attributes: one structured teacher call per text names the traits that the text shows (method, step 1)."""

import re
from collections import Counter
from collections.abc import Iterator

import polars as pl

from pipelines.calls import Answer, Call, UnusableAnswerError, parse_answer
from pipelines.engine import Engine
from pipelines.prompting import Asker, load_template, object_schema, sample_shots
from stillhouse.errors import RunError
from stillhouse.recipe import Attributes
from stillhouse.schemas import ATTRIBUTES, table_of

SHOTS = 4
SHOT_SETS = 4  # texts share this many draws of shots, so that teachers compute each prefix once
MAX_TOKENS_PER_ATTRIBUTE = 110
NAME = {"type": "string", "pattern": "^[a-z][a-z -]{2,30}$"}
PHRASE = {"type": "string", "minLength": 3, "maxLength": 80}


def enumerate_attributes(
    texts: pl.DataFrame, settings: Attributes, asker: Asker, engine: Engine
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Ask the teacher for the attributes of every text.

    Returns the `attributes` table (texts in their order) and the counts of calls, parsed answers, and unusable ones
    by reason. Raises RunError where no answer is usable.
    """
    calls = {row["text_id"]: _call(row, settings, asker) for row in texts.iter_rows(named=True)}
    answers = engine.ask("attributes", list(calls.values()))
    rows: list[dict[str, object]] = []
    unusable: Counter[str] = Counter()
    for text_id, call in calls.items():
        answer = answers.get(call.call_id)
        try:
            rows += _rows(text_id, call.call_id, answer)
        except UnusableAnswerError as reason:
            unusable[f"unusable: {reason}"] += 1
    if not rows:
        raise RunError(f"attributes: no answer of {len(calls)} is usable ({dict(unusable)}); use a stronger teacher")
    counts = {"calls": len(calls), "parsed": len(calls) - unusable.total(), **unusable}
    return table_of(rows, ATTRIBUTES, "attributes"), counts


def normalise_name(name: str) -> list[str]:
    """Return the attribute names that one written name stands for.

    Lower case, single spaces; "a: b" is a; "a/b" is a and b; "use of x" is x (CompEffDist release, step 1).
    """
    head = name.split(":", 1)[0]
    parts = (re.sub(r"\s+", " ", part).strip(" .-_\"'").lower() for part in head.split("/"))
    return [part for part in (re.sub(r"^(the )?use of ", "", part) for part in parts) if part]


def _call(row: dict[str, str], settings: Attributes, asker: Asker) -> Call:
    template = load_template("attributes")
    prompt = template.fill(
        sample_shots(template, SHOTS, int(row["text_id"], 16) % SHOT_SETS), text=row["text"], count=settings.per_text
    )
    item = object_schema(name=NAME, description=PHRASE, value=PHRASE)
    schema = object_schema(
        attributes={"type": "array", "items": item, "minItems": 1, "maxItems": settings.per_text},
    )
    return asker.call(prompt, schema, settings.temperature, MAX_TOKENS_PER_ATTRIBUTE * settings.per_text)


def _rows(text_id: str, call_id: str, answer: Answer | None) -> Iterator[dict[str, object]]:
    if answer is None:
        raise UnusableAnswerError("failed")
    value = parse_answer(answer)
    items = value.get("attributes") if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(_is_attribute(item) for item in items):
        raise UnusableAnswerError("not a list of attributes")
    seen: set[str] = set()
    for item in items:
        for name in normalise_name(item["name"]):
            if name not in seen:
                seen.add(name)
                yield {
                    "text_id": text_id,
                    "name": name,
                    "description": item["description"].strip(),
                    "value": item["value"].strip(),
                    "call_id": call_id,
                }


def _is_attribute(item: object) -> bool:
    return isinstance(item, dict) and all(isinstance(item.get(key), str) for key in ("name", "description", "value"))
