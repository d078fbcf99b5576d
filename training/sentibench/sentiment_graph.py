"""Structured sentiment (SemEval 2022, task 10): opinions as sets of tokens, scored by their overlap."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from training.sentibench.answers import ABSENT, string_values
from training.sentibench.sets import ANSWER_KEYS, OPENER, POLARITIES

Span = tuple[int, int]  # of characters
NO_TOKENS = frozenset({-1})  # in place of an empty holder or target, so that empty ones match each other


@dataclass(frozen=True)
class Opinion:
    """The tokens of each part, by number; polarity in lower case."""

    holder: frozenset[int]
    target: frozenset[int]
    expression: frozenset[int]
    polarity: str

    def overlaps(self, other: "Opinion") -> tuple[float, ...]:
        """Return for holder, target and expression how much of its tokens `other` has."""
        mine, others = (self.holder, self.target, self.expression), (other.holder, other.target, other.expression)
        return tuple(len(a & b) / len(a) if a else 0.0 for a, b in zip(mine, others, strict=True))


def gold_opinions(row: dict[str, Any]) -> list[Opinion]:
    """Return the opinions of a row as they were annotated."""
    tokens = token_spans(row["sentence"])
    read = []
    for opinion in row["opinions"]:
        parts = [[_span(offsets) for offsets in opinion[key][1]] for key in ("Source", "Target", "Polar_expression")]
        read.append(_opinion(parts, opinion["Polarity"].lower(), tokens))
    return read


def predicted_opinions(row: dict[str, Any], answer: Sequence[Any]) -> list[Opinion]:
    """Return the opinions of an answer, each part where it first occurs in the sentence; invalid items are dropped."""
    sentence = row["sentence"]
    tokens = token_spans(sentence)
    opinions = []
    for item in answer:
        values = string_values(item, ANSWER_KEYS[OPENER])
        if values is None or len(item) != len(values) or values[3] not in POLARITIES:
            continue
        holder, target, expression, polarity = values
        holders = [] if holder == ABSENT else _find([holder], sentence)
        # Plain "AND", even inside a word, as the published figures were made.
        parts = [holders, _find(target.split("AND"), sentence), _find(expression.split("AND"), sentence)]
        opinions.append(_opinion(parts, polarity, tokens))
    return opinions


def total_weight(opinions: Sequence[Opinion], others: Sequence[Opinion]) -> float:
    """Return the sum of how well each opinion is matched by one of `others`, 0 to 1 each."""
    return sum(_weight(opinion, others) for opinion in opinions)


def token_spans(sentence: str) -> list[Span]:
    """Split at every single space, as the standard scorer does.

    Between two spaces there is an empty token; before a first space and after a last one there is none.
    """
    spans, begin = [], 0
    for token in sentence.split(" "):
        end = begin + len(token)
        if token or 0 < begin < len(sentence):
            spans.append((begin, end))
        begin = end + 1
    return spans


def _weight(opinion: Opinion, others: Sequence[Opinion]) -> float:
    matches = [(other, overlaps) for other in others if all(overlaps := opinion.overlaps(other))]
    if not any(other.polarity == opinion.polarity for other, _ in matches):
        return 0.0
    # The best overlap may be with an opinion of another polarity: so it is in the standard scorer.
    return max(fmean(overlaps) for _, overlaps in matches)


def _opinion(parts: Sequence[Sequence[Span]], polarity: str, tokens: Sequence[Span]) -> Opinion:
    holder, target, expression = (_covered(part, tokens) for part in parts)
    return Opinion(holder or NO_TOKENS, target or NO_TOKENS, expression, polarity)


def _covered(spans: Iterable[Span], tokens: Sequence[Span]) -> frozenset[int]:
    """Return the tokens of some spans: from the one that begins where a span begins to the one that ends where it ends.

    Where no token ends there, the rest of the sentence is covered; where none begins there, nothing is.
    """
    covered: set[int] = set()
    begins = {begin: number for number, (begin, _) in enumerate(tokens)}
    ends = {end: number for number, (_, end) in enumerate(tokens)}
    for begin, end in spans:
        if begin in begins:
            first = begins[begin]
            last = ends.get(end, -1)
            covered.update(range(first, last + 1 if last >= first else len(tokens)))
    return frozenset(covered)


def _find(parts: Iterable[str], sentence: str) -> list[Span]:
    """Return where parts first occur, without white space around; an empty one does at 0, as in the standard scorer."""
    stripped = [part.strip() for part in parts]
    begins = [sentence.find(part) for part in stripped]
    return [(begin, begin + len(part)) for begin, part in zip(begins, stripped, strict=True) if begin >= 0]


def _span(offsets: str) -> Span:
    begin, _, end = offsets.partition(":")
    return int(begin), int(end)
