"""Error rates with their intervals: of a simple sample, and of a stratified one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl


@dataclass(frozen=True)
class Interval:
    """A rate and the bounds of its two-sided interval; `wrong` of `settled` verdicts found it, for `rows` rows."""

    rate: float | None
    low: float
    high: float
    rows: int
    settled: int
    wrong: int


def simple_interval(rows: int, settled: int, wrong: int, confidence: float) -> Interval:
    """Return the rate of one stratum with its Clopper-Pearson interval; of one that is settled whole it is exact."""
    if settled == 0:
        return Interval(None, 0.0, 1.0, rows, 0, 0)
    rate = wrong / settled
    low, high = (rate, rate) if settled == rows else clopper_pearson(rate, settled, confidence)
    return Interval(rate, low, high, rows, settled, wrong)


def stratified_interval(strata: pl.DataFrame, confidence: float, mended: bool = False) -> Interval:
    """Return the rate of all rows from verdicts on a stratified sample. Columns: rows, settled, wrong.

    Strata count by their rows; `mended` says that settled rows are right by now, so that the errors are those among the
    others. The bounds are those of Korn and Graubard (Survey Methodology 24, 1998): Clopper-Pearson at the effective
    sample size, by the spread of verdicts within strata. That spread is only estimated, in small strata often as 0,
    so the size is held between what holds for any spread (the least records per weight of a stratum) and what holds
    for the same spread in all strata (Kish's). Strata that are settled whole add no uncertainty; of strata without any
    verdict nothing is known, so they count as without error in the lower bound and as all wrong in the upper one.
    """
    rows, settled, wrong = (strata[name].to_numpy().astype(float) for name in ("rows", "settled", "wrong"))
    figures = (int(rows.sum()), int(settled.sum()), int(wrong.sum()))
    known, certain = settled > 0, settled == rows
    sampled = known & ~certain
    if not known.any():
        return Interval(None, 0.0, 1.0, *figures)
    records = settled
    weights = rows / max(rows.sum(), 1.0)
    if mended:
        # Wrong rows may be left out, and what is not judged is predicted, which varies more than a mean does.
        weights = (rows - settled) / max(rows.sum() - wrong.sum(), 1.0)
        records = settled * (1 - settled / np.maximum(rows, 1.0))
    rates = np.divide(wrong, settled, out=np.zeros_like(wrong), where=known)
    low = high = float(weights[certain] @ rates[certain])
    if sampled.any():
        share = float(weights[sampled].sum())
        mean, size = _effective(weights[sampled] / share, records[sampled], settled[sampled], rates[sampled])
        bounds = clopper_pearson(mean, size, confidence)
        low, high = low + share * bounds[0], high + share * bounds[1]
    found, told = float(weights[known] @ rates[known]), float(weights[known].sum())
    rate = found / told * float(weights.sum()) if told else 0.0
    high += float(weights[~known].sum())
    return Interval(min(1.0, rate), min(1.0, low), min(1.0, high), *figures)  # sums of weights round above 1


def _effective(
    weights: npt.NDArray[np.float64],
    records: npt.NDArray[np.float64],
    settled: npt.NDArray[np.float64],
    rates: npt.NDArray[np.float64],
) -> tuple[float, float]:
    """Return the weighted mean of rates, and the size of a simple random sample that tells as much of it."""
    mean = round(float(weights @ rates), 12)  # of rates that are all 1 exactly 1: no beta has a parameter of 1e-16
    least, most = float((records / weights).min()), effective_size(weights, records, np.ones(len(records)))
    spread = rates * (1 - rates) * settled / np.maximum(settled - 1, 1)
    variance = float(weights**2 @ (spread / records))
    return mean, float(np.clip(mean * (1 - mean) / variance + 1, least, most)) if variance > 0 else most


def effective_size(
    weights: npt.NDArray[np.float64], records: npt.NDArray[Any], spread: npt.NDArray[np.float64]
) -> float:
    """Return the size of a simple random sample that tells as much as `records` of each stratum.

    `spread` is the standard deviation within the strata; where it is the same in all, this is Kish's effective size.
    """
    return float((weights @ spread**2) / ((weights * spread) ** 2 / records).sum())


def clopper_pearson(rate: float, size: float, confidence: float) -> tuple[float, float]:
    """Return the bounds of a rate found in a sample of `size`, which need not be a whole number."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(rate * size, size, alpha=1 - confidence, method="beta")
    return float(low), float(high)
