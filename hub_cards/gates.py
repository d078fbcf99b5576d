"""The gates before publishing: what leaks from evaluation sets is left out, what is private is replaced or left out."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from hub_cards.evaluation import Evaluation
from hub_cards.leaks import find_leaks
from hub_cards.privacy import KINDS, Finding, Kind, find_private, placeholder, redacted
from hub_cards.rows import Tables, audited, corrections
from stillhouse.encoder import Encoder
from stillhouse.progress import Progress
from stillhouse.schemas import GATES, conform
from stillhouse.sections import Publish

Scorer = Callable[[Sequence[tuple[str, str]]], Sequence[Any]]  # of pairs of prompt and completion
SHOWN = ("text", "prompt", "completion")  # of a sample
SCORES = ("difficulty", "perplexity", "ifd")
TEXT = pl.Schema({"key": pl.String, "field": pl.String, "text": pl.String, "language": pl.String})
BEFORE = "corrections/"  # starts the key of a teacher's answer that people corrected: it leaves in that config alone
ENGLISH = "en"  # in which instructions are worded


@dataclass(frozen=True)
class Strings:
    """All that leaves: every string of samples, instructions and perspectives, and the distinct ones among them."""

    table: pl.DataFrame  # schema TEXT
    distinct: pl.DataFrame  # number, text, language

    def where(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return keys and fields of findings (column `number` of the distinct string)."""
        return self.table.join(self.distinct.select("number", "text"), on="text").join(found, on="number")


def strings_of(tables: Tables) -> Strings:
    """Return the strings that leave with the data, by the ids of samples, instructions and perspectives."""
    before = corrections(tables).select("teacher_completion", sample_id="id")
    corrected = pl.col("field") == "teacher_completion"
    samples = (
        audited(tables)["responses"].select("sample_id", "text_id", "prompt", completion="output")
        .join(tables["texts"].select("text_id", "text", "language"), on="text_id", how="left")
        .join(before, on="sample_id", how="left")
        .unpivot(
            [*SHOWN, "teacher_completion"], index=["sample_id", "language"], variable_name="field", value_name="string"
        )
        .with_columns(key=pl.when(corrected).then(BEFORE + pl.col("sample_id")).otherwise("sample_id"))
        .rename({"string": "text"})
    )  # fmt: skip
    instructions, perspectives = tables["instructions"], tables["perspectives"]
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
    tables: Tables,
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
    strings = strings_of(tables)
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
    return find_leaks(strings.distinct["text"].to_list(), evaluation, settings.leaks.similarity, encoder, report)


def _private(strings: Strings, settings: Publish, report: Callable[[int], None]) -> pl.DataFrame:
    """Return findings: number of the string, kind, start, end."""
    # Names take a model to find; they are looked for where something is done with them.
    kinds = [kind for kind in KINDS if kind != "name" or settings.private.name != "keep"]
    rows: list[tuple[int, str, int, int]] = []
    done = 0

    def tell(more: int) -> None:
        report(done + more)

    for (language,), part in strings.distinct.group_by("language", maintain_order=True):
        found = find_private(part["text"].to_list(), kinds, str(language), tell)
        rows += [
            (number, one.kind, one.start, one.end)
            for number, some in zip(part["number"], found, strict=True)
            for one in some
        ]
        done += len(part)
    schema = {"number": pl.Int64, "kind": pl.String, "start": pl.Int64, "end": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


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
    spans: dict[tuple[str, str], list[Finding]] = {}
    values: dict[str, dict[str, Kind]] = {}
    action = settings.private.model_dump()
    for row in private.join(texts, on=["key", "field"], how="semi").iter_rows(named=True):
        if action[row["kind"]] != "keep":
            spans.setdefault((row["key"], row["field"]), []).append(Finding(row["start"], row["end"], row["kind"]))
            values.setdefault(row["key"], {})[row["text"][row["start"] : row["end"]]] = row["kind"]
    rows: dict[str, dict[str, str]] = {}
    for key, field, text in texts.select("key", "field", "text").iter_rows():
        name = "prompt" if field == "instruction" else field
        rows.setdefault(key, {})[name] = _quotes_redacted(
            redacted(text, spans.get((key, field), [])), values.get(key, {})
        )
    shown = pl.DataFrame(
        [{"key": key, **row} for key, row in rows.items()], schema=dict.fromkeys(("key", *SHOWN), pl.String)
    )
    return table.join(shown, on="key", how="left", maintain_order="left")


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


def gated(tables: Tables, gates: pl.DataFrame) -> Tables:
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
    scores = tables["scores"].update(
        samples.filter(pl.col("outcome") == "redacted").select("sample_id", *SCORES),
        on="sample_id",
        include_nulls=True,
    )
    fresh = {"decisions": decisions.drop("why"), "responses": responses, "scores": scores}
    return {**tables, **fresh, **_gated_tasks(tables, gates)}


def _gated_tasks(tables: Tables, gates: pl.DataFrame) -> Tables:
    """Return instructions and perspectives without what may not leave; labels and schema are part of the wording."""
    wordings = gates.select(instruction_id="key", wording=pl.col("prompt").fill_null(""))
    changed = pl.col("wording") != pl.col("instruction")
    instructions = tables["instructions"].join(wordings, on="instruction_id", how="left", maintain_order="left")
    instructions = instructions.with_columns(
        *(_emptied(instructions, name, pl.col("wording").is_not_null()) for name in ("examples", "demos")),
        _emptied(instructions, "labels", changed),
        schema=pl.when(changed).then(None).otherwise("schema"),
        instruction=pl.coalesce("wording", "instruction"),
    ).drop("wording")
    touched = pl.col("perspective_id").is_in(gates["key"].to_list())
    perspectives = tables["perspectives"].with_columns(_emptied(tables["perspectives"], "members", touched))
    return {"instructions": instructions, "perspectives": perspectives}


def _emptied(rows: pl.DataFrame, column: str, where: pl.Expr) -> pl.Expr:
    return pl.when(where).then(pl.lit([], rows.schema[column])).otherwise(column).alias(column)


def gated_corrections(corrected: pl.DataFrame, gates: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `rows.corrections` in neither of whose answers anything was found."""
    found = gates["key"].to_list()
    return corrected.filter(~pl.col("id").is_in(found), ~(BEFORE + pl.col("id")).is_in(found))
