"""The sampling plan: how many records tell enough, how they are spread over the strata, and which ones are drawn."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from curation.audit.intervals import clopper_pearson, effective_size
from stillhouse.draws import uniform, uniforms
from stillhouse.schemas import FRAME, conform
from stillhouse.sections import Review

KEPT, DROPPED = "kept", "dropped"
SECONDS_A_RECORD = 15


def records_needed(settings: Review, expected: float, population: int) -> int:
    """Return the fewest records with which the audit keeps both its promises, or all rows where they are fewer.

    Data of error rate `settings.bar` is accepted with a probability of at most (1 - confidence) / 2, and data of rate
    `expected` with at least `settings.power` (a double sampling risk plan for attributes, by binomial tails).
    """
    from scipy import stats

    records, errors = 1, 0
    while records < population:
        while stats.binom.cdf(errors, records, settings.bar) > (1 - settings.confidence) / 2:
            records += 1
        if stats.binom.cdf(errors, records, expected) >= settings.power:
            return min(records, population)
        errors += 1
    return population


def most_wrong(records: int, settings: Review) -> int:
    """Return with how many wrong answers in a simple sample the data is still accepted; -1: not even with none."""
    wrong = -1
    while wrong < records and clopper_pearson((wrong + 1) / records, records, settings.confidence)[1] <= settings.bar:
        wrong += 1
    return wrong


def chance_of_passing(records: int, settings: Review, rate: float) -> float:
    """Return the probability that data of an error rate is accepted with a simple sample of so many records."""
    from scipy import stats

    return float(stats.binom.cdf(most_wrong(records, settings), records, rate))


def allocate(
    sizes: npt.ArrayLike, total: int, minimum: int, spread: npt.ArrayLike | None = None
) -> npt.NDArray[np.int64]:
    """Return the records of each stratum: in proportion to its rows, or to rows x spread where given (Neyman).

    They add up to `total`, as far as no stratum has fewer than `minimum` nor more than its rows.
    """
    from scipy.optimize import brentq

    rows = np.asarray(sizes, dtype=np.int64)
    pull = rows * (1.0 if spread is None else np.asarray(spread))
    least = np.minimum(rows, minimum)
    total = int(np.clip(total, least.sum(), rows.sum()))

    def shares(scale: float) -> npt.NDArray[np.float64]:
        return np.clip(scale * pull, least, rows)

    widest = 2 * float((rows / pull).max())  # there every stratum has all its rows
    wanted = shares(brentq(lambda scale: shares(scale).sum() - total, 0.0, widest))
    found = np.floor(wanted + 1e-6).astype(np.int64)
    nearest = np.argsort(-np.where(found < rows, wanted - found, -1.0), kind="stable")
    found[nearest[: total - int(found.sum())]] += 1
    return found


@dataclass(frozen=True)
class Plan:
    """A round before it is sent: its sampling frame (schema FRAME) and what it can tell."""

    frame: pl.DataFrame
    effective: float  # size of a simple sample that tells as much, together with what was judged before

    def strata(self) -> pl.DataFrame:
        """Return rows and records of each stratum of the kept rows, then of the dropped ones."""
        return self.frame.group_by("population", "stratum", maintain_order=True).agg(
            pl.len().alias("rows"), pl.col("drawn").sum().alias("records")
        ).sort(pl.col("population") != KEPT, "population", "stratum")  # fmt: skip

    @property
    def records(self) -> int:
        """Records of the round."""
        return int(self.frame["drawn"].sum())


def draw_kept(rows: pl.DataFrame, settings: Review, expected: float, seed: int) -> Plan:
    """Plan a round of the kept rows. Columns: sample_id, version, population, stratum, verdict, settled.

    `settled` rows have a verdict, which Neyman's allocation takes the spread of, and are not drawn again. Within a
    stratum the rows with the lowest draws are taken: a draw depends on seed and sample id only, so that rounds of the
    same strata go on where the last one ended, and together are one sample.
    """
    strata = rows.group_by("stratum").agg(
        pl.len().alias("rows"), pl.col("settled").sum(), (pl.col("verdict") == "wrong").sum().alias("wrong")
    ).sort("stratum")  # fmt: skip
    sizes, done = strata["rows"].to_numpy(), strata["settled"].to_numpy().astype(int)
    weights = sizes / sizes.sum()
    spread = _spread(strata) if settings.allocation == "neyman" else np.ones(len(sizes))
    if settings.records:
        counts = allocate(sizes, settings.records + int(done.sum()), settings.minimum, spread)
    else:
        counts = _enough(sizes, records_needed(settings, expected, len(rows)), settings, spread)
    counts = np.maximum(counts, done)
    fresh = dict(zip(strata["stratum"], (counts - done).tolist(), strict=True))
    return Plan(_frame(rows, fresh, settings, seed), effective_size(weights, counts, spread))


def _enough(
    sizes: npt.NDArray[np.int64], needed: int, settings: Review, spread: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return records per stratum that tell as much as a simple sample of `needed`.

    In proportion, every stratum has its share rounded up: then whatever the errors of the strata, the estimate varies
    no more than that of the simple sample. Neyman's records are as many as do so if the spread is as it was found.
    """
    if settings.allocation == "proportional":
        counts: npt.NDArray[np.int64] = np.ceil(sizes * (needed / sizes.sum()) - 1e-9).astype(np.int64)
        return np.clip(counts, np.minimum(sizes, settings.minimum), sizes)
    for total in range(needed // 2, int(sizes.sum())):
        counts = allocate(sizes, total, settings.minimum, spread)
        if effective_size(sizes / sizes.sum(), counts, spread) >= needed:
            return counts
    return sizes


def _spread(strata: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Return the standard deviation of verdicts in each stratum; one more of either kind keeps it above 0."""
    rate = ((strata["wrong"] + 1) / (strata["settled"] + 2)).to_numpy()
    spread: npt.NDArray[np.float64] = np.sqrt(rate * (1 - rate))
    return spread


def joined(plan: Plan, dropped: pl.DataFrame) -> Plan:
    """Return a plan that has a frame of dropped rows as well."""
    return Plan(pl.concat([plan.frame, dropped]), plan.effective)


def draw_dropped(rows: pl.DataFrame, settings: Review, seed: int) -> pl.DataFrame:
    """Return the frame of rows that filters dropped (columns as in `draw_kept`; the stratum is the filter).

    Every filter has an even part of `settings.rejected`.
    """
    open_ = rows.group_by("stratum").agg((~pl.col("settled")).sum().alias("rows")).filter(pl.col("rows") > 0)
    if open_.is_empty() or not settings.rejected:
        return _frame(rows, {}, settings, seed)
    open_ = open_.sort("stratum")
    counts = allocate(open_["rows"].to_numpy(), settings.rejected, 1, 1 / open_["rows"].to_numpy())
    return _frame(rows, dict(zip(open_["stratum"], counts.tolist(), strict=True)), settings, seed)


def _frame(rows: pl.DataFrame, counts: dict[str, int], settings: Review, seed: int) -> pl.DataFrame:
    draws = pl.Series("draw", uniforms(f"{seed}/audit/{sample_id}" for sample_id in rows["sample_id"]))
    wanted = pl.col("stratum").replace_strict(counts, default=0, return_dtype=pl.Int64)
    open_ = ~pl.col("settled")
    place = pl.struct("draw", "sample_id").rank("ordinal").over("stratum", "settled")
    frame = rows.with_columns(draws).with_columns((open_ & (place <= wanted)).alias("drawn"))
    # Which of them several annotators answer is a lot of its own, not again that of who is drawn.
    drawn = frame.filter("drawn")["sample_id"]
    shared = [key for key in drawn if settings.annotators > 1 and uniform(f"{seed}/overlap/{key}") < settings.overlap]
    answers = (
        pl.when(pl.col("sample_id").is_in(shared)).then(settings.annotators).otherwise(pl.col("drawn").cast(pl.Int64))
    )
    return conform(frame.with_columns(answers.alias("answers")).select(FRAME.names()), FRAME, "frame")
