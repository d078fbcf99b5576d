"""What a report is made of, and its samples as one table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl
from jinja2.utils import htmlsafe_json_dumps

from stillhouse.schemas import TEXTS

Row = TypeVar("Row")
SAMPLE = pl.Schema(
    {
        "sample_id": pl.String, "text_id": pl.String, "instruction_id": pl.String, "perspective_id": pl.String,
        "prompt": pl.String, "text": pl.String, "output": pl.String, "status": pl.String, "invalid": pl.String,
        "attempts": pl.Int64, "call_id": pl.String, "domain": pl.String, "task_type": pl.String, "task": pl.String,
        "perspective": pl.String, "difficulty": pl.Float64, "perplexity": pl.Float64, "ifd": pl.Float64,
        "output_tokens": pl.Int64, "nearest_id": pl.String, "nearest_similarity": pl.Float64, "kept": pl.Boolean,
        "stage": pl.String, "reason": pl.String, "probability": pl.Float64, "draw": pl.Float64, "audit": pl.String,
        "gate": pl.String, "fate": pl.String,
    }
)  # fmt: skip
# What became of a sample, in the order in which samples get lost.
FATES = {
    "validity": "invalid answer",
    "near_duplicate": "near-duplicate",
    "difficulty": "not scored",
    "selection": "not selected",
    "audit": "rejected by people",
    "leak": "leaks from an evaluation set",
    "privacy": "personal data or secrets",
}
KEPT, UNDECIDED = "kept", "not decided yet"


@dataclass(frozen=True)
class Content:
    """A run as its report tells it. Tables of stages that are not done are not there.

    `tables` are those of `hub_cards.gates.gated` where the gates are done: what may not leave is not in them.
    `calls` has one row per stage that asks the teacher, `failures` one per cause.
    """

    name: str
    tables: Mapping[str, pl.DataFrame]
    manifest: Mapping[str, Any]
    recipe: Mapping[str, Any]
    funnel: Mapping[str, int]
    calls: pl.DataFrame
    failures: pl.DataFrame
    coverage: pl.DataFrame | None = None
    unmet_quotas: tuple[Mapping[str, Any], ...] = ()
    findings: Mapping[str, Any] | None = None
    gates: Mapping[str, Any] | None = None
    comparison: Mapping[str, Any] | None = None

    def table(self, name: str, schema: pl.Schema) -> pl.DataFrame:
        """Return a table, without rows where its stage is not done."""
        return self.tables.get(name, schema.to_frame())


def samples_of(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return one row per answer with all that is known of it (SAMPLE); what is not known yet is null."""
    if "responses" not in tables:
        return SAMPLE.to_frame()
    rows = tables["responses"].rename({"reason": "invalid"}).cast({"status": pl.String})
    if "shown" in rows.columns:  # the text as it may leave
        rows = rows.rename({"shown": "shown_text"})
    about: dict[str, tuple[str, list[str | pl.Expr]]] = {
        "texts": ("text_id", ["text", "domain"]),
        "instructions": ("instruction_id", ["perspective_id", "task_type", pl.col("name").alias("task")]),
        "perspectives": ("perspective_id", [pl.col("head").alias("perspective")]),
        "scores": ("sample_id", [*SCORES, "nearest_id", "nearest_similarity"]),
        "decisions": ("sample_id", ["kept", "stage", "reason", "probability", "draw", "^gate$"]),
        "audit": ("sample_id", [pl.col("outcome").cast(pl.String).alias("audit")]),
    }
    for name, (key, columns) in about.items():
        if name in tables:
            rows = rows.join(tables[name].select(key, *columns), on=key, how="left", maintain_order="left")
    if "shown_text" in rows.columns:
        rows = rows.with_columns(text=pl.coalesce("shown_text", "text"))
    missing = [pl.lit(None, kind).alias(name) for name, kind in SAMPLE.items() if name not in rows.columns]
    rows = rows.with_columns(missing).with_columns(_fate()).select(SAMPLE.names()).cast(SAMPLE)
    # Neither JSON nor an axis knows infinity, which the perplexity of a single hopeless token may be.
    return rows.with_columns(pl.when(pl.col(name).is_finite()).then(name) for name in ("perplexity", "ifd"))


def texts_to_show(content: Content, samples: pl.DataFrame) -> pl.DataFrame:
    """Return texts by their ids: once the gates are done, those of samples that they let pass, and no others.

    The gates look at the texts of samples only.
    """
    if content.gates is None:
        return content.table("texts", TEXTS).select("text_id", "text")
    held_back = samples.filter(pl.col("text").is_null() | (pl.col("text") == "") | pl.col("prompt").is_null())
    passed = samples.join(held_back, on="text_id", how="anti").select("text_id", "text")
    return passed.unique("text_id", keep="first", maintain_order=True)


SCORES = ("difficulty", "perplexity", "ifd", "output_tokens")


def _fate() -> pl.Expr:
    filtered = pl.coalesce("gate", "stage").replace_strict(FATES, default=None, return_dtype=pl.String)
    fate = pl.when(pl.col("kept")).then(pl.lit(KEPT)).otherwise(filtered)
    return pl.when(pl.col("kept").is_null()).then(pl.lit(UNDECIDED)).otherwise(fate).alias("fate")


def bounded(rows: Iterable[Row], most_bytes: int) -> list[Row]:
    """Return the first rows that take no more than `most_bytes` as JSON in a page."""
    chosen, left = [], most_bytes
    for row in rows:
        left -= len(json_for_page(row).encode())
        if left < 0:
            break
        chosen.append(row)
    return chosen


def json_for_page(value: Any) -> str:
    """Return JSON that may stand in a script element, whatever is in it; letters of all languages stay letters."""
    return str(htmlsafe_json_dumps(value, ensure_ascii=False, separators=(",", ":")))


def shortened(text: str | None, most: int) -> str | None:
    """Return a text cut after `most` characters, with a sign that it was."""
    return text if text is None or len(text) <= most else f"{text[:most]} […]"
