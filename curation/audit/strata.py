"""Strata of an audit: perspective group x task type x band of difficulty, as fine as the number of records allows."""

import numpy as np
import polars as pl

from stillhouse.sections import Review

BANDS_OF_THREE = ("easy", "medium", "hard")
WHOLE = "all rows"


def stratify(kept: pl.DataFrame, perspectives: pl.DataFrame, settings: Review, records: int, seed: int) -> pl.Series:
    """Return the stratum of each kept row (columns perspective, task_type, difficulty).

    Of the ways to cut, from group x type x band to all rows in one, the finest is taken whose strata can have
    `settings.minimum` of `records` each.
    """
    groups = perspective_groups(perspectives, settings.perspective_groups, seed)
    parts = kept.select(
        pl.col("perspective").replace_strict(groups, default=WHOLE).alias("group"),
        "task_type",
        _bands(kept["difficulty"], settings.difficulty_bands).alias("band"),
    )
    finest = ["group", "task_type"] + ["band"] * (settings.difficulty_bands > 1)
    for level in dict.fromkeys((tuple(finest), ("group", "task_type"), ("task_type",))):
        strata = parts.select(pl.concat_str(level, separator=" | ")).to_series()
        if strata.n_unique() * settings.minimum <= records:
            return strata.alias("stratum")
    return pl.Series("stratum", [WHOLE] * len(kept), pl.String)


def perspective_groups(perspectives: pl.DataFrame, count: int, seed: int) -> dict[str, str]:
    """Return the group of each perspective id: neighbours on the map of perspectives, named after their largest.

    k-means on the 2-D positions, weighted by mentions. Perspectives without a position are one group each, as far as
    there are no more of them than `count`.
    """
    ids, heads = perspectives["perspective_id"].to_list(), perspectives["head"].to_list()
    if len(ids) <= count:
        return dict(zip(ids, heads, strict=True))
    places = perspectives.select("x", "y").to_numpy()
    if np.isnan(places.astype(float)).any():
        return dict.fromkeys(ids, WHOLE)
    from sklearn.cluster import KMeans

    found = min(count, len(np.unique(places, axis=0)))
    weights = np.maximum(perspectives["mentions"].to_numpy(), 1)
    labels = KMeans(found, n_init=10, random_state=seed).fit_predict(places, sample_weight=weights)
    table = perspectives.select("perspective_id", "head", "mentions", group=pl.Series(labels))
    largest = pl.col("head").sort_by(["mentions", "head"], descending=[True, False]).first().over("group")
    others = pl.len().over("group") - 1
    name = pl.when(others > 0).then(pl.format("{} and {} more", largest, others)).otherwise(largest)
    return dict(table.select("perspective_id", name).iter_rows())


def _bands(difficulty: pl.Series, count: int) -> pl.Series:
    """Return the band of each row, of about as many rows each; rows of one difficulty are in one band."""
    cuts = [difficulty.quantile(number / count, "linear") for number in range(1, count)]
    names = (
        BANDS_OF_THREE
        if count == len(BANDS_OF_THREE)
        else [f"band {place} of {count}" for place in range(1, count + 1)]
    )
    places = np.searchsorted(np.array(cuts, dtype=float), difficulty.fill_null(0.0).to_numpy(), side="left")
    return pl.Series(np.array(names, dtype=object)[places], dtype=pl.String)
