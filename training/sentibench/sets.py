"""The 12 sets of SentiBench: what each one asks, and its rows as they were released."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from stillhouse.errors import InputError

SOURCE = "the repository HITSZ-HLT/Sentiment-Distillation on GitHub (folder datasets)"
IRONY, EMOTION, INTIMACY = "multifaced/irony18", "multifaced/tweeteval", "multifaced/intimacy"
PSTANCE = "multifaced/pstance"
ATSA, ACSA, ASQP, OPENER = "absa/atsa_rest16", "absa/acsa_rest16", "absa/asqp_rest16", "absa/opener"
TARGET = "{target}"  # in the instruction of PSTANCE

POLARITIES = ("positive", "negative", "neutral")
ASPECT_CATEGORIES = (
    *("ambience general", "drinks prices", "drinks quality", "drinks style_options", "food prices", "food quality"),
    *("food style_options", "location general", "restaurant general", "restaurant miscellaneous"),
    *("restaurant prices", "service general"),
)
# Keys of the objects of an answer, in the order of the tuples that are compared.
ANSWER_KEYS = {
    ATSA: ("aspect_term", "sentiment"),
    ACSA: ("aspect_category", "sentiment"),
    ASQP: ("aspect_term", "aspect_category", "opinion", "sentiment"),
    OPENER: ("holder", "target", "sentiment_expression", "sentiment_polarity"),
}


@dataclass(frozen=True)
class BenchmarkSet:
    """One set: `labels` is empty where the answer is a JSON list, of up to `max_new_tokens` tokens."""

    name: str
    category: Literal["basic", "multifaceted", "fine-grained"]
    labels: tuple[str, ...]
    instruction: str
    max_new_tokens: int = 0

    @property
    def field(self) -> str:
        """What stands before the answer in a prompt."""
        return "Label" if self.labels else "Output"


def names_of(tasks: str | None) -> list[str]:
    """Return the sets that `tasks` names, by themselves or by category, separated by commas; None names all.

    Raises InputError where there is no such set or category.
    """
    asked = list(SETS) if tasks is None else [part.strip() for part in tasks.split(",")]
    known = {*SETS, *_categories()}
    unknown = [part for part in asked if part not in known]
    if unknown:
        raise InputError(
            f"--tasks: {', '.join(map(repr, unknown))} is no set of SentiBench; "
            f"the categories are {', '.join(_categories())}, the sets {', '.join(SETS)}"
        )
    return [name for name, one in SETS.items() if name in asked or one.category in asked]


def check_data(data: Path, names: Sequence[str]) -> None:
    """Raise InputError that lists every file of the sets that `data` lacks."""
    files = [data / name / f"{split}.json" for name in names for split in ("train", "test")]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{data} lacks {len(missing)} file(s) of SentiBench:\n"
            + "".join(f"  {file}\n" for file in missing)
            + f"SentiBench comes from {SOURCE}; download it into {data}, "
            "or leave sets out: --tasks takes those to be evaluated"
        )


def load_rows(data: Path, name: str, split: Literal["train", "test"]) -> list[dict[str, Any]]:
    """Return the rows of a set. Raises InputError where the file or a row is not what the set needs."""
    path = data / name / f"{split}.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}. SentiBench comes from {SOURCE}") from error
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise InputError(f"{path} is not JSON in UTF-8: {error}. Take the file anew from {SOURCE}") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} is not a JSON list of rows. Take the file anew from {SOURCE}")
    for number, row in enumerate(rows):
        fault = _row_fault(name, row)
        if fault:
            raise InputError(f"{path}, row {number} (from 0): {fault}. Correct it, or take the file anew from {SOURCE}")
    return rows


def load_instructions(path: Path | None) -> dict[str, str]:
    """Return the instructions of all sets by name; those in the user's JSON or YAML file replace ours.

    Raises InputError where the file is not a mapping of sets to instructions.
    """
    instructions = {name: one.instruction for name, one in SETS.items()}
    given = _read_mapping(path) if path else {}
    for name, instruction in given.items():
        if name not in SETS:
            raise InputError(f"{path}: {name!r} is no set of SentiBench; the sets are {', '.join(SETS)}")
        if not isinstance(instruction, str):
            raise InputError(f"{path}: the instruction of {name} is not a string; put it in quotes")
        if name == PSTANCE and TARGET not in instruction:
            raise InputError(f"{path}: the instruction of {name} lacks {TARGET}, where the row's target is put")
        instructions[name] = instruction
    return instructions


def _read_mapping(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        # YAML takes neither the tabs nor the surrogate pairs of JSON.
        mapping = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}. Give a JSON or YAML file of instructions") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not valid JSON or YAML: {error}. Correct it there") from error
    if not isinstance(mapping, dict):
        raise InputError(f"{path} must be a mapping of SentiBench's sets to instructions, such as `{IRONY}: ...`")
    return mapping


def _row_fault(name: str, row: Any) -> str | None:
    """Return what a row lacks of what its set needs."""
    if not isinstance(row, dict):
        return "it is not an object"
    needed = ("sentence", *(("label",) if SETS[name].labels else ()), *(("target",) if name == PSTANCE else ()))
    fault = _string_fault(row, needed)
    if fault:
        return fault
    if SETS[name].labels:
        known = row["label"].lower() in SETS[name].labels
        return None if known else f"its label {row['label']!r} is none of {', '.join(SETS[name].labels)}"
    items = row.get(_LISTS[name])
    if not isinstance(items, list):
        return f"its `{_LISTS[name]}` is not a list"
    faults = (_item_fault(name, item) for item in items)
    return next((f"in its `{_LISTS[name]}`, {fault}" for fault in faults if fault), None)


def _item_fault(name: str, item: Any) -> str | None:
    if not isinstance(item, dict):
        return "an item is not an object"
    if name == ATSA and item.get("target", "") is not None:  # None stands for no term, as NULL does
        fault = _string_fault(item, ("target",))
        if fault:
            return fault
    if name == ATSA and not all(_is_offset(item.get(key)) for key in ("from", "to")):
        return "`from` or `to` is not a number of characters"
    if name == OPENER and not all(_is_span(item.get(key)) for key in ("Source", "Target", "Polar_expression")):
        return "`Source`, `Target` or `Polar_expression` is not a list of texts and a list of their offsets b:e"
    return _string_fault(item, _STRINGS[name])


def _string_fault(item: dict[str, Any], keys: Sequence[str]) -> str | None:
    return next((f"`{key}` is not a string" for key in keys if not isinstance(item.get(key), str)), None)


def _is_offset(value: Any) -> bool:
    return value is None or (isinstance(value, str | int) and re.fullmatch(r"\d{1,9}", str(value)) is not None)


def _is_span(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(part, list) for part in value)):
        return False
    texts, offsets = value
    if not all(isinstance(text, str) for text in [*texts, *offsets]):
        return False
    return len(texts) == len(offsets) and all(re.fullmatch(r"\d{1,9}:\d{1,9}", offset) for offset in offsets)


def _categories() -> list[str]:
    return list(dict.fromkeys(one.category for one in SETS.values()))


def _label_set(
    name: str, category: Literal["basic", "multifaceted"], task: str, labels: tuple[str, ...]
) -> BenchmarkSet:
    return BenchmarkSet(name, category, labels, f"{task} Answer with one of these labels: {', '.join(labels)}.")


def _fine_grained(name: str, task: str, example: Sequence[str], max_new_tokens: int = 150) -> BenchmarkSet:
    shown = json.dumps([dict(zip(ANSWER_KEYS[name], example, strict=True))], indent=2)
    answer = f"Answer with a JSON list of objects, each with the keys {', '.join(ANSWER_KEYS[name])}, in this format:"
    return BenchmarkSet(name, "fine-grained", (), f"{task}\n{answer}\n{shown}", max_new_tokens)


_LISTS = {ATSA: "aspects", ACSA: "aspects", ASQP: "quards", OPENER: "opinions"}
_STRINGS = {
    ATSA: ("polarity",),
    ACSA: ("category", "polarity"),
    ASQP: ("aspect", "category", "opinion", "sentiment"),
    OPENER: ("Polarity",),
}
_SIGNS = ("negative", "positive")
_ALLOWED = f"The sentiment is one of: {', '.join(POLARITIES)}."
_CLOSED = f"The aspect category is one of: {', '.join(ASPECT_CATEGORIES)}."
_SETS = (
    _label_set("sc/imdb", "basic", "Classify the sentiment of the film review.", _SIGNS),
    _label_set("sc/yelp2", "basic", "Classify the sentiment of the customer's review.", _SIGNS),
    _label_set("sc/sst2", "basic", "Classify the sentiment of the passage from a film review.", _SIGNS),
    _label_set("sc/twitter", "basic", "Classify the sentiment of the tweet.", (*_SIGNS, "neutral")),
    _label_set(IRONY, "multifaceted", "Decide whether the tweet is ironic.", ("non-irony", "irony")),
    _label_set(EMOTION, "multifaceted", "Name the main emotion of the tweet.", ("anger", "joy", "sadness", "optimism")),
    _label_set(
        PSTANCE,
        "multifaceted",
        f"Determine the stance of the tweet's author towards {TARGET}: against or in favor.",
        ("against", "favor"),
    ),
    _label_set(
        INTIMACY,
        "multifaceted",
        "Rate how intimate the tweet is.",
        ("not intimate", "moderately intimate", "highly intimate"),
    ),
    _fine_grained(
        ATSA,
        "Extract every aspect term that the sentence gives an opinion on, in the exact words of the sentence, with the "
        f"sentiment towards it. {_ALLOWED} Opinions whose aspect is not named (NULL) are left out; without any aspect "
        "term the list is empty.",
        ("window seat", "positive"),
    ),
    _fine_grained(
        ACSA,
        "Find every aspect category that the restaurant review gives an opinion on, with the sentiment towards it. "
        f"{_CLOSED} {_ALLOWED} Without any opinion the list is empty.",
        ("location general", "positive"),
    ),
    _fine_grained(
        ASQP,
        "Extract every opinion of the restaurant review as a quadruple: the aspect term and the opinion in the exact "
        "words of the sentence, the aspect category and the sentiment. An aspect term that is not named is NULL. "
        f"{_CLOSED} {_ALLOWED}",
        ("window seat", "location general", "quiet", "positive"),
    ),
    _fine_grained(
        OPENER,
        "Extract every opinion of the sentence: its holder, its target and the sentiment's expression in the exact "
        "words of the sentence, and the sentiment's polarity. A holder or target that is not named is NULL; parts that "
        f"stand apart are joined by AND. The polarity is one of: {', '.join(POLARITIES)}. Without any opinion, the "
        "list has one object whose values are all NULL.",
        ("we", "window seat", "really liked", "positive"),
        300,
    ),
)
SETS: dict[str, BenchmarkSet] = {one.name: one for one in _SETS}
