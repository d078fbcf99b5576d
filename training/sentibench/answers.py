"""Answers of the fine-grained sets: JSON read out of what was generated, and the tuples that are compared."""

import json
from collections.abc import Sequence
from typing import Any

from training.sentibench.sets import ACSA, ANSWER_KEYS, ASQP, ATSA, POLARITIES

ABSENT = "NULL"  # stands for an aspect term, holder or target that is not named
Tuples = list[tuple[str, ...]]


def parse_answer(text: str) -> list[Any] | None:
    """Return the JSON list that `text` is, or else the one from its first "[" to its last "]"; None without one."""
    whole = _parse_list(text)
    return whole if whole is not None else _parse_list(text[text.find("[") : text.rfind("]") + 1])


def gold_tuples(name: str, row: dict[str, Any]) -> Tuples:
    """Return the gold tuples of a row of ATSA, ACSA or ASQP, with repeats, in the order they are shown in."""
    if name == ATSA:
        return _gold_terms(row["aspects"])
    if name == ACSA:
        return [(aspect["category"].lower().replace("#", " "), aspect["polarity"]) for aspect in row["aspects"]]
    return [(quad["aspect"], quad["category"], quad["opinion"], quad["sentiment"]) for quad in row["quards"]]


def predicted_tuples(name: str, row: dict[str, Any], answer: Sequence[Any]) -> list[tuple[str, ...] | None]:
    """Return the tuples of an answer to a row of ATSA, ACSA or ASQP; None is a wrong prediction."""
    read = [_values(name, item) for item in answer]
    if name == ASQP:
        return [values for values, item in zip(read, answer, strict=True) if values and len(item) == len(values)]
    return [values if values and _is_possible(name, values, row["sentence"]) else None for values in read]


def string_values(item: Any, keys: Sequence[str]) -> tuple[str, ...] | None:
    """Return the values of `keys` without white space around; None where one is missing or no string."""
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in keys):
        return None
    return tuple(item[key].strip() for key in keys)


def _values(name: str, item: Any) -> tuple[str, ...] | None:
    return string_values(item, ANSWER_KEYS[name])


def _is_possible(name: str, values: tuple[str, ...], sentence: str) -> bool:
    named, polarity = values
    allowed = (*POLARITIES, "conflict") if name == ATSA else POLARITIES
    return polarity in allowed and (name != ATSA or named in sentence)


def _gold_terms(aspects: Sequence[dict[str, Any]]) -> Tuples:
    # One term has an entry per category.
    entries = dict.fromkeys(
        (_offset(aspect, "from"), _offset(aspect, "to"), aspect["target"], aspect["polarity"])
        for aspect in aspects
        if aspect["target"] not in (ABSENT, None)
    )
    return [(term, polarity) for _, _, term, polarity in sorted(entries, key=lambda entry: entry[:2])]


def _offset(aspect: dict[str, Any], key: str) -> int:
    return int(aspect.get(key) or 0)


def _parse_list(text: str) -> list[Any] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):  # the former also of numbers with too many digits
        return None
    return parsed if isinstance(parsed, list) else None
