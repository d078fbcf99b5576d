"""The rows that an audit is about: kept ones, and those that the filters dropped."""

import hashlib
from collections.abc import Collection, Mapping

import polars as pl

from curation.audit.plan import DROPPED, KEPT
from curation.audit.verdicts import KEYS


def population_of(tables: Mapping[str, pl.DataFrame | pl.LazyFrame]) -> pl.DataFrame:
    """Return a row per answer of the teacher that can be judged: its version, population, filter, and what it covers.

    Columns: sample_id, version, instruction_id, population, stage, perspective (its id), task_type, difficulty.
    """
    table = {name: frame.lazy() for name, frame in tables.items()}
    answers = table["responses"].select("sample_id", "instruction_id", "prompt", "output")
    covers = table["instructions"].select("instruction_id", pl.col("perspective_id").alias("perspective"), "task_type")
    rows = (
        table["decisions"]
        .select("sample_id", "kept", "stage", "difficulty")
        .join(answers, on="sample_id", maintain_order="left")
        .join(covers, on="instruction_id", maintain_order="left")
        .filter(pl.col("output").str.strip_chars() != "")
        .collect()
    )
    version = pl.Series("version", map(version_of, rows["prompt"], rows["output"]), pl.String)
    population = pl.when("kept").then(pl.lit(KEPT)).otherwise(pl.lit(DROPPED)).alias("population")
    return rows.drop("prompt", "output").with_columns(version, population)


def without(population: pl.DataFrame, dropped: Collection[str]) -> pl.DataFrame:
    """Return a population without the rows of instructions that were dropped for what people found."""
    return population.filter(~pl.col("instruction_id").is_in(list(dropped)))


def kept_and_judged(population: pl.DataFrame, settlement: pl.DataFrame, dropped: Collection[str]) -> pl.DataFrame:
    """Return the kept rows that have a verdict, or whose instruction was dropped."""
    judged = settlement.select(*KEYS, judged=pl.lit(value=True))
    kept = population.filter(pl.col("population") == KEPT)
    rows = kept.join(judged, on=KEYS, how="left", maintain_order="left")
    return rows.filter(pl.col("judged") | pl.col("instruction_id").is_in(list(dropped))).drop("judged")


def version_of(prompt: str, output: str) -> str:
    """Return a digest of what an annotator judges: a verdict counts for this answer only."""
    return hashlib.sha256(f"{prompt}\0{output}".encode()).hexdigest()[:16]
