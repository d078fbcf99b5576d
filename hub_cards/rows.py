"""The rows of the published dataset, joined from the tables of a run."""

from collections.abc import Mapping

import polars as pl

from stillhouse.coverage import Table
from stillhouse.draws import uniforms
from stillhouse.schemas import CORRECTIONS, PUBLISHED, REJECTED, columns_of, conform

Tables = Mapping[str, pl.LazyFrame]  # of which only what is used is read


def lazy(tables: Mapping[str, Table]) -> Tables:
    """Return tables to be read as far as they are used."""
    return {name: table.lazy() for name, table in tables.items()}


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
        name: replaced_rows(tables[name], corrected.select("sample_id", *columns))
        for name, columns in (("responses", ("output", "spans")), ("scores", ("difficulty", "perplexity", "ifd")))
    }
    return {**tables, **replaced, "decisions": decisions.drop("why")}


def replaced_rows(table: pl.LazyFrame, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return a table of samples with other values, nulls too, in the columns and rows of `rows`."""
    return table.update(rows, on="sample_id", include_nulls=True, maintain_order="left")


def corrections(tables: Tables) -> pl.DataFrame:
    """Return what people corrected among the kept samples, without their names; `tables` are those before `audited`."""
    answers = tables["responses"].select("sample_id", teacher_completion="output")
    rows = (
        tables["audit"].filter(pl.col("outcome") == "corrected")
        .join(tables["decisions"].filter("kept").select("sample_id"), on="sample_id", how="semi")
        .join(answers, on="sample_id", maintain_order="left")
        .with_columns(pl.col("sample_id").alias("id"), pl.col("annotators").list.len().cast(pl.Int64))
    )  # fmt: skip
    return conform(rows.select(CORRECTIONS.names()).collect(), CORRECTIONS, "corrections")


def published_rows(tables: Tables, teacher: str) -> tuple[pl.LazyFrame, pl.LazyFrame]:
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
    return rows.filter("kept").select(columns_of(PUBLISHED)), rows.filter(~pl.col("kept")).select(columns_of(REJECTED))


def split_by_text(rows: pl.LazyFrame, test_share: float) -> dict[str, pl.LazyFrame]:
    """Return the splits train and test; a text is in one of them only. An empty split is left out.

    A text's split depends on nothing but the text, so it stays the same in every later version. Rows that would all
    be test rows are all train rows instead.
    """
    in_test = pl.col("text").map_batches(_draws, pl.Float64, is_elementwise=True) < test_share
    count, tested = rows.select(pl.len(), in_test.sum().alias("tested")).collect().row(0)
    if tested in (0, count):
        return {"train": rows}
    return {"train": rows.filter(~in_test), "test": rows.filter(in_test)}


def _draws(texts: pl.Series) -> pl.Series:
    return pl.Series(uniforms(texts), dtype=pl.Float64)


def _message(role: str, column: str) -> pl.Expr:
    return pl.struct(pl.lit(role).alias("role"), pl.col(column).alias("content"))
