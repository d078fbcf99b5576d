"""Files an annotator works on without a server: a spreadsheet to fill in, or a page that gives its answers back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from curation.audit.page import read_page_answers, write_page
from curation.audit.records import Answer, Record
from curation.audit.sheets import read_sheet, write_sheet
from stillhouse.errors import InputError

WRITERS = {".xlsx": write_sheet, ".csv": write_sheet, ".html": write_page}
READERS = {".xlsx": read_sheet, ".csv": read_sheet, ".json": read_page_answers}


def check_review_file(path: Path) -> None:
    """Raise InputError where a round cannot be written to a file."""
    if path.exists():
        raise InputError(f"{path} exists, perhaps with answers in it; give another file")
    if path.suffix.lower() not in WRITERS:
        raise InputError(f"{path} is of no known kind; writable: {', '.join(WRITERS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"folder {path.absolute().parent} does not exist; make it or give another path")


def write_review_file(path: Path, records: Sequence[Record], title: str, round_number: int) -> None:
    """Write a round for one annotator: .xlsx or .csv to fill in, .html to open in a browser."""
    check_review_file(path)
    WRITERS[path.suffix.lower()](path, records, title, round_number)


def read_answers(
    path: Path, records: Sequence[Record], annotator: str | None, saved: datetime | None = None
) -> list[Answer]:
    """Return the answers of a filled spreadsheet or of a page's download.

    `annotator` answered where the file does not say who did. Answers of a spreadsheet count as given when it was
    `saved`, by the file's own time unless given, so that an old copy does not go before a newer one.
    A value that is no answer to its question does not stop the others: its answer says so in `problem`.
    Raises InputError where the file cannot be read or is of another round.
    """
    if path.suffix.lower() not in READERS:
        hint = "; give what its button 'Download answers' made" if path.suffix.lower() == ".html" else ""
        raise InputError(f"{path} is of no known kind{hint}; readable: {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    saved_at = saved or datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return READERS[path.suffix.lower()](path, records, annotator, saved_at)
