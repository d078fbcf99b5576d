"""What the verdicts say: error rate with its interval, accepted or not, stratum by stratum, and what failed."""

from dataclasses import asdict
from typing import Any

import polars as pl

from curation.audit.intervals import Interval, simple_interval, stratified_interval
from curation.audit.plan import DROPPED, KEPT
from curation.audit.rounds import Rounds
from curation.audit.verdicts import CONFLICT, KEYS, SETTLED, agreement, settle, standing
from stillhouse.schemas import FRAME
from stillhouse.sections import Review

LATER = "came in after round {}"
BEFORE = "settled in an earlier generation"


def assess(population: pl.DataFrame, rounds: Rounds, settings: Review) -> dict[str, Any]:
    """Return the findings of an audit as plain data; `population` has no rows of dropped instructions.

    The error rate is that of the kept rows as the teacher answered them. Unclear and tied verdicts are counted apart
    and do not enter it. Decided is by the rate of what is `published`, where judged rows are right: wrong ones are
    corrected or left out.
    """
    reviews = rounds.reviews()
    answers = standing(reviews)
    settlement = settle(answers, settings.arbiter)
    kept = placed(population.filter(pl.col("population") == KEPT), rounds, settlement)
    strata = _strata(kept)
    left = stratified_interval(strata, settings.confidence, mended=True)
    drawn = rounds.drawn(rounds.all)
    answered = drawn.join(settlement, on=KEYS)
    waiting = rounds.waiting(for_all=False).join(kept, on=KEYS, how="semi").height
    return {
        "rounds": [asdict(made) for made in rounds.all],
        "records": len(drawn),
        "answered": len(answered),
        "waiting": waiting,
        "found_wrong": int((answered["verdict"] == "wrong").sum()),
        "failures": [asdict(failure) for failure in rounds.failures],
        **{name: int((answered["verdict"] == name).sum()) for name in ("unclear", CONFLICT)},
        "annotators": answers["annotator"].n_unique(),
        "not_counted": int(reviews["problem"].is_not_null().sum()),
        "bar": settings.bar,
        "confidence": settings.confidence,
        "arbiter": settings.arbiter,
        "error_rate": asdict(stratified_interval(strata, settings.confidence)),
        "published": {name: getattr(left, name) for name in ("rate", "low", "high")},
        **_decision(left, waiting, rounds, settings),
        "strata": [_told(row, settings) for row in strata.iter_rows(named=True)],
        "dropped": _dropped(population, settlement, settings),
        "agreement": _agreement(answers, drawn),
        "failing": failing(kept, strata, settings),
    }


def placed(kept: pl.DataFrame, rounds: Rounds, settlement: pl.DataFrame) -> pl.DataFrame:
    """Return kept rows with their stratum in this generation and their verdict (null where there is none)."""
    last = rounds.current[-1].number if rounds.current else 0
    frame = rounds.frame(last) if last else FRAME.to_frame()
    stratum = frame.filter(pl.col("population") == KEPT).select(*KEYS, "stratum")
    now = rounds.drawn(rounds.current).select(*KEYS, now=pl.lit(value=True))
    rows = kept
    for known in (settlement.select(*KEYS, "verdict"), stratum, now):
        rows = rows.join(known, on=KEYS, how="left", maintain_order="left")
    earlier = pl.col("verdict").is_in(SETTLED) & pl.col("now").is_null()
    place = pl.when(earlier).then(pl.lit(BEFORE)).otherwise(pl.coalesce("stratum", pl.lit(LATER.format(last))))
    rows = rows.with_columns(place.alias("stratum")).drop("now")
    # What was wrong in an earlier generation is corrected or out: it says nothing of the rows that are left.
    return rows.filter(~((pl.col("stratum") == BEFORE) & (pl.col("verdict") == "wrong")))


def _strata(kept: pl.DataFrame) -> pl.DataFrame:
    """Return rows and verdicts of each stratum."""
    return kept.group_by("stratum").agg(
        pl.len().alias("rows"),
        pl.col("verdict").is_in(SETTLED).sum().alias("settled"),
        (pl.col("verdict") == "wrong").sum().alias("wrong"),
    ).sort(pl.col("stratum") == BEFORE, "stratum")  # fmt: skip


def _told(row: dict[str, Any], settings: Review) -> dict[str, Any]:
    found = simple_interval(row["rows"], row["settled"], row["wrong"], settings.confidence)
    return {"stratum": row["stratum"], **asdict(found)}


def _decision(left: Interval, waiting: int, rounds: Rounds, settings: Review) -> dict[str, str]:
    """Return `decision` (accepted, rejected, undecided, not audited) and `why`, a sentence."""
    if not rounds.all:
        return {"decision": "not audited", "why": "no sample was drawn yet"}
    if not rounds.current:
        return {
            "decision": "undecided",
            "why": "instructions failed and were taken out; a new round has to confirm the rest",
        }
    bounds = f"between {left.low:.1%} and {left.high:.1%} of the rows are wrong ({settings.confidence:.0%} interval)"
    if waiting:
        # Those that answered first may be of other kinds than those that wait, and who peeks until it fits is fooled.
        wait = f"{waiting:,} records still wait for an answer; so far {bounds}, at a bar of {settings.bar:.1%}"
        return {"decision": "undecided", "why": wait}
    if left.high <= settings.bar:
        return {"decision": "accepted", "why": f"{bounds}, not above the bar of {settings.bar:.1%}"}
    if left.low > settings.bar:
        return {"decision": "rejected", "why": f"{bounds}, above the bar of {settings.bar:.1%}"}
    return {"decision": "undecided", "why": f"{bounds}, so it may be on either side of the bar of {settings.bar:.1%}"}


def failing(kept: pl.DataFrame, strata: pl.DataFrame, settings: Review) -> list[dict[str, Any]]:
    """Return the instructions with wrong answers in strata whose error rate is surely above the bar.

    Of many strata some look bad by chance: the confidence is shared out among those that were judged (Bonferroni), so
    that with the same probability not even one of them is said to fail wrongly.
    """
    judged = strata.filter(pl.col("settled") > 0, pl.col("stratum") != BEFORE)
    confidence = 1 - (1 - settings.confidence) / max(1, len(judged))
    bad = [
        row["stratum"]
        for row in judged.iter_rows(named=True)
        if simple_interval(row["rows"], row["settled"], row["wrong"], confidence).low > settings.bar
    ]
    found = (
        kept.filter(pl.col("stratum").is_in(bad), pl.col("verdict").is_in(SETTLED))
        .group_by("stratum", "instruction_id")
        .agg(pl.len().alias("settled"), (pl.col("verdict") == "wrong").sum().alias("wrong"))
        .filter(pl.col("wrong") > 0)
    )
    rows = kept.group_by("instruction_id").agg(
        pl.len().alias("rows"), (~pl.col("verdict").is_in(SETTLED)).fill_null(value=True).sum().alias("open")
    )
    # Where every row was judged, the wrong ones are mended already.
    return found.join(rows, on="instruction_id").filter(pl.col("open") > 0).sort("stratum", "instruction_id").to_dicts()


def _dropped(population: pl.DataFrame, settlement: pl.DataFrame, settings: Review) -> list[dict[str, Any]]:
    """Return per filter what people say of rows that it dropped: the share that they find correct."""
    judged = (
        population.filter(pl.col("population") == DROPPED)
        .join(settlement.select(*KEYS, "verdict"), on=KEYS, how="left")
        .group_by("stage")
        .agg(
            pl.len().alias("rows"),
            pl.col("verdict").is_in(SETTLED).sum().alias("settled"),
            (pl.col("verdict") == "correct").sum().alias("correct"),
        )
        .filter(pl.col("settled") > 0)
        .sort("stage")
    )
    return [
        {
            "filter": row["stage"],
            **_renamed(simple_interval(row["rows"], row["settled"], row["correct"], settings.confidence)),
        }
        for row in judged.iter_rows(named=True)
    ]


def _renamed(interval: Interval) -> dict[str, Any]:
    figures = asdict(interval)
    return {**figures, "correct": figures.pop("wrong")}


def _agreement(answers: pl.DataFrame, drawn: pl.DataFrame) -> list[dict[str, Any]]:
    found = agreement(answers.join(drawn.select(*KEYS, "stratum"), on=KEYS, maintain_order="left"))
    return found.filter(pl.col("records") > 0).to_dicts()
