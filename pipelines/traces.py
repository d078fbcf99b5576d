"""What the journal knows of calls: what was sent, what came back, and what went wrong on the way. Read only."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.calls import Call
from pipelines.journal import Journal
from stillhouse.errors import RunError
from stillhouse.remote import remote_of

COMPLAINT = "This answer is not valid: "  # as `Prompt.corrected` begins it
_CORRECTION = re.compile(rf"(.*\nAnswer:) [^\n]*\n\n({COMPLAINT}[^\n]*)\nAnswer:", re.DOTALL)
_ANSWER = (
    "SELECT stage, request, text, finish_reason, prompt_tokens, output_tokens, seconds, answered_at "
    "FROM answers WHERE call_id = ?"
)
_FAILURES = "SELECT cause, failed_at FROM failures WHERE call_id = ? ORDER BY failed_at"


class Traces:
    """Looks calls up in a journal."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read from an open journal."""
        self._db = db

    def of(self, call_id: str) -> list[dict[str, Any]]:
        """Return a call after those that it corrects, the first one first; empty where the journal knows none.

        `told` is the fault that a correction was told. Raises RunError where the journal is damaged.
        """
        found: list[dict[str, Any]] = []
        try:
            while trace := self._trace(call_id):
                corrected = corrected_call(Call(**trace["request"]))
                found.insert(0, trace | {"told": corrected and corrected[1]})
                if corrected is None:
                    break
                call_id = corrected[0].call_id
        except sqlite3.DatabaseError as error:
            raise RunError(f"the journal cannot be read ({error}); `stillhouse run` mends it") from error
        return found

    def _trace(self, call_id: str) -> dict[str, Any] | None:
        row = self._db.execute(_ANSWER, (call_id,)).fetchone()
        if row is None:
            return None
        stage, request, *answer = row
        names = ("answer", "finish_reason", "prompt_tokens", "output_tokens", "seconds", "answered_at")
        failures = [{"cause": cause, "failed_at": at} for cause, at in self._db.execute(_FAILURES, (call_id,))]
        known = {"call_id": call_id, "stage": stage, "request": json.loads(request)}
        return known | dict(zip(names, answer, strict=True)) | {"failures": failures}


def corrected_call(call: Call) -> tuple[Call, str] | None:
    """Return the call whose answer this one corrects, and what it was told; None where it is a first one."""
    prompt = call.prompt
    if isinstance(prompt, str):
        match = _CORRECTION.fullmatch(prompt)
        return (replace(call, prompt=match[1]), match[2]) if match else None
    told = prompt[-1]["content"]
    return (replace(call, prompt=prompt[:-2]), told) if told.startswith(COMPLAINT) else None


@contextmanager
def opened_traces(path: Path) -> Iterator[Traces]:
    """Open a journal to look things up. Raises RunError where it cannot be opened.

    That of a run in a storage is opened once to write first: it takes in what was answered elsewhere.
    """
    if remote_of(path.parent):
        Journal(path).close()
    # Where nobody has it open it is taken for unchangeable, or SQLite would write files of its own beside it.
    in_use = path.with_name(f"{path.name}-wal").exists()
    address = f"file:{quote(str(path.resolve()))}?mode=ro" + ("" if in_use else "&immutable=1")
    try:
        db = sqlite3.connect(address, uri=True)
    except sqlite3.Error as error:
        raise RunError(f"journal {path} cannot be opened: {error}") from error
    try:
        yield Traces(db)
    finally:
        db.close()
