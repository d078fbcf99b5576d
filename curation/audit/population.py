"""The rows that an audit is about: kept ones, and those that the filters dropped."""

import hashlib
from collections.abc import Mapping

import polars as pl

from curation.audit.plan import DROPPED, KEPT
from curation.audit.rounds import Failure, Rounds
from stillhouse.recipe import Review


def population_of(tables: Mapping[str, pl.DataFrame | pl.LazyFrame], failures: list[Failure]) -> pl.DataFrame:
    """Return a row per answer of the teacher that can be judged: its version, population, filter, and what it covers.

    Columns: sample_id, version, instruction_id, population, stage, perspective (its id), task_type, difficulty. Rows of
    instructions that were dropped for what people found are left out.
    """
    table = {name: frame.lazy() for name, frame in tables.items()}
    gone = [failure.instruction_id for failure in failures if failure.action == "drop"]
    answers = table["responses"].select("sample_id", "instruction_id", "prompt", "output")
    covers = table["instructions"].select("instruction_id", pl.col("perspective_id").alias("perspective"), "task_type")
    rows = (
        table["decisions"]
        .select("sample_id", "kept", "stage", "difficulty")
        .join(answers, on="sample_id", maintain_order="left")
        .join(covers, on="instruction_id", maintain_order="left")
        .filter(pl.col("output").str.strip_chars() != "", ~pl.col("instruction_id").is_in(gone))
        .collect()
    )
    version = pl.Series("version", map(version_of, rows["prompt"], rows["output"]), pl.String)
    population = pl.when("kept").then(pl.lit(KEPT)).otherwise(pl.lit(DROPPED)).alias("population")
    return rows.drop("prompt", "output").with_columns(version, population)


def kept_and_judged(population: pl.DataFrame, rounds: Rounds, settings: Review) -> pl.DataFrame:
    """Return the kept rows that have a verdict, or whose instruction was dropped."""
    gone = [failure.instruction_id for failure in rounds.failures if failure.action == "drop"]
    judged = rounds.settlement(settings.arbiter).select("sample_id", "version", judged=pl.lit(value=True))
    rows = population.filter(pl.col("population") == KEPT).join(
        judged, on=["sample_id", "version"], how="left", maintain_order="left"
    )
    return rows.filter(pl.col("judged") | pl.col("instruction_id").is_in(gone)).drop("judged")


def version_of(prompt: str, output: str) -> str:
    """Return a digest of what an annotator judges: a verdict counts for this answer only."""
    return hashlib.sha256(f"{prompt}\0{output}".encode()).hexdigest()[:16]
