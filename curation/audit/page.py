"""A round as one self-contained HTML page for one annotator, and the answers it gives back."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from markdown_it import MarkdownIt
from markupsafe import Markup
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from curation.audit.filled import Filled, answers_of, correction_of
from curation.audit.questions import FAULTS, RATINGS, VERDICTS, guidelines
from curation.audit.records import Answer, Record
from stillhouse.errors import InputError
from stillhouse.pages import render_page
from stillhouse.store import write_atomically

TEMPLATES = Path(__file__).parent / "templates"
COMMAND_KEYS = frozenset("cwuejksngmd")  # what the page's script does on a letter; faults take others


def write_page(path: Path, records: Sequence[Record], title: str, round_number: int) -> None:
    """Write a round as a page that needs nothing but a browser, whole or not at all.

    Texts and answers travel as JSON and are shown as text; the page runs no script but its own and loads nothing.
    """
    page = render_page(
        TEMPLATES,
        {},
        title=title,
        round=round_number,
        total=len(records),
        guidelines=Markup(MarkdownIt("commonmark", {"html": False}).render(guidelines())),  # noqa: S704 - ours
        verdicts=VERDICTS,
        faults=[{"name": name, "meaning": meaning, "key": key} for (name, meaning), key in fault_keys().items()],
        ratings=RATINGS,
        data=_data(records, title, round_number),
    )
    write_atomically(path, page)


def fault_keys() -> dict[tuple[str, str], str]:
    """Return the key of each fault (name and meaning): the first free letter of its last word, else of the others."""
    keys: dict[tuple[str, str], str] = {}
    for name, meaning in FAULTS.items():
        letters = "".join(reversed(name.split()))
        taken = COMMAND_KEYS.union(keys.values())
        keys[name, meaning] = next(letter for letter in letters if letter not in taken)
    return keys


def _data(records: Sequence[Record], title: str, round_number: int) -> dict[str, Any]:
    """Return what the script shows. What would sway an annotator (stratum, difficulty, population) is not in it."""
    identity = json.dumps([title, round_number, [(record.sample_id, record.version) for record in records]])
    return {
        "title": title,
        "round": round_number,
        "key": f"stillhouse-review-{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
        "records": [
            {
                "sample_id": record.sample_id,
                "version": record.version,
                "parts": [[part.text, part.marked] for part in record.parts],
                "instruction": record.instruction,
                "form": record.form,
                "answer": record.answer,
                "items": record.items,
                "fields": record.fields,
                "prose": record.task_type == "analysis",
            }
            for record in records
        ],
    }


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    sample_id: str
    version: str
    status: Literal["submitted", "draft", "discarded"]
    verdict: str | None
    faults: list[str]
    rating: int | None
    correction: str | None
    comment: str | None
    given_at: AwareDatetime


class _Download(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    stillhouse_review: Literal[1]
    title: str
    round: int
    annotator: str
    answers: list[_Given]


def read_page_answers(path: Path, records: Sequence[Record], annotator: str | None, now: datetime) -> list[Answer]:
    """Return the answers that a page's button has downloaded.

    `annotator` answered where the file names nobody. Answers keep the time they were given at, but none is later than
    `now`: a clock that runs ahead must not win over later answers. Raises InputError where the file is damaged or of
    another round.
    """
    try:
        download = _Download.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path} is not a download of the review page: {where}: {first['msg']}. Download the answers again"
        ) from error
    who = download.annotator.strip() or annotator or ""
    return answers_of(list(_filled(path, download.answers, records, who, now)), records)


def _filled(
    path: Path, given: Sequence[_Given], records: Sequence[Record], annotator: str, now: datetime
) -> Iterable[Filled]:
    shown = {(record.sample_id, record.version): record.answer for record in records}
    for number, answer in enumerate(given, start=1):
        yield Filled(
            place=f"{path}, answer {number}",
            sample_id=answer.sample_id,
            version=answer.version,
            annotator=annotator,
            status=answer.status,
            verdict=answer.verdict or "",
            faults=tuple(answer.faults),
            rating="" if answer.rating is None else str(answer.rating),
            correction=correction_of(answer.correction or "", shown.get((answer.sample_id, answer.version), "")),
            comment=(answer.comment or "").strip(),
            given_at=min(answer.given_at.astimezone(UTC), now),
        )
