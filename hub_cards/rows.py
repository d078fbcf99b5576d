"""The rows of the published dataset, joined from the tables of a run."""

import polars as pl

from stillhouse.draws import uniform
from stillhouse.schemas import CORRECTIONS, PUBLISHED, REJECTED, conform

Tables = dict[str, pl.DataFrame]


def audited(tables: Tables) -> Tables:
    """Return the tables as people's verdicts leave them: samples they rejected are not kept, new answers in place."""
    audit = tables["audit"]
    out = audit.filter(pl.col("outcome") == "rejected").select("sample_id", why="reason")
    rejected = pl.col("why").is_not_null() & pl.col("kept")
    decisions = tables["decisions"].join(out, on="sample_id", how="left", maintain_order="left").with_columns(
        kept=pl.col("kept") & ~rejected,
        stage=pl.when(rejected).then(pl.lit("audit")).otherwise("stage"),
        reason=pl.when(rejected).then("why").otherwise("reason"),
    )  # fmt: skip
    corrected = audit.filter(pl.col("outcome") == "corrected").rename({"completion": "output"})
    replaced = {
        name: tables[name].update(corrected.select("sample_id", *columns), on="sample_id", include_nulls=True)
        for name, columns in (("responses", ("output", "spans")), ("scores", ("difficulty", "perplexity", "ifd")))
    }
    return {**tables, **replaced, "decisions": decisions.drop("why")}


def corrections(tables: Tables) -> pl.DataFrame:
    """Return what people corrected among the kept samples, without their names; `tables` are those before `audited`."""
    answers = tables["responses"].select("sample_id", teacher_completion="output")
    rows = (
        tables["audit"].filter(pl.col("outcome") == "corrected")
        .join(tables["decisions"].filter("kept").select("sample_id"), on="sample_id", how="semi")
        .join(answers, on="sample_id", maintain_order="left")
        .with_columns(pl.col("sample_id").alias("id"), pl.col("annotators").list.len().cast(pl.Int64))
    )  # fmt: skip
    return conform(rows.select(CORRECTIONS.names()), CORRECTIONS, "corrections")


def published_rows(tables: Tables, teacher: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the kept rows and the rejected ones (with filter and reason), both in the order of `responses`.

    `tables` are those of `gates.gated`: a sample may show another text than it was made of, or none (`shown`).
    """
    audit = tables["audit"].select("sample_id", audit=pl.col("outcome").cast(pl.String))
    instructions = tables["instructions"].select(
        "instruction_id", "perspective_id", "instruction", pl.col("name").alias("task_name"), "task_type",
        pl.col("lineage").struct.field("attributes"),
    )  # fmt: skip
    perspectives = tables["perspectives"].select("perspective_id", pl.col("head").alias("perspective"))
    decisions = tables["decisions"].select("sample_id", "kept", "reason", rejected_by=pl.coalesce("gate", "stage"))
    rows = (
        tables["responses"]
        .drop("reason")
        .join(tables["texts"], on="text_id", maintain_order="left")
        .with_columns(pl.coalesce("shown", "text").alias("text"))
        .join(instructions, on="instruction_id", maintain_order="left")
        .join(perspectives, on="perspective_id", maintain_order="left")
        .join(tables["scores"], on="sample_id", how="left", maintain_order="left")
        .join(decisions, on="sample_id", maintain_order="left")
        .join(audit, on="sample_id", how="left", maintain_order="left")
        .with_columns(
            pl.col("sample_id").alias("id"),
            pl.col("output").alias("completion"),
            pl.lit(teacher).alias("teacher"),
            pl.col("audit").fill_null("not_audited"),
            pl.concat_list(_message("user", "prompt"), _message("assistant", "output")).alias("messages"),
        )
    )
    kept = conform(rows.filter("kept").select(PUBLISHED.names()), PUBLISHED, "default")
    rejected = conform(rows.filter(~pl.col("kept")).select(REJECTED.names()), REJECTED, "rejected")
    return kept, rejected


def split_by_text(rows: pl.DataFrame, test_share: float) -> dict[str, pl.DataFrame]:
    """Return the splits train and test; a text is in one of them only. An empty split is left out.

    A text's split depends on nothing but the text, so it stays the same in every later version. Rows that would all
    be test rows are all train rows instead.
    """
    test = pl.Series([uniform(text) for text in rows["text"]], dtype=pl.Float64) < test_share
    if test.all():
        return {"train": rows}
    splits = {"train": rows.filter(~test), "test": rows.filter(test)}
    return {name: split for name, split in splits.items() if len(split)}


def _message(role: str, column: str) -> pl.Expr:
    return pl.struct(pl.lit(role).alias("role"), pl.col(column).alias("content"))
