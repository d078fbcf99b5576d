"""Scores of SentiBench: counts per row, metrics of their sums, and bootstrap intervals over rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.errors import InputError
from training.sentibench.answers import gold_tuples, parse_answer, predicted_tuples
from training.sentibench.sentiment_graph import gold_opinions, predicted_opinions, total_weight
from training.sentibench.sets import OPENER, SETS

Counts = npt.NDArray[np.float64]
Row = dict[str, Any]
BATCH = 200  # resamples at a time: 14 MB of weights for 2,157 rows


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def row_counts(name: str, rows: Sequence[Row], predictions: Sequence[str]) -> Counts:
    """Return what the metrics of a set are made of, per row.

    Shape (rows, 3 * labels), per label true positives, predicted and gold; of a fine-grained set (rows, 4): weight of
    the predicted tuples that are right, number of predicted, weight of the gold tuples that were found, number of gold.
    """
    pairs = zip(rows, predictions, strict=True)
    if SETS[name].labels:
        return np.array([_label_counts(SETS[name].labels, row["label"], text) for row, text in pairs])
    return np.array([_tuple_counts(name, row, parse_answer(text) or []) for row, text in pairs])


def metrics_of(name: str, sums: Counts) -> Counts:
    """Return precision, recall and F1, shape (..., 3), of sums of `row_counts` over rows, shape (..., columns)."""
    if not SETS[name].labels:
        precision, recall = _ratio(sums[..., 0], sums[..., 1]), _ratio(sums[..., 2], sums[..., 3])
        return np.stack([precision, recall, _ratio(2 * precision * recall, precision + recall)], axis=-1)
    right, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    of_labels = np.stack([_ratio(right, predicted), _ratio(right, gold), _ratio(2 * right, predicted + gold)], axis=-1)
    # As in scikit-learn, a label that occurs nowhere does not count; its ratios are 0.
    occurring = (predicted + gold > 0).sum(axis=-1)
    return _ratio(of_labels.sum(axis=-2), occurring[..., None])


def unparseable(name: str, predictions: Sequence[str]) -> int:
    """Return how many predictions are no answer: none of the labels, or without a JSON list."""
    labels = SETS[name].labels
    if labels:
        return sum(_as_label(text) not in labels for text in predictions)
    return sum(parse_answer(text) is None for text in predictions)


def bootstrap(name: str, counts: Sequence[Counts], draws: int = 1000, seed: int = 0) -> tuple[Interval, Counts]:
    """Return the mean F1 over seeds with its percentile interval, and the mean F1 of each draw.

    Args:
        name: The set.
        counts: `row_counts` of the same test rows, per seed of the demonstrations.
        draws: How often the rows are resampled, for all seeds alike.
        seed: Of the resampling.
    """
    from scipy.stats import bootstrap as resample

    columns = np.concatenate(counts, axis=1)
    rows = len(columns)

    def mean_f1(drawn: npt.NDArray[np.int64], axis: int) -> Counts:
        return _mean_f1(name, _weights(drawn, rows) @ columns, len(counts))

    value = float(_mean_f1(name, columns.sum(axis=0), len(counts)))
    if rows == 1:  # scipy wants two
        return Interval(value, value, value), np.full(draws, value)
    result = resample(
        (np.arange(rows),),
        mean_f1,
        n_resamples=draws,
        batch=BATCH,
        vectorized=True,
        axis=-1,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(value, float(low), float(high)), result.bootstrap_distribution


def read_predictions(path: Path, rows: int) -> list[str]:
    """Return the predictions of a JSONL file: {"prediction": "..."} per test row, in their order.

    Raises InputError where the file does not have `rows` such lines.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give predictions as JSONL in UTF-8") from error
    predictions = [_prediction(line, f"{path}, line {number}", rows) for number, line in enumerate(lines, 1)]
    if len(predictions) != rows:
        raise InputError(f"{path} has {len(predictions)} lines; {rows} are expected, one per test row, in their order")
    return predictions


def _prediction(line: str, place: str, rows: int) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    prediction = record.get("prediction") if isinstance(record, dict) else None
    if not isinstance(prediction, str):
        raise InputError(
            f'{place}: not an object {{"prediction": "..."}} with a string; {rows} such lines are expected'
        )
    return prediction


def _label_counts(labels: Sequence[str], gold: str, prediction: str) -> list[float]:
    right, given = gold.lower(), _as_label(prediction)
    return [float(count) for label in labels for count in (label == right == given, label == given, label == right)]


def _as_label(prediction: str) -> str:
    return prediction.strip().lower()


def _tuple_counts(name: str, row: Row, answer: Sequence[Any]) -> list[float]:
    if name == OPENER:
        opinions, annotated = predicted_opinions(row, answer), gold_opinions(row)
        weights = total_weight(opinions, annotated), total_weight(annotated, opinions)
        return [weights[0], len(opinions), weights[1], len(annotated)]
    predicted, gold = predicted_tuples(name, row, answer), gold_tuples(name, row)
    found = sum(one in predicted for one in gold)
    return [sum(one in gold for one in predicted), len(predicted), found, len(gold)]


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Counts:
    """Divide; 0 where there is nothing to divide by."""
    zeros = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    ratio: Counts = np.divide(part, whole, out=zeros, where=whole > 0)
    return ratio


def _weights(drawn: npt.NDArray[np.int64], rows: int) -> Counts:
    """Return how often each row was drawn, shape (resamples, rows): a resample's sums are a matrix product then."""
    flat = drawn.reshape(-1, rows)
    places = flat + rows * np.arange(len(flat))[:, None]
    return np.bincount(places.ravel(), minlength=flat.size).reshape(flat.shape).astype(np.float64)


def _mean_f1(name: str, sums: Counts, seeds: int) -> Counts:
    by_seed = sums.reshape(*sums.shape[:-1], seeds, -1)
    mean: Counts = metrics_of(name, by_seed)[..., 2].mean(axis=-1)
    return mean
