"""The gates before publishing: what leaks from evaluation sets is left out, what is private is replaced or left out."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from hub_cards.evaluation import Evaluation
from hub_cards.leaks import find_leaks
from hub_cards.privacy import KINDS, Finding, Kind, find_private, placeholder, redacted
from hub_cards.rows import Tables, audited, corrections, lazy, replaced_rows
from stillhouse.coverage import Table
from stillhouse.encoder import Encoder
from stillhouse.progress import Progress
from stillhouse.schemas import BATCH_ROWS, GATES, INSTRUCTIONS, PERSPECTIVES, Rows, conform
from stillhouse.sections import Publish

Scorer = Callable[[Sequence[tuple[str, str]]], Sequence[Any]]  # of pairs of prompt and completion
SHOWN = ("text", "prompt", "completion")  # of a sample
SCORES = ("difficulty", "perplexity", "ifd")
TEXT = pl.Schema({"key": pl.String, "field": pl.String, "text": pl.String, "language": pl.String})
FOUND = pl.Schema({"number": pl.Int64, "kind": pl.String, "start": pl.Int64, "end": pl.Int64})
BEFORE = "corrections/"  # starts the key of a teacher's answer that people corrected: it leaves in that config alone
ENGLISH = "en"  # in which instructions are worded


@dataclass(frozen=True)
class Strings:
    """All that leaves: every string of samples, instructions and perspectives, and the distinct ones among them."""

    table: pl.DataFrame  # schema TEXT
    distinct: pl.DataFrame  # number, text, language

    def where(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return keys and fields of findings (column `number` of the distinct string)."""
        strings = self.distinct.select("number", "text").join(found, on="number")
        return self.table.join(strings, on="text", maintain_order="left_right")


def strings_of(tables: Tables) -> Strings:
    """Return the strings that leave with the data, by the ids of samples, instructions and perspectives."""
    before = corrections(tables).lazy().select("teacher_completion", sample_id="id")
    corrected = pl.col("field") == "teacher_completion"
    samples = (
        audited(tables)["responses"].select("sample_id", "text_id", "prompt", completion="output")
        .join(tables["texts"].select("text_id", "text", "language"), on="text_id", how="left", maintain_order="left")
        .join(before, on="sample_id", how="left", maintain_order="left")
        .collect()
        .unpivot(
            [*SHOWN, "teacher_completion"], index=["sample_id", "language"], variable_name="field", value_name="string"
        )
        .with_columns(key=pl.when(corrected).then(BEFORE + pl.col("sample_id")).otherwise("sample_id"))
        .rename({"string": "text"})
    )  # fmt: skip
    instructions, perspectives = tables["instructions"].collect(), tables["perspectives"].collect()
    wording = instructions.select(key="instruction_id", field=pl.lit("instruction"), text="instruction")
    parts = [
        *(_parts(instructions, "instruction_id", name, "demonstration") for name in ("examples", "demos")),
        _parts(perspectives, "perspective_id", "members", "attribute"),
    ]
    own = pl.concat([wording, *parts]).with_columns(language=pl.lit(ENGLISH))
    table = pl.concat([part.select(TEXT.names()).cast(TEXT) for part in (samples, own)])
    table = table.filter(pl.col("text").str.strip_chars() != "")
    distinct = table.select("text", "language").unique("text", keep="first", maintain_order=True)
    return Strings(table, distinct.with_row_index("number").cast({"number": pl.Int64}))


def _parts(rows: pl.DataFrame, key: str, column: str, field: str) -> pl.DataFrame:
    """Return the strings in a column of lists of structs."""
    parts = rows.select(key=key, part=column).explode("part").drop_nulls("part").unnest("part")
    texts = [name for name, kind in parts.schema.items() if name != "key" and kind == pl.String]
    return parts.unpivot(texts, index="key", value_name="string").select("key", field=pl.lit(field), text="string")


def gate(
    tables: Mapping[str, Table],
    settings: Publish,
    evaluation: Evaluation,
    encoder: Encoder | None,
    score: Scorer,
    progress: Progress,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the table GATES and what was found, as plain data. `tables` are those before `rows.audited`.

    Samples of which something leaks or has to be dropped are excluded; where something is redacted, all three of
    text, prompt and completion are, and the sample is scored anew: it is another one to the student. Instructions
    lose their demonstrations instead, and `prompt` is their wording as it may leave (null: not at all); perspectives
    lose their members. A teacher's answer that people corrected is a row of its own, which leaves as it is or not.
    """
    strings = strings_of(lazy(tables))
    progress.start("leaks", total=len(strings.distinct))
    leaks = strings.where(_leaks(strings, settings, evaluation, encoder, progress.update))
    out = leaks if settings.leaks.action == "exclude" else leaks.clear()
    progress.start("privacy", total=len(strings.distinct))
    private = strings.where(_private(strings, settings, progress.update))
    table = _outcomes(out, private, settings)
    table = _redacted(table, strings, out, private, settings)
    return conform(_scored(table, score).select(GATES.names()), GATES, "gates"), {
        "leaks": _told_leaks(strings, leaks, evaluation, encoder, settings),
        "private": {"found": _told_private(private, settings)},
    }


def _leaks(
    strings: Strings, settings: Publish, evaluation: Evaluation, encoder: Encoder | None, report: Callable[[int], None]
) -> pl.DataFrame:
    return find_leaks(strings.distinct["text"], evaluation, settings.leaks.similarity, encoder, report)


def _private(strings: Strings, settings: Publish, report: Callable[[int], None]) -> pl.DataFrame:
    """Return findings: number of the string, kind, start, end."""
    # Names take a model to find; they are looked for where something is done with them.
    kinds = [kind for kind in KINDS if kind != "name" or settings.private.name != "keep"]
    found = [FOUND.to_frame()]
    done = 0

    def tell(more: int) -> None:
        report(done + more)

    for (language,), same in strings.distinct.group_by("language", maintain_order=True):
        for part in same.iter_slices(BATCH_ROWS):
            spans = find_private(part["text"].to_list(), kinds, str(language), tell)
            rows = [
                (number, one.kind, one.start, one.end)
                for number, some in zip(part["number"], spans, strict=True)
                for one in some
            ]
            found.append(pl.DataFrame(rows, FOUND, orient="row"))
            done += len(part)
    return pl.concat(found)


def _outcomes(leaks: pl.DataFrame, private: pl.DataFrame, settings: Publish) -> pl.DataFrame:
    """Return key, outcome, gate and reason: of each key the worst that was found in it."""
    action = settings.private.model_dump()
    parts = [
        leaks.select(
            "key", outcome=pl.lit("excluded"), gate=pl.lit("leak"),
            reason=pl.format("{}: {} in {}", "field", pl.col("how").cast(pl.String), "evaluation"),
        ),
        *(
            private.filter(pl.col("kind") == kind).select(
                "key", outcome=pl.lit({"drop": "excluded", "redact": "redacted"}[what]), gate=pl.lit("privacy"),
                reason=pl.format("{} in {}", "kind", "field"),
            )
            for kind, what in action.items() if what != "keep"
        ),
    ]  # fmt: skip
    worst = pl.concat(parts).sort(pl.col("outcome") != "excluded", "gate", "reason", maintain_order=True)
    return worst.unique("key", keep="first", maintain_order=True)


def _redacted(
    table: pl.DataFrame, strings: Strings, leaks: pl.DataFrame, private: pl.DataFrame, settings: Publish
) -> pl.DataFrame:
    """Add text, prompt and completion of redacted samples, and the wording of instructions that do not leak."""
    is_wording = pl.col("field") == "instruction"
    samples = table.filter(pl.col("outcome") == "redacted").select("key")
    texts = pl.concat([
        strings.table.filter(pl.col("field").is_in(SHOWN)).join(samples, on="key", how="semi"),
        strings.table.filter(is_wording).join(table, on="key", how="semi")
        .join(leaks.filter(is_wording), on="key", how="anti"),
    ])  # fmt: skip
    acted_on = [kind for kind, action in settings.private.model_dump().items() if action != "keep"]
    found = private.filter(pl.col("kind").is_in(acted_on)).join(texts, on=["key", "field"], how="semi")
    value = pl.col("text").str.slice(pl.col("start"), pl.col("end") - pl.col("start"))
    spans = found.select("key", span=pl.struct("field", "start", "end", "kind", value=value))
    by_key = (
        texts.group_by("key", maintain_order=True).agg(strings=pl.struct("field", "text"))
        .join(spans.group_by("key", maintain_order=True).agg("span"), on="key", how="left")
    )  # fmt: skip
    rows = Rows(pl.Schema(dict.fromkeys(("key", *SHOWN), pl.String)), "redacted")
    for place, (key, own, some) in enumerate(by_key.iter_rows()):
        rows.add(place, {"key": key, **_without(own, some or [])})
    return table.join(rows.table(), on="key", how="left", maintain_order="left")


def _without(strings: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, str]:
    """Return the strings of a sample or instruction, by column, without what was found in any of them."""
    values = {one["value"]: one["kind"] for one in found}
    row = {}
    for field, text in (string.values() for string in strings):
        spans = [Finding(one["start"], one["end"], one["kind"]) for one in found if one["field"] == field]
        row["prompt" if field == "instruction" else field] = _quotes_redacted(redacted(text, spans), values)
    return row


def _quotes_redacted(text: str, values: dict[str, Kind]) -> str:
    """Replace what was found in another string of the sample: a quote lacks the words by which it was known."""
    for value in sorted(values, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", placeholder(values[value]), text)
    return text


def _scored(table: pl.DataFrame, score: Scorer) -> pl.DataFrame:
    """Add the scores of the redacted samples."""
    changed = table.filter(pl.col("prompt").is_not_null(), pl.col("completion").is_not_null())
    found = score(list(changed.select("prompt", "completion").iter_rows()))
    columns = {name: [getattr(one, name) for one in found] for name in SCORES}
    scores = pl.DataFrame(
        {"key": changed["key"], **columns}, schema={"key": pl.String, **dict.fromkeys(SCORES, pl.Float64)}
    )
    return table.join(scores, on="key", how="left", maintain_order="left")


def _told_leaks(
    strings: Strings, leaks: pl.DataFrame, evaluation: Evaluation, encoder: Encoder | None, settings: Publish
) -> dict[str, Any]:
    found = (
        leaks.group_by("evaluation", "how").agg(pl.col("number").n_unique().alias("texts")).sort("evaluation", "how")
    )
    listed = leaks.select("key", "field", "evaluation", pl.col("how").cast(pl.String), "score", "row").sort(
        "evaluation", "how", "key", "field"
    )
    return {
        "checked": len(strings.distinct),
        "sets": evaluation.sizes()["evaluation"].to_list(),
        "neighbours": bool(encoder and settings.leaks.similarity and len(evaluation.worded)),
        "action": settings.leaks.action,
        "found": [
            {"set": row[0], "how": row[1], "texts": row[2]} for row in found.cast({"how": pl.String}).iter_rows()
        ],
        "rows": leaks.filter(pl.col("field").is_in(SHOWN))["key"].n_unique(),
        "matches": listed.to_dicts(),
    }


def _told_private(private: pl.DataFrame, settings: Publish) -> list[dict[str, Any]]:
    counts = dict(private.group_by("kind").agg(pl.col("number").n_unique()).iter_rows())
    return [
        {"kind": kind, "texts": counts.get(kind, 0), "action": action}
        for kind, action in settings.private.model_dump().items()
        if kind != "name" or action != "keep"
    ]


def gated(tables: Tables, gates: pl.LazyFrame) -> Tables:
    """Return the tables as they may leave: excluded samples rejected and without their words, redacted ones replaced.

    `tables` are those of `rows.audited`. Instructions with a finding lose their examples and demonstrations, and of
    their wording what was found; perspectives their members. `stage` of a decision stays the filter that had the last
    word, since rows are counted by it; a column `gate` comes with it.
    """
    samples = gates.rename({"key": "sample_id"})
    why = samples.filter(pl.col("outcome") == "excluded").select("sample_id", "gate", why="reason")
    decisions = (
        tables["decisions"]
        .join(why, on="sample_id", how="left", maintain_order="left")
        .with_columns(kept=pl.col("kept") & pl.col("gate").is_null(), reason=pl.coalesce("why", "reason"))
    )
    replaced = samples.select("sample_id", "outcome", text_="text", prompt_="prompt", output_="completion")
    responses = tables["responses"].join(replaced, on="sample_id", how="left", maintain_order="left")
    gone, redacted_ = pl.col("outcome") == "excluded", pl.col("outcome") == "redacted"
    responses = responses.with_columns(
        pl.when(gone).then(pl.lit(None)).when(redacted_).then(f"{name}_").otherwise(name).alias(name)
        for name in ("prompt", "output")
    ).with_columns(
        shown=pl.when(gone).then(pl.lit("")).when(redacted_).then("text_")
    ).drop("outcome", "text_", "prompt_", "output_")  # fmt: skip
    anew = samples.filter(pl.col("outcome") == "redacted").select("sample_id", *SCORES)
    scores = replaced_rows(tables["scores"], anew)
    fresh = {"decisions": decisions.drop("why"), "responses": responses, "scores": scores}
    return {**tables, **fresh, **_gated_tasks(tables, gates)}


def _gated_tasks(tables: Tables, gates: pl.LazyFrame) -> Tables:
    """Return instructions and perspectives without what may not leave; labels and schema are part of the wording."""
    wordings = gates.select(instruction_id="key", wording=pl.col("prompt").fill_null(""))
    changed = pl.col("wording") != pl.col("instruction")
    instructions = tables["instructions"].join(wordings, on="instruction_id", how="left", maintain_order="left")
    instructions = instructions.with_columns(
        *(_emptied(INSTRUCTIONS, name, pl.col("wording").is_not_null()) for name in ("examples", "demos")),
        _emptied(INSTRUCTIONS, "labels", changed),
        schema=pl.when(changed).then(None).otherwise("schema"),
        instruction=pl.coalesce("wording", "instruction"),
    ).drop("wording")
    touched = gates.select(perspective_id="key", touched=True)
    perspectives = (
        tables["perspectives"].join(touched, on="perspective_id", how="left", maintain_order="left")
        .with_columns(_emptied(PERSPECTIVES, "members", pl.col("touched").is_not_null()))
        .drop("touched")
    )  # fmt: skip
    return {"instructions": instructions, "perspectives": perspectives}


def _emptied(schema: pl.Schema, column: str, where: pl.Expr) -> pl.Expr:
    return pl.when(where).then(pl.lit([], schema[column])).otherwise(column).alias(column)


def gated_corrections(corrected: pl.LazyFrame, gates: pl.LazyFrame) -> pl.LazyFrame:
    """Return the rows of `rows.corrections` in neither of whose answers anything was found."""
    for key in (pl.col("id"), BEFORE + pl.col("id")):
        corrected = corrected.join(gates, left_on=key, right_on="key", how="anti", maintain_order="left")
    return corrected
