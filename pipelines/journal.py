"""The journal: every teacher answer is on disk before anyone uses it, and is never asked for twice.

One SQLite file in write-ahead mode with full synchronisation: a commit survives kill -9 and power loss, and
readers (the progress display) do not disturb the writer. Rows are only ever added.
"""

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.calls import Answer, Call
from stillhouse.errors import RunError

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    call_id TEXT PRIMARY KEY, stage TEXT NOT NULL, request TEXT NOT NULL, text TEXT NOT NULL,
    finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL, answered_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS failures (
    call_id TEXT NOT NULL, stage TEXT NOT NULL, cause TEXT NOT NULL, failed_at REAL NOT NULL
);
"""


@dataclass(frozen=True)
class Usage:
    """Calls and tokens of some answers."""

    calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def plus(self, answers: Iterable[Answer]) -> "Usage":
        """Return the sum of these figures and those of more answers."""
        known = list(answers)
        return Usage(
            self.calls + len(known),
            self.prompt_tokens + sum(answer.prompt_tokens for answer in known),
            self.output_tokens + sum(answer.output_tokens for answer in known),
        )


class Journal:
    """Answers and failed calls of one run, keyed by everything that was sent."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal. Raises RunError where the file is no journal or cannot be written."""
        try:
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise RunError(f"journal {path} cannot be opened: {error}") from error

    def __enter__(self) -> Self:
        """Use as a context manager that closes the file."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file."""
        self._db.close()

    def record(self, stage: str, call: Call, answer: Answer) -> None:
        """Put an answer on disk; it is there when this returns."""
        row = (call.call_id, stage, call.to_json(), answer.text, answer.finish_reason)
        figures = (answer.prompt_tokens, answer.output_tokens, answer.seconds, time.time())
        with self._db:
            self._db.execute(
                "INSERT INTO answers VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT(call_id) DO NOTHING", row + figures
            )

    def record_failure(self, stage: str, call: Call, cause: str) -> None:
        """Put the cause of a failed call on disk; the call is asked again in the next run."""
        with self._db:
            self._db.execute("INSERT INTO failures VALUES (?,?,?,?)", (call.call_id, stage, cause, time.time()))

    def answers(self, call_ids: Iterable[str]) -> dict[str, Answer]:
        """Return the answers that are on disk for these calls."""
        query = "SELECT text, finish_reason, prompt_tokens, output_tokens, seconds FROM answers WHERE call_id = ?"
        return {
            call_id: Answer(*row) for call_id in call_ids if (row := self._db.execute(query, (call_id,)).fetchone())
        }

    def failures_since(self, moment: float) -> dict[str, str]:
        """Return the causes of calls that failed after `moment` (seconds since the epoch)."""
        rows = self._db.execute("SELECT call_id, cause FROM failures WHERE failed_at >= ?", (moment,))
        return dict(rows.fetchall())

    def last_row(self) -> int:
        """Return the number of the latest answer."""
        return int(self._db.execute("SELECT COALESCE(MAX(rowid), 0) FROM answers").fetchone()[0])

    def usage(self, after_row: int = 0) -> Usage:
        """Sum calls and tokens of the answers after a row number."""
        query = (
            "SELECT COUNT(*), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(output_tokens), 0) "
            "FROM answers WHERE rowid > ?"
        )
        return Usage(*self._db.execute(query, (after_row,)).fetchone())
