"""The privacy gate: personal data and secrets in texts, found and redacted.

It finds what has a form, and names as far as a small model sees them. That is no proof of absence.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hub_cards.credentials import credentials
from hub_cards.personal import Span, cards, emails, handles, names, phones
from stillhouse.errors import InputError

Kind = Literal["secret", "card", "email", "phone", "handle", "name"]  # of two that overlap, the first gives its name
KINDS: tuple[Kind, ...] = get_args(Kind)
PLACEHOLDER = re.compile("|".join(rf"\[{kind.upper()}\]" for kind in KINDS))
CHUNK = 1000  # texts between two reports


@dataclass(frozen=True, order=True)
class Finding:
    """Personal data or a secret, and the characters of the text that hold it: from `start`, `end` excluded."""

    start: int
    end: int
    kind: Kind


def find_private(
    texts: Sequence[str],
    kinds: Collection[Kind] = KINDS,
    language: str = "en",
    report: Callable[[int], None] = lambda done: None,
) -> list[list[Finding]]:
    """Find personal data and secrets of the kinds in each text: in its order, and not overlapping.

    A text whose findings are redacted has no findings any more. `report` is told texts done. Raises InputError that
    says what to install.
    """
    found: list[list[Finding]] = []
    try:
        for start in range(0, len(texts), CHUNK):
            found += _find_in_chunk(texts[start : start + CHUNK], kinds, language)
            report(len(found))
    except ModuleNotFoundError as error:
        raise InputError(
            f"publish.private: {error.name} is not installed. Install it: pip install 'stillhouse[publish]'"
        ) from error
    return found


def redacted(text: str, findings: Iterable[Finding]) -> str:
    """Return the text with each finding replaced by its kind, such as [EMAIL]."""
    for finding in sorted(findings, reverse=True):
        text = text[: finding.start] + placeholder(finding.kind) + text[finding.end :]
    return text


def placeholder(kind: Kind) -> str:
    """Return what stands for what was redacted."""
    return f"[{kind.upper()}]"


def _find_in_chunk(texts: Sequence[str], kinds: Collection[Kind], language: str) -> list[list[Finding]]:
    """Search until nothing more is found in the redacted texts: a redaction can uncover what it had hidden."""
    found: list[list[Finding]] = [[] for _ in texts]
    unsettled = list(range(len(texts)))
    while unsettled:
        current = [redacted(texts[index], found[index]) for index in unsettled]
        spans = {kind: _spans(kind, current, language) for kind in KINDS if kind in kinds}
        more = [_merged(text, {kind: spans[kind][i] for kind in spans}) for i, text in enumerate(current)]
        for index, new in zip(unsettled, more, strict=True):
            found[index] = sorted(found[index] + _in_original(new, found[index]))
        unsettled = [index for index, new in zip(unsettled, more, strict=True) if new]
    return found


def _spans(kind: Kind, texts: Sequence[str], language: str) -> list[list[Span]]:
    if kind == "name":
        return list(names(texts, language))
    if kind == "phone":
        return [list(phones(text, language)) for text in texts]
    find = {"secret": credentials, "card": cards, "email": emails, "handle": handles}[kind]
    return [list(find(text)) for text in texts]


def _merged(text: str, spans: dict[Kind, list[Span]]) -> list[Finding]:
    """Return one finding for spans that overlap, and none for those that overlap what is redacted already."""
    found: list[tuple[int, int, Kind | None]] = [(*span, kind) for kind in spans for span in spans[kind]]
    if not found:
        return []
    found += [(*match.span(), None) for match in PLACEHOLDER.finditer(text)]
    groups: list[list[tuple[int, int, Kind | None]]] = []
    reached = 0
    for start, end, kind in sorted(found, key=lambda span: span[:2]):
        if start >= reached:
            groups.append([])
        groups[-1].append((start, end, kind))
        reached = max(reached, end)
    return [finding for group in groups if (finding := _one_finding(group))]


def _one_finding(group: Sequence[tuple[int, int, Kind | None]]) -> Finding | None:
    kinds = [kind for _, _, kind in group if kind is not None]
    if len(kinds) < len(group):
        return None
    return Finding(group[0][0], max(end for _, end, _ in group), min(kinds, key=KINDS.index))


def _in_original(new: Iterable[Finding], before: Sequence[Finding]) -> list[Finding]:
    """Move findings of a redacted text to where they are in the text itself; `before` is what was redacted."""

    def moved(position: int) -> int:
        for finding in before:  # in order
            if finding.start >= position:
                break
            position += finding.end - finding.start - len(placeholder(finding.kind))
        return position

    return [Finding(moved(finding.start), moved(finding.end), finding.kind) for finding in new]
