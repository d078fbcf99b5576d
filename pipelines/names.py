"""Attribute names: one form for what is written in many ways."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any


def normalise_name(name: str) -> list[str]:
    """Return the attribute names that one written name stands for.

    CompEffDist's rules (release, step 1): lower case; "a: b" is a; "a/b" is a and b; "use of x" is x. Beyond them:
    NFKC, so that full-width letters and ligatures are plain ones; curly apostrophes and dashes are straight;
    invisible characters are gone; "a (b)" is a; underscores and runs of space are one space; no punctuation at the
    ends. Each name comes once. A normalised name stays as it is when it is normalised again.
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).lower())
    plain = plain.translate(_STRAIGHT)
    plain = "".join(" " if character.isspace() else character for character in plain)
    plain = "".join(character for character in plain if unicodedata.category(character)[0] != "C")
    head = plain.split(":", 1)[0].replace("_", " ")
    while (shorter := re.sub(r"\([^()]*\)", " ", head)) != head:
        head = shorter
    return list(dict.fromkeys(part for part in map(_trim, head.split("/")) if part))


def fold_names(counts: Mapping[str, int]) -> dict[str, str]:
    """Return for each name the one it is counted as: itself, or another of these names that says the same.

    Two forms count as the same where both occur: a plural in -s and its singular ("safety concerns", "safety
    concern"), and "x of y" and "y x" ("level of anger", "anger level"). The more frequent form stands for both. Of
    the release's 1,786 names this folds 43, and the paper's own clusters hold 41 of these pairs together.
    """
    by_form: dict[str, list[str]] = {}
    for name in counts:
        by_form.setdefault(_same_form(name, counts), []).append(name)
    folded: dict[str, str] = {}
    for names in by_form.values():
        most = max(names, key=lambda name: (counts[name], name))
        folded.update(dict.fromkeys(names, most))
    return folded


_STRAIGHT = str.maketrans({"’": "'", "‘": "'", "‐": "-", "‑": "-", "–": "-", "—": "-"})


def _trim(part: str) -> str:
    """Return a part without "use of", and without punctuation and space at its ends."""
    before = None
    while part != before:
        before = part
        part = re.sub(r"\s+", " ", part).strip(" .,;!?-*#\"'`()[]{}")
        part = re.sub(r"^(the )?use of ", "", part)
    return part


def _same_form(name: str, known: Iterable[str]) -> str:
    """Return the form that a name shares with others of the known ones: straight order, then singular."""
    turned = re.sub(r"^(\S.*?) of (?:the )?(.+)$", r"\2 \1", name)
    name = turned if turned in known else name
    single = _singular(name)
    return single if single in known else name


@cache
def _singular(name: str) -> str:
    """Return a name with its last word in the singular."""
    before, space, last = name.rpartition(" ")
    if not last.endswith("s"):
        return name
    return f"{before}{space}{_words().singular_noun(last) or last}"


@cache
def _words() -> Any:
    import inflect

    return inflect.engine()
