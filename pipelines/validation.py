"""What is wrong with an answer of the right form: it refuses, echoes what was shown, or is in another language."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from stillhouse.errors import InputError

ECHO = 90.0  # rapidfuzz similarity, 0 to 100
ECHO_CHARACTERS = 20  # shorter strings are alike by chance
STUTTER = re.compile(r"(.{1,8}?)\1{11,}", re.DOTALL)  # the same few characters twelve times in a row
LANGUAGE_CHARACTERS = 40  # shorter strings do not show their language
LOOP_WORDS = 16  # shorter strings repeat a phrase by right
LOOP_SHARE = 0.6  # of different ones among all sequences of four words; below it, a string goes in circles
LANGUAGE_CERTAINTY = 0.9  # 4,293 English texts of SentiBench: above it, only those that were in fact in another one
REFUSAL = re.compile(
    r"((unfortunately|however|but)\W+)?("
    r"(i'?m|i am|we'?re|we are) (very |so |really |terribly )?(sorry|afraid|unable|not able)\b|sorry,? (but )?i\b|"
    r"i (can ?not|can'?t|could not|couldn'?t|won'?t|will not) |as an? (ai|artificial|language|large)\b|i apologi[sz]e)",
    re.IGNORECASE,
)


def is_refusal(answer: str) -> bool:
    """Say whether an answer begins as refusals of language models do."""
    return REFUSAL.match(answer.strip().replace("’", "'")) is not None


def echo_of(answer: str, sources: Iterable[tuple[str, str]]) -> str | None:
    """Return the name of the first of `sources` (name, text) that `answer` repeats, whole or as a part of it."""
    from rapidfuzz import fuzz

    said = _plain(answer)
    if len(said) < ECHO_CHARACTERS:
        return None
    for name, source in sources:
        shown = _plain(source)
        if len(shown) >= ECHO_CHARACTERS and (
            fuzz.ratio(said, shown, score_cutoff=ECHO)
            or said in shown
            or (shown in said and len(shown) > len(said) / 2)
        ):
            return name
    return None


def is_other_language(answer: str, language: str) -> bool:
    """Say whether an answer is, with certainty, in another language than `language` (ISO 639-1)."""
    if len(answer) < LANGUAGE_CHARACTERS:
        return False
    found, certainty = _identifier().classify(answer)
    return bool(found != language and certainty > LANGUAGE_CERTAINTY)


def repeats_itself(answer: str) -> bool:
    """Say whether an answer goes in circles, as small models do."""
    if STUTTER.search(answer):
        return True
    words = _plain(answer).split()
    sequences = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(words) >= LOOP_WORDS and len(set(sequences)) < LOOP_SHARE * len(sequences)


def check_language(language: str) -> None:
    """Raise InputError where answers in a language could not be told from others."""
    known = sorted(_identifier().nb_classes)
    if language not in known:
        raise InputError(
            f"responses.language: `{language}` is not one that can be recognised; known: {', '.join(known)}"
        )


def wording_fault(free: list[str], whole: bool, language: str, sources: Iterable[tuple[str, str]]) -> str | None:
    """Return what is wrong with the strings that a teacher worded itself, or None.

    `whole` says that they are the answer, not parts of one: a part may well begin with "I can't", as the text does.
    """
    shown = list(sources)
    if whole and any(is_refusal(string) for string in free):
        return "refusal"
    echoes = (echo_of(string, shown) for string in free)
    echo = next((name for name in echoes if name), None)
    if echo:
        return f"echoes {echo}"
    if any(repeats_itself(string) for string in free):
        return "repeats itself"
    if is_other_language(" ".join(free), language):
        return "wrong language"
    return None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
