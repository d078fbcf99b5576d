"""What somebody filled in, checked against what was asked: the same for a spreadsheet and for a page."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from curation.audit.questions import FAULTS, RATINGS, VERDICTS
from curation.audit.records import Answer, Record
from stillhouse.errors import InputError

MAX_QUOTED = 40  # characters of a wrong value that a message repeats
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # in XML, and so in a spreadsheet


@dataclass(frozen=True)
class Filled:
    """One record as it came back: what was typed, empty where nothing was.

    `place` names file and row for messages; `correction` is None where the answer stands as it was shown; `saved` says
    that somebody meant it to be as it is, also where it is empty.
    """

    place: str
    sample_id: str
    version: str
    annotator: str
    status: str
    verdict: str
    faults: tuple[str, ...]
    rating: str
    correction: str | None
    comment: str
    given_at: datetime
    saved: bool = False

    @property
    def blank(self) -> bool:
        """Whether nobody has touched it."""
        typed = (self.verdict, *self.faults, self.rating, self.correction, self.comment)
        return self.status == "draft" and not self.saved and not any(typed)


def legible(text: str) -> str:
    """Return a text as every kind of file can hold it: one kind of line break, nothing that XML forbids."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _UNWRITABLE.sub("\ufffd", re.sub(r"\r\n?", "\n", whole))


def correction_of(typed: str, shown: str) -> str | None:
    """Return what was typed in place of the shown answer, or None where that still stands or nothing does."""
    unchanged = legible(typed).strip() in ("", legible(shown).strip())
    return None if unchanged else typed


def answers_of(filled: Sequence[Filled], records: Sequence[Record]) -> list[Answer]:
    """Return the answers among what came back; what is no answer to its question says so in `problem`.

    Raises InputError where nothing is of this round, or where it is not known who answered.
    """
    known = {(record.sample_id, record.version) for record in records}
    if filled and not any((row.sample_id, row.version) in known for row in filled):
        raise InputError(
            f"{filled[0].place}: sample {_quoted(filled[0].sample_id)} and all others of this file are not of this "
            f"round; give the file that was written for it, with the columns sample_id and version untouched"
        )
    answered = [row for row in filled if not row.blank]
    nameless = next((row for row in answered if not row.annotator), None)
    if nameless:
        raise InputError(f"{nameless.place}: who answered? Fill the column annotator or give --annotator")
    first = {_who_and_what(row): row.place for row in reversed(answered)}
    return [_checked(row, known, first[_who_and_what(row)]) for row in answered]


def _who_and_what(row: Filled) -> tuple[str, str, str]:
    return row.sample_id, row.version, row.annotator


def _checked(row: Filled, known: Collection[tuple[str, str]], first: str) -> Answer:
    problems = list(_misplaced(row, known, first))
    verdict = _name("verdict", row.verdict, VERDICTS, problems)
    if row.status == "submitted" and not row.verdict:
        problems.append("no verdict")
    faults = [_name("what is wrong", fault, FAULTS, problems) for fault in row.faults]
    return Answer(
        sample_id=row.sample_id,
        version=row.version,
        annotator=row.annotator,
        status=row.status,
        verdict=verdict,
        faults=tuple(dict.fromkeys(fault for fault in faults if fault)),
        rating=_rating(row.rating, problems),
        correction=row.correction,
        comment=row.comment or None,
        given_at=row.given_at,
        problem=f"{row.place}: {'; '.join(problems)}" if problems else None,
    )


def _misplaced(row: Filled, known: Collection[tuple[str, str]], first: str) -> Iterator[str]:
    if (row.sample_id, row.version) not in known:
        yield f"sample {_quoted(row.sample_id)} in version {_quoted(row.version)} is not of this round"
    elif row.place != first:
        yield f"{_quoted(row.annotator)} answers this sample again; the first time is {first}"


def _name(column: str, typed: str, allowed: Collection[str], problems: list[str]) -> str | None:
    name = " ".join(typed.split()).casefold()
    if name in allowed:
        return name
    if name:
        problems.append(f"column {column} holds {_quoted(typed)}; allowed: {', '.join(allowed)}")
    return None


def _rating(typed: str, problems: list[str]) -> int | None:
    """Return a rating; spreadsheets write 4 also as 4.0 and 4,0."""
    number = re.fullmatch(r"(\d)(?:[.,]0+)?", typed.strip(), re.ASCII)
    if number and int(number[1]) in RATINGS:
        return int(number[1])
    if typed.strip():
        problems.append(f"column quality holds {_quoted(typed)}; allowed: {RATINGS[0]} to {RATINGS[-1]}")
    return None


def _quoted(value: str) -> str:
    return repr(value if len(value) <= MAX_QUOTED else value[:MAX_QUOTED] + "…")
