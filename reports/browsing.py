"""What a reader can search in a report: perspectives, instructions and samples, a bounded number of each."""

from typing import Any

import polars as pl

from reports.content import KEPT, Content, bounded, shortened, texts_to_show
from stillhouse.schemas import ATTRIBUTES, INSTRUCTIONS, PERSPECTIVES

SAMPLES, SAMPLE_BYTES = 2_000, 5_000_000
INSTRUCTION_BYTES, PERSPECTIVE_BYTES = 3_000_000, 1_500_000
PROMPT_LENGTH, OUTPUT_LENGTH = 4_000, 2_000  # characters shown
MEMBERS, TEXTS_OF_PERSPECTIVE, TEXT_LENGTH, SHOTS = 25, 3, 240, 2
BROWSED = (
    *("sample_id", "text_id", "instruction_id", "call_id", "prompt", "output", "status", "invalid", "attempts"),
    *("domain", "task_type", "task", "perspective", "difficulty", "perplexity", "ifd", "output_tokens"),
    *("nearest_id", "nearest_similarity", "fate", "reason", "probability", "draw", "audit"),
)


def browsed_samples(samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return samples for the browser: by lot, as many of each fate as there is room for, kept ones the most.

    Half of the room is for kept samples; the other fates share what is left.
    """
    lot = samples.sample(fraction=1, shuffle=True, seed=0).with_row_index("lot")
    kept = lot.filter(pl.col("fate") == KEPT).head(SAMPLES // 2)
    others = lot.filter(pl.col("fate") != KEPT)
    room = max(1, (SAMPLES - len(kept)) // max(others["fate"].n_unique(), 1))
    place = pl.int_range(pl.len()).over("fate")
    rest = others.filter(place < room)
    chosen = pl.concat([kept, rest]).sort("lot").select(BROWSED)
    return bounded((_sample(row) for row in chosen.iter_rows(named=True)), SAMPLE_BYTES)


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    long = {"prompt": PROMPT_LENGTH, "output": OUTPUT_LENGTH}
    row |= {name: shortened(row[name], most) for name, most in long.items()}
    return {name: value for name, value in row.items() if value is not None}


def browsed_instructions(content: Content, samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the instructions with their lineage and what became of their samples."""
    heads = content.table("perspectives", PERSPECTIVES).select("perspective_id", pl.col("head").alias("perspective"))
    counts = samples.group_by("instruction_id").agg(
        pl.len().alias("paired"),
        (pl.col("status") == "valid").sum().alias("valid"),
        (pl.col("fate") == KEPT).sum().alias("chosen"),
        pl.col("difficulty").mean().round(6),  # the last digits depend on the order of adding
    )
    table = (
        content.table("instructions", INSTRUCTIONS)
        .join(heads, on="perspective_id", how="left", maintain_order="left")
        .join(counts, on="instruction_id", how="left", maintain_order="left")
    )
    return bounded((_instruction(row) for row in table.iter_rows(named=True)), INSTRUCTION_BYTES)


def _instruction(row: dict[str, Any]) -> dict[str, Any]:
    shots = {name: [_shot(one) for one in (row[name] or [])[:SHOTS]] for name in ("examples", "demos")}
    known = {name: len(row[name] or []) for name in ("examples", "demos")}
    lineage = _without_empty(row["lineage"] or {})
    return {**_without_empty({**row, **shots, "lineage": lineage}), "known": known, "kept": row["kept"]}


def _without_empty(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None and value != []}


def _shot(shot: dict[str, str]) -> list[str | None]:
    return [shortened(shot["text"], TEXT_LENGTH), shortened(shot["output"], TEXT_LENGTH)]


def browsed_perspectives(content: Content, samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the perspectives by their place in the table, with members, counts, examples and what became of them."""
    counts = dict(samples.filter(pl.col("fate") == KEPT)["perspective_id"].value_counts().iter_rows())
    examples = _examples(content, samples)
    rows = content.table("perspectives", PERSPECTIVES).with_row_index("place").sort("mentions", descending=True)
    found = (
        {
            **{key: row[key] for key in ("place", "head", "mentions", "share", "coherence")},
            "members": [[one["name"], one["count"], shortened(one["description"], TEXT_LENGTH)]
                        for one in row["members"][:MEMBERS]],
            "more": len(row["members"][MEMBERS:]),
            "kept": counts.get(row["perspective_id"], 0),
            "examples": examples.get(row["head"], []),
        }
        for row in rows.iter_rows(named=True)
    )  # fmt: skip
    return bounded(found, PERSPECTIVE_BYTES)


def _examples(content: Content, samples: pl.DataFrame) -> dict[str, list[list[str | None]]]:
    """Return for each attribute a few texts that show it, with its value there: of texts that may leave only."""
    shown = texts_to_show(content, samples)
    found = (
        content.table("attributes", ATTRIBUTES).drop_nulls("name").join(shown, on="text_id", maintain_order="left")
        .group_by("name", maintain_order=True).head(TEXTS_OF_PERSPECTIVE)
    )  # fmt: skip
    examples: dict[str, list[list[str | None]]] = {}
    for name, value, text in found.select("name", "value", "text").iter_rows():
        examples.setdefault(name, []).append([shortened(text, TEXT_LENGTH), shortened(value, TEXT_LENGTH)])
    return examples
