"""Attributes: one structured teacher call per text names the traits that the text shows (method, step 1)."""

import re
import unicodedata
from typing import Any

import polars as pl

from pipelines.asking import Outcome, Question, ask_each
from pipelines.calls import UnusableAnswerError
from pipelines.engine import Engine
from pipelines.names import fold_names, normalise_name
from pipelines.prompting import Asker, Template, load_template, object_schema, sample_shots
from stillhouse.errors import RunError
from stillhouse.progress import Counts
from stillhouse.schemas import ATTRIBUTES, Rows
from stillhouse.sections import Attributes, Domain

SHOTS = 4
SHOT_SETS = 4  # texts share this many draws of shots, so that teachers compute each prefix once
MAX_TOKENS_PER_ATTRIBUTE = 110
PARTS = ("name", "description", "value")
MAX_CHARACTERS, MAX_NAME_CHARACTERS = 300, 60  # of an answer whose decoding is not constrained
NAME = {"type": "string", "pattern": "^[a-z][a-z -]{2,30}$"}
PHRASE = {"type": "string", "minLength": 3, "maxLength": 80}


def enumerate_attributes(
    texts: pl.DataFrame, domain: Domain, settings: Attributes, asker: Asker, engine: Engine
) -> tuple[pl.DataFrame, Counts]:
    """Ask the teacher for the attributes of every text.

    Returns the `attributes` table (texts in their order, names normalised and folded; a text whose answer was unusable
    has one row with the reason) and the counts of texts asked
    about, of those with a usable answer, of unusable answers by reason, and the attributes per text. Raises RunError
    where no answer is usable.
    """
    template, rows = _template(domain), Rows(ATTRIBUTES, "attributes")
    # In the order of the shots: a shared beginning is computed once by most servers.
    shots = pl.Series((_shot_set(text_id) for text_id in texts["text_id"]), dtype=pl.Int64)
    asked = texts.select("text_id", "text").with_row_index().sort(shots, maintain_order=True)

    def question(number: int) -> Question:
        _, text_id, text = asked.row(number)
        return _question(text_id, text, template, domain, settings)

    def keep(number: int, outcome: Outcome[list[dict[str, str]]]) -> None:
        place, text_id, _ = asked.row(number)
        for row in _rows(text_id, outcome):
            rows.add(place, row)

    ask_each(range(len(asked)), question, _items, keep, "attributes", asker, engine)
    table = rows.table()
    unusable = dict(table.drop_nulls("reason").group_by("reason", maintain_order=True).len().iter_rows())
    parsed, told = len(texts) - sum(unusable.values()), {f"unusable: {why}": count for why, count in unusable.items()}
    if not parsed:
        raise RunError(f"attributes: no answer of {len(texts)} is usable ({told}); use a stronger teacher")
    table = fold(table)
    per_text = round(table["name"].count() / parsed, 2)
    return table, {"asked": len(texts), "parsed": parsed, "per text": per_text, **told}


def fold(attributes: pl.DataFrame) -> pl.DataFrame:
    """Return the table with each name replaced by the one it counts as, once per text."""
    uses = attributes.drop_nulls("name").group_by("name").agg(pl.col("text_id").n_unique())
    folded = fold_names(dict(uses.sort("name").iter_rows()))
    return attributes.with_columns(pl.col("name").replace(folded)).unique(
        ["text_id", "name"], keep="first", maintain_order=True
    )


def _template(domain: Domain) -> Template:
    """Return the prompt with the shots of the domain; sentiment's own stand in the prompt file."""
    template = load_template("attributes")
    if not domain.examples:
        return template
    shots = [
        {"text": example.text, "answer": {"attributes": [item.model_dump() for item in example.attributes]}}
        for example in domain.examples
    ]
    return Template(template.instruction, template.question, tuple(shots))


def _shot_set(text_id: str) -> int:
    return int(text_id, 16) % SHOT_SETS


def _question(text_id: str, text: str, template: Template, domain: Domain, settings: Attributes) -> Question:
    prompt = template.fill(
        sample_shots(template, SHOTS, _shot_set(text_id)),
        text=text,
        count=settings.per_text,
        kind=domain.kind,
        guidelines=domain.guidelines,
    )
    item = object_schema(name=NAME, description=PHRASE, value=PHRASE)
    schema = object_schema(
        attributes={"type": "array", "items": item, "minItems": 1, "maxItems": settings.per_text},
    )
    return Question(prompt, schema, settings.temperature, MAX_TOKENS_PER_ATTRIBUTE * settings.per_text)


def _items(key: object, value: Any) -> list[dict[str, str]]:
    """Return the attributes of an answer. Raises UnusableAnswerError where it holds something else, or none."""
    items = value.get("attributes") if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(_is_attribute(item) for item in items):
        raise UnusableAnswerError("not a list of attributes")
    if any(len(item[part]) > MAX_CHARACTERS for item in items for part in PARTS):
        raise UnusableAnswerError("attribute too long")
    if any(unicodedata.category(c) == "Cc" and not c.isspace() for item in items for p in PARTS for c in item[p]):
        raise UnusableAnswerError("control characters")
    found: dict[str, dict[str, str]] = {}
    for item in items:
        for name in normalise_name(item["name"]):
            if len(name) <= MAX_NAME_CHARACTERS and re.search(r"[^\W\d_]", name):
                found.setdefault(name, {**item, "name": name})
    if not found:
        raise UnusableAnswerError("no attribute with a name")
    return list(found.values())


def _rows(text_id: str, outcome: Outcome[list[dict[str, str]]]) -> list[dict[str, object]]:
    """Return a row per attribute, or one row with the reason why there is none."""
    if outcome.value is None:
        return [{"text_id": text_id, "call_id": outcome.calls[-1] if outcome.calls else None, "reason": outcome.reason}]
    return [
        {
            "text_id": text_id,
            "name": item["name"],
            "description": " ".join(item["description"].split()),
            "value": " ".join(item["value"].split()),
            "call_id": outcome.calls[-1],
        }
        for item in outcome.value
    ]


def _is_attribute(item: object) -> bool:
    return isinstance(item, dict) and all(isinstance(item.get(part), str) for part in PARTS)
