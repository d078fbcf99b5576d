"""What each filter removed: how many, why, with examples; and near-duplicates beside what they repeat."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from reports.content import FATES, Content, bounded, shortened, texts_to_show

EXAMPLES, REASONS = 3, 12  # of a reason; of a filter
EXAMPLE_LENGTH = 500  # characters
PAIRS, PAIR_LENGTH, PAIR_BYTES = 40, 1_500, 1_000_000
WITHHELD = "(the gate keeps its words back)"
NUMBERS = re.compile(r"\bs[0-9a-f]{15}\b|\d+\.\d+")  # what makes reasons of one kind differ


def filters_of(content: Content, samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return, for each step that takes something out, its name, unit, how many it took of how many, and reasons.

    A reason has its count and examples: pairs of what was taken out, and where it came from.
    """
    return [step for step in _steps(content, samples) if step["of"]]


def _steps(content: Content, samples: pl.DataFrame) -> Iterator[dict[str, Any]]:
    yield _texts(content.manifest)
    attributes, texts = content.tables.get("attributes"), content.tables.get("texts")
    if attributes is not None and texts is not None:
        shown = texts_to_show(content, samples).join(texts.select("text_id", "domain"), on="text_id")
        without = attributes.filter(pl.col("reason").is_not_null())
        without = without.join(shown, on="text_id", how="left", maintain_order="left")
        yield _step("attributes", "texts", without, attributes["text_id"].n_unique(), "text", "domain")
    instructions = content.tables.get("instructions")
    if instructions is not None:
        dropped = instructions.filter(~pl.col("kept"))
        yield _step("instructions", "instructions", dropped, len(instructions), "instruction", "name")
    if "decisions" not in content.tables:
        invalid = samples.filter(pl.col("status") != "valid").with_columns(reason="invalid")
        yield _step("invalid answer", "samples", invalid, len(samples), "output", "task")
        return
    left = len(samples)
    for fate in FATES.values():
        gone = samples.filter(pl.col("fate") == fate)
        yield _step(fate, "samples", gone, left, "output", "task")
        left -= len(gone)


def _texts(manifest: Any) -> dict[str, Any]:
    """Return what was left out while texts were read: they are counted, not kept."""
    counts = manifest["stages"].get("texts", {}).get("counts", {})
    reasons = [
        {"reason": name, "count": count, "examples": []}
        for name, count in counts.items()
        if name not in ("read", "kept") and count
    ]
    gone = sum(entry["count"] for entry in reasons)
    return {"name": "texts", "unit": "rows", "of": counts.get("read", 0), "gone": gone, "reasons": reasons, "more": 0}


def _step(name: str, unit: str, gone: pl.DataFrame, of: int, shown: str, source: str) -> dict[str, Any]:
    kind = pl.col("reason").fill_null("no reason").str.replace_all(NUMBERS.pattern, "…")
    groups = gone.with_columns(kind=kind).group_by("kind", maintain_order=True)
    found = sorted(((len(part), str(key[0]), part) for key, part in groups), key=lambda group: (-group[0], group[1]))
    reasons = [
        {"reason": reason, "count": count, "examples": _examples(part, shown, source)}
        for count, reason, part in found[:REASONS]
    ]
    return {"name": name, "unit": unit, "of": of, "gone": len(gone), "reasons": reasons, "more": len(found[REASONS:])}


def _examples(rows: pl.DataFrame, shown: str, source: str) -> list[dict[str, Any]]:
    return [
        {
            "id": row.get("sample_id"),
            "shown": WITHHELD if row[shown] is None else shortened(row[shown], EXAMPLE_LENGTH),
            "source": shortened(row[source], EXAMPLE_LENGTH),
            "reason": row["reason"],
        }
        for row in rows.head(EXAMPLES).iter_rows(named=True)
    ]


def pairs_of(samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return near-duplicates beside the kept sample that each repeats: those nearest to the bar first.

    What differs is marked: `dropped` and `nearest` have text and answer as lists of (words, whether they differ).
    """
    gone = samples.filter(pl.col("fate") == FATES["near_duplicate"], pl.col("prompt").is_not_null())
    ends = gone.sort("nearest_similarity", "sample_id").head(PAIRS)
    known = samples.filter(pl.col("prompt").is_not_null()).select(
        pl.col("sample_id").alias("nearest_id"), nearest_text="text", nearest_output="output", nearest_task="task"
    )
    return bounded((_pair(row) for row in ends.join(known, on="nearest_id").iter_rows(named=True)), PAIR_BYTES)


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    text = _marked(row["text"] or "", row["nearest_text"] or "")
    output = _marked(row["output"] or "", row["nearest_output"] or "")
    return {
        "similarity": row["nearest_similarity"],
        "dropped": {"id": row["sample_id"], "task": row["task"], "text": text[0], "output": output[0]},
        "nearest": {"id": row["nearest_id"], "task": row["nearest_task"], "text": text[1], "output": output[1]},
    }


Marked = list[tuple[str, bool]]


def _marked(one: str, other: str) -> tuple[Marked, Marked]:
    """Return both texts in pieces, each with whether the other one lacks it."""
    mine, others = (re.findall(r"\s*\S+", text[:PAIR_LENGTH]) for text in (one, other))
    found: tuple[Marked, Marked] = ([], [])
    for tag, a, b, c, d in difflib.SequenceMatcher(None, mine, others, autojunk=False).get_opcodes():
        for pieces, part in zip(found, (mine[a:b], others[c:d]), strict=True):
            if part:
                pieces.append(("".join(part), tag != "equal"))
    return found
