"""A tiny SentiBench in the layout of its release: all 12 sets, of invented sentences."""

import json
from pathlib import Path
from typing import Any

from training.sentibench.sets import ASQP, ATSA, OPENER, PSTANCE, SETS

PLACES = ("harbour cafe", "night train", "town library", "garden museum", "river hostel")
THINGS = ("soup", "service", "staircase", "coffee", "lamp")
GOOD = ("lovely", "warm", "bright")
BAD = ("dull", "cold", "noisy")
TARGETS = ("Donald Trump", "Joe Biden", "Bernie Sanders")


def write_sentibench(folder: Path, train: int = 8, test: int = 6) -> Path:
    """Write train.json and test.json of all 12 sets below `folder`, every label among them, and return `folder`."""
    for number, name in enumerate(SETS):
        (folder / name).mkdir(parents=True)
        rows = [_row(name, index) for index in range(train + test)]
        for split, part in (("train", rows[:train]), ("test", rows[train:])):
            # The release has files with a byte-order mark and files without.
            encoding = "utf-8-sig" if (number + (split == "test")) % 2 else "utf-8"
            text = json.dumps(part, ensure_ascii=False, indent=4)
            (folder / name / f"{split}.json").write_text(text, encoding=encoding)
    return folder


def _row(name: str, number: int) -> dict[str, Any]:
    place, thing = PLACES[number % len(PLACES)], THINGS[number // 2 % len(THINGS)]
    good, bad = GOOD[number % len(GOOD)], BAD[number // 3 % len(BAD)]
    labels = SETS[name].labels
    if labels:
        word = bad if number % len(labels) == 0 else good
        label = labels[number % len(labels)]
        row = {"sentence": f"Visit {number} to the {place}: the {thing} was {word}, “naïve” even.", "label": label}
        return {**row, "label": label.upper(), "target": TARGETS[number % 3]} if name == PSTANCE else row
    sentence = f"We found the {thing} {good} at the {place} but the door was {bad} ."
    if name == OPENER:
        return _opener_row(number, sentence, thing, (good, bad))
    if name == ASQP:
        return _asqp_row(number, sentence, thing, (good, bad))
    return _aspects_row(name, number, sentence, (thing, place))


def _aspects_row(name: str, number: int, sentence: str, terms: tuple[str, str]) -> dict[str, Any]:
    aspects = [
        _aspect(sentence, terms[1], "LOCATION#GENERAL", "neutral"),
        _aspect(sentence, terms[0], "FOOD#QUALITY", "positive"),
        _aspect(sentence, terms[0], "FOOD#STYLE_OPTIONS" if name == ATSA else "FOOD#QUALITY", "positive"),
        {"from": "0", "to": "0", "target": "NULL", "category": "AMBIENCE#GENERAL", "polarity": "negative"},
    ]
    return {"ID": f"visit:{number}", "sentence": sentence, "aspects": aspects if number % 4 else []}


def _aspect(sentence: str, term: str, category: str, polarity: str) -> dict[str, str]:
    begin, end = _offsets(sentence, term).split(":")
    return {"from": begin, "to": end, "target": term, "category": category, "polarity": polarity}


def _asqp_row(number: int, sentence: str, thing: str, words: tuple[str, str]) -> dict[str, Any]:
    quads = [
        {"aspect": thing, "category": "food quality", "sentiment": "positive", "opinion": words[0]},
        {"aspect": "NULL", "category": "ambience general", "sentiment": "negative", "opinion": words[1]},
    ]
    return {"sentence": sentence, "quards": quads[: 1 + number % 2]}


def _opener_row(number: int, sentence: str, thing: str, words: tuple[str, str]) -> dict[str, Any]:
    opinions = [
        _opinion(sentence, ["We"], [f"the {thing}"], ["found", words[0]], "Positive"),
        _opinion(sentence, [], ["the door"] if number % 2 else [], [words[1]], "Negative"),
    ]
    return {"sent_id": f"visit-{number}", "opinions": opinions[: number % 3], "sentence": sentence}


def _opinion(sentence: str, source: list[str], target: list[str], expression: list[str], polarity: str) -> Any:
    parts = {"Source": source, "Target": target, "Polar_expression": expression}
    spans = {key: [texts, [_offsets(sentence, text) for text in texts]] for key, texts in parts.items()}
    return {**spans, "Polarity": polarity, "Intensity": "Standard"}


def _offsets(sentence: str, part: str) -> str:
    begin = sentence.index(part)
    return f"{begin}:{begin + len(part)}"
