"""From annotators' answers to one verdict per record, and how far annotators agree."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from curation.audit.questions import VERDICTS

KEYS = ["sample_id", "version"]  # of a record: another answer to the same sample is another record
CONFLICT = "conflict"
SETTLED = ("correct", "wrong")


def standing(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the answers that count: of each annotator to each version of a record the latest one, where submitted.

    `reviews` keeps all that was ever pulled.
    """
    return latest(reviews).filter(pl.col("status") == "submitted", pl.col("verdict").is_in(list(VERDICTS)))


def latest(reviews: pl.DataFrame) -> pl.DataFrame:
    """Return the last answer of each annotator to each version of a record; Ann and ann are one person."""
    who = pl.col("annotator").str.to_lowercase().alias("who")
    return (
        reviews.sort("given_at", maintain_order=True)
        .with_columns(who)
        .unique([*KEYS, "who"], keep="last", maintain_order=True)
        .drop("who")
    )


def settle(answers: pl.DataFrame, arbiter: str | None = None) -> pl.DataFrame:
    """Return one row per record and version: its verdict and what goes with it.

    The arbiter's verdict decides where there is one, else the majority; of a tie the verdict is `conflict`.
    `correction` and `faults` are of those who found it wrong: the arbiter's, else the commonest, else the earliest.
    """
    rows = [
        _settled(list(group.iter_rows(named=True)), arbiter)
        for group in answers.sort("given_at", "annotator").partition_by(KEYS, maintain_order=True)
    ]
    return pl.DataFrame(rows, schema=SETTLEMENT, orient="row")


SETTLEMENT = pl.Schema(
    {
        "sample_id": pl.String(),
        "version": pl.String(),
        "verdict": pl.String(),
        "faults": pl.List(pl.String()),
        "rating": pl.Float64(),
        "correction": pl.String(),
        "annotators": pl.List(pl.String()),
        "settled_at": pl.Datetime("us", "UTC"),
    }
)


def _settled(answers: list[dict[str, Any]], arbiter: str | None) -> dict[str, Any]:
    deciding = [answer for answer in answers if answer["annotator"] == arbiter] or answers
    verdict = _commonest([answer["verdict"] for answer in deciding])
    against = [answer for answer in deciding if answer["verdict"] == verdict == "wrong"]
    corrections = [answer["correction"] for answer in against if answer["correction"] is not None]
    ratings = [answer["rating"] for answer in answers if answer["rating"] is not None]
    return {
        "sample_id": answers[0]["sample_id"],
        "version": answers[0]["version"],
        "verdict": verdict or CONFLICT,
        "faults": sorted({fault for answer in against for fault in answer["faults"] or []}),
        "rating": float(np.median(ratings)) if ratings else None,
        "correction": _commonest(corrections) or next(iter(corrections), None),
        "annotators": sorted({answer["annotator"] for answer in answers}),
        "settled_at": max(answer["given_at"] for answer in deciding),
    }


def _commonest(values: Sequence[str]) -> str | None:
    """Return the value that is there most often; None where several are."""
    counts = {value: values.count(value) for value in values}
    most = [value for value, count in counts.items() if count == max(counts.values())]
    return most[0] if len(most) == 1 else None


Level = Literal["nominal", "ordinal"]
QUESTIONS: dict[str, tuple[Level | None, pl.Expr]] = {
    "verdict": ("nominal", pl.col("verdict")),
    "what is wrong": ("nominal", pl.when(verdict="wrong").then(pl.col("faults").list.sort().list.join(", "))),
    "quality": ("ordinal", pl.col("rating")),
    "correction": (None, pl.col("correction")),  # free text: chance has no share in it
}


def agreement(answers: pl.DataFrame) -> pl.DataFrame:
    """Return per question and stratum how far annotators agree on records that several answered.

    `answers` are those that stand, with a column stratum; columns of the result: question, stratum (None: all
    together), records, percentage (share of pairs of answers that are the same, in [0, 1]) and alpha (Krippendorff's;
    ordinal for quality, else nominal; None where all answers are the same, since then chance would agree as well,
    and for corrections, which are free text).
    """
    rows = []
    for question, (level, value) in QUESTIONS.items():
        given = answers.select(*KEYS, "annotator", "stratum", value=value).drop_nulls("value")
        several = given.filter(pl.len().over(KEYS) > 1)
        for stratum, part in [
            (None, several),
            *((key[0], part) for key, part in several.group_by("stratum", maintain_order=True)),
        ]:
            rows.append({"question": question, "stratum": stratum, **_agreement(part, level)})
    schema = {"question": pl.String, "stratum": pl.String, "records": pl.Int64, "percentage": pl.Float64}
    return pl.DataFrame(rows, schema={**schema, "alpha": pl.Float64}, orient="row")


def _agreement(answers: pl.DataFrame, level: Level | None) -> dict[str, Any]:
    if answers.is_empty():
        return {"records": 0, "percentage": None, "alpha": None}
    codes = answers.with_columns(pl.col("value").rank("dense").cast(pl.Float64))
    matrix = codes.pivot("annotator", index=KEYS, values="value").drop(KEYS)
    values = matrix.to_numpy().astype(float)
    alpha = _alpha(values, level) if level and codes["value"].n_unique() > 1 else None
    return {"records": len(values), "percentage": _same_pairs(answers), "alpha": alpha}


def _alpha(values: npt.NDArray[np.float64], level: Level) -> float:
    import krippendorff

    return float(krippendorff.alpha(reliability_data=values.T, level_of_measurement=level))


def _same_pairs(answers: pl.DataFrame) -> float:
    """Return the share of equal ones among all pairs of answers to the same record."""
    answered = answers.group_by(KEYS).len("n")
    same = answers.group_by(*KEYS, "value").len("n")
    pairs = [int((frame["n"] * (frame["n"] - 1)).sum()) for frame in (same, answered)]
    return pairs[0] / pairs[1]
