"""The journal: every teacher answer is on disk before anyone uses it, and is never asked for twice.

One SQLite file in write-ahead mode with full synchronisation: a commit survives kill -9 and power loss, and a torn
tail is left out when the file is opened. Rows are only ever added. Answers that arrive together are committed
together, in a thread of their own, so that waiting for the disk holds up no request.

Where the run lives in a storage, losing this machine loses no answer that was used: what is written here is noted as
unsent in the same commit, and goes there as a segment, a file of its own, before the answers are handed on. A journal
takes in the segments that it does not know. Sent or taken in twice, a row is there once.
"""

import asyncio
import gzip
import io
import json
import os
import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipelines.calls import Answer, Call
from stillhouse.errors import RunError
from stillhouse.remote import remote_of

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    call_id TEXT PRIMARY KEY, stage TEXT NOT NULL, request TEXT NOT NULL, text TEXT NOT NULL,
    finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL, answered_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS failures (
    call_id TEXT NOT NULL, stage TEXT NOT NULL, cause TEXT NOT NULL, failed_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS failed ON failures (call_id);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS unsent (id INTEGER PRIMARY KEY AUTOINCREMENT, lines BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS segments (name TEXT PRIMARY KEY);
"""
ANSWER = "INSERT INTO answers VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT(call_id) DO NOTHING"
FAILURE = (
    "INSERT INTO failures SELECT ?1, ?2, ?3, ?4 "
    "WHERE NOT EXISTS (SELECT 1 FROM failures WHERE call_id = ?1 AND failed_at = ?4)"
)
NOTE = "INSERT INTO notes VALUES (?,?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
UNSENT = "INSERT INTO unsent (lines) VALUES (?)"
SENT = "DELETE FROM unsent WHERE id = ?"
KNOWN = "INSERT INTO segments VALUES (?) ON CONFLICT DO NOTHING"
KINDS = {"answers": ANSWER, "failures": FAILURE, "notes": NOTE, "segments": KNOWN}  # in the lines of a segment
NAMES = {statement: kind for kind, statement in KINDS.items()}
STAGES = """
WITH timed AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY stage ORDER BY seconds) AS place, COUNT(*) OVER (PARTITION BY stage) AS n
    FROM answers
)
SELECT stage, COUNT(*), SUM(finish_reason != 'stop'), SUM(prompt_tokens), SUM(output_tokens),
    MAX(CASE WHEN place = (n + 1) / 2 THEN seconds END), MAX(CASE WHEN place = (19 * n + 19) / 20 THEN seconds END)
FROM timed GROUP BY stage ORDER BY MIN(answered_at)
"""
GROUP_ROWS = 1024  # in one commit at most
HEADER_BYTES = 100  # of an SQLite file: page size at 16, number of pages at 28
SMALLEST_ROW = 200  # bytes that an answer takes at least
SEND_SECONDS = 0.5  # from one segment to the next
MOST_SEGMENTS = 500  # more are folded into one when a run begins or ends
Row = tuple[str, tuple[Any, ...]]  # a statement and its values


@dataclass
class Usage:
    """Calls and tokens of some answers."""

    calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def add(self, prompt_tokens: int, output_tokens: int, calls: int = 1) -> None:
        """Count a call; a negative one takes it back."""
        self.calls += calls
        self.prompt_tokens += prompt_tokens
        self.output_tokens += output_tokens


class Journal:
    """Answers and failed calls of one run, keyed by everything that was sent."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal. Raises RunError where the file is no journal or cannot be written."""
        self.path, self._remote = path, remote_of(path.parent)
        try:
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA wal_autocheckpoint=10000")  # pages: about 40 MB
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise RunError(f"journal {path} cannot be opened: {error}") from error
        self._take_in()

    @property
    def is_remote(self) -> bool:
        """Whether the run lives in a storage."""
        return self._remote is not None

    def __enter__(self) -> Self:
        """Use as a context manager that closes the file."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def write(self, rows: Iterable[Row]) -> None:
        """Put rows on disk, for `send` to take to the storage. Raises as `commit`."""
        if self._remote:
            rows = list(rows)
            rows.append((UNSENT, (gzip.compress("".join(map(_line, rows)).encode(), 1),)))
        self.commit(rows)

    def commit(self, rows: Iterable[Row]) -> None:
        """Put rows on disk, all or none; they are there when this returns. Raises sqlite3.Error."""
        with self._db:
            self._put(rows)

    def _put(self, rows: Iterable[Row]) -> None:
        for statement, group in groupby(rows, itemgetter(0)):
            self._db.executemany(statement, (values for _, values in group))

    def send(self) -> None:
        """Put all rows that are not in the storage yet there, as one segment. Raises RunError where that fails."""
        if not self._remote:
            return
        unsent = self._db.execute("SELECT id, lines FROM unsent ORDER BY id").fetchall()
        if unsent:
            name = self._new_segment()
            self._remote.put_segment(name, b"".join(lines for _, lines in unsent))
            self.commit((SENT, (number,)) for number, _ in unsent)

    def _new_segment(self) -> str:
        """Return a name that no other segment has, after all that are known here.

        It is known from now on: whoever looks from here, while it is sent, has no older row to take from it.
        """
        (last,) = self._db.execute("SELECT COALESCE(MAX(name), '0-') FROM segments").fetchone()
        name = f"{int(last.partition('-')[0]) + 1:010d}-{secrets.token_hex(4)}.jsonl.gz"
        self.commit([(KNOWN, (name,))])
        return name

    def _take_in(self) -> None:
        """Write the rows of segments that are not known here. Raises RunError where one is damaged."""
        if not self._remote:
            return
        known, missing = self._known_segments(), set[str]()
        while new := [name for name in self._remote.segments() if name not in known]:
            if missing.issuperset(new):
                raise RunError(f"segments of {self._remote.url} are listed and cannot be read: journal/{new[0]}")
            for name, content in self._remote.read_segments(new):
                try:
                    self._take_in_segment(name, content)
                except (OSError, EOFError, zlib.error, ValueError, KeyError) as error:
                    raise RunError(
                        f"segment journal/{name} of {self._remote.url} is damaged ({error}); move it away, and what it "
                        "held is asked for again"
                    ) from error
            known = self._known_segments()
            missing = set(new) - known

    def _take_in_segment(self, name: str, content: bytes) -> None:
        """Write the rows of a segment, unless another process here has by now: there may be newer ones since."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if not self._db.execute("SELECT 1 FROM segments WHERE name = ?", (name,)).fetchone():
                self._put(chain(_rows_in(content), [(KNOWN, (name,))]))

    def _known_segments(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT name FROM segments")}

    def fold(self, most: int = MOST_SEGMENTS) -> None:
        """Put all rows into one segment in the place of those before it, where there are more than `most`.

        The new one is there before the old ones go, and names them, so that they count as known wherever it is taken
        in. Raises RunError where the storage cannot be written.
        """
        if not self._remote or self._remote.fault:
            return
        old = sorted(self._known_segments().intersection(self._remote.segments()))
        if len(old) <= most:
            return
        name, file = self._new_segment(), self.path.with_name("journal.fold")
        with gzip.open(file, "wt", encoding="utf-8", compresslevel=6) as lines:
            lines.writelines(map(_line, self._all_rows(old)))
        self._remote.put_segment(name, file)
        file.unlink()
        self._remote.remove_segments(old)

    def _all_rows(self, old: Sequence[str]) -> Iterator[Row]:
        yield from ((KNOWN, (name,)) for name in old)
        for kind in ("answers", "failures", "notes"):
            for values in self._db.execute(f"SELECT * FROM {kind} ORDER BY rowid"):  # noqa: S608
                yield KINDS[kind], values

    def hashes(self) -> set[int]:
        """Return 64 bits of the id of every call that is answered: most new calls need no look at the disk."""
        return {hash_of(row[0]) for row in self._db.execute("SELECT call_id FROM answers")}

    def answer(self, call_id: str) -> Answer | None:
        """Return the answer that is on disk for a call."""
        query = "SELECT text, finish_reason, prompt_tokens, output_tokens, seconds FROM answers WHERE call_id = ?"
        row = self._db.execute(query, (call_id,)).fetchone()
        return Answer(*row) if row else None

    def note(self, key: str) -> str | None:
        """Return what was noted under a key."""
        row = self._db.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def notes(self, prefix: str) -> list[tuple[str, str]]:
        """Return keys and values of the notes whose key starts with `prefix`."""
        query = "SELECT key, value FROM notes WHERE substr(key, 1, ?) = ? ORDER BY rowid"
        return [(str(key), str(value)) for key, value in self._db.execute(query, (len(prefix), prefix))]

    def set_note(self, key: str, value: str) -> None:
        """Note something about the teacher. Raises sqlite3.Error, and RunError as `send` does."""
        self.write([(NOTE, (key, value))])
        self.send()

    def failures(self) -> list[tuple[str, str, str, float, bool]]:
        """Return stage, call id, cause and time (in seconds) of failed calls, and whether each was answered later."""
        query = "SELECT stage, call_id, cause, failed_at, call_id IN (SELECT call_id FROM answers) FROM failures"
        return [(*row[:4], bool(row[4])) for row in self._db.execute(query)]

    def stages(self) -> list[tuple[Any, ...]]:
        """Return per stage: answers, those cut off, prompt and output tokens, median and 95th percentile of seconds."""
        return self._db.execute(STAGES).fetchall()

    def read_through(self) -> None:
        """Read all that is in the journal. Raises sqlite3.DatabaseError where a part of it is damaged."""
        self.usage()
        self.hashes()
        for table, column in (("failures", "cause"), ("notes", "value"), ("unsent", "lines")):
            self._db.execute(f"SELECT MAX({column}) FROM {table}").fetchone()  # noqa: S608

    def usage(self) -> Usage:
        """Sum calls and tokens of all answers."""
        query = "SELECT COUNT(*), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(output_tokens), 0) FROM answers"
        return Usage(*self._db.execute(query).fetchone())


def hash_of(call_id: str) -> int:
    """Return the first 64 bits of a call id."""
    return int(call_id[:16], 16)


def _line(row: Row) -> str:
    """Return a row as a line of a segment."""
    statement, values = row
    return json.dumps([NAMES[statement], *values]) + "\n"


def _rows_in(content: bytes) -> Iterator[Row]:
    with gzip.open(io.BytesIO(content), "rt", encoding="utf-8") as lines:
        for line in lines:
            kind, *values = json.loads(line)
            yield KINDS[kind], tuple(values)


def storable(text: str) -> str:
    """Return a text without half characters, which no file holds; they are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def answer_row(stage: str, call: Call, answer: Answer) -> Row:
    """Return the journal's row of an answer."""
    figures = (answer.prompt_tokens, answer.output_tokens, answer.seconds, time.time())
    return ANSWER, (call.call_id, stage, call.json, answer.text, answer.finish_reason, *figures)


def failure_row(stage: str, call: Call, cause: str) -> Row:
    """Return the journal's row of a call that failed; the call is asked again in the next run."""
    return FAILURE, (call.call_id, stage, storable(cause), time.time())


def salvage(path: Path) -> int | None:
    """Replace a damaged journal by one of all answers that can still be read; return their number, None if it is whole.

    The damaged file is kept beside it. Raises RunError where even that is not possible.
    """
    try:
        with Journal(path) as journal:
            journal.read_through()
            return None
    except (RunError, sqlite3.DatabaseError) as error:
        cause = error.__cause__ if isinstance(error, RunError) else error
        if getattr(cause, "sqlite_errorcode", None) != sqlite3.SQLITE_CORRUPT:
            raise
        aside = path.with_name(f"{path.stem}.damaged-{time.time_ns()}{path.suffix}")
        _move(path, aside)
    try:
        return _read_anew(path, aside)
    except BaseException:  # such as a storage that is away: the next run tries again
        _move(aside, path)
        raise


def _move(path: Path, target: Path) -> None:
    """Put the files of a journal in the place of another's."""
    for suffix in ("", "-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
        if (part := path.with_name(path.name + suffix)).exists():
            part.replace(target.with_name(target.name + suffix))


def _read_anew(path: Path, damaged: Path) -> int:
    """Write all that can be read of a damaged journal into a new one, to be sent, as some of it may not have been."""
    with Journal(path) as journal:
        for statement, table in ((ANSWER, "answers"), (NOTE, "notes")):
            rows = ((statement, row) for row in _readable(damaged, table))
            while group := list(islice(rows, GROUP_ROWS)):
                journal.write(group)
        journal.commit((UNSENT, row[1:]) for row in _readable(damaged, "unsent"))
        return journal.usage().calls


def _broken(path: Path, error: sqlite3.Error) -> str:
    return f"journal {path} cannot be written ({error}): the disk is full or broken. Make room, and keep the journal"


def _readable(path: Path, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table of a damaged file, one by one, past pages that cannot be read."""
    with path.open("r+b") as file:  # a file that was cut short is not opened at all: its lost pages become empty ones
        head = file.read(HEADER_BYTES)
        size = int.from_bytes(head[16:18], "big") * int.from_bytes(head[28:32], "big")
        file.truncate(max(size, path.stat().st_size))
    most = path.stat().st_size // SMALLEST_ROW
    with sqlite3.connect(path) as db:
        for number in range(1, most + 1):
            try:
                row = db.execute(f"SELECT * FROM {table} WHERE rowid = ?", (number,)).fetchone()  # noqa: S608
            except sqlite3.DatabaseError:
                continue
            if row:
                yield row


class Sender:
    """Takes what is on disk to the storage of a run, in one thread: all of it at once, again and again."""

    def __init__(self, path: Path) -> None:
        """Open the journal once more: a connection is for one thread."""
        self._journal = Journal(path)
        self._thread = ThreadPoolExecutor(1, "storage")
        self._sending: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self.fault = ""

    async def sent(self) -> None:
        """Return when all that is on disk by now is in the storage too, or `fault` says why it is not."""
        if self._next is None:
            self._next = asyncio.create_task(self._send_after(self._sending))
        await asyncio.shield(self._next)

    async def _send_after(self, before: "asyncio.Task[None] | None") -> None:
        loop = asyncio.get_running_loop()
        if before:
            await asyncio.wait([before])
        await asyncio.sleep(self._not_before - loop.time())
        self._sending, self._next = self._next, None  # what is written from now on waits for another
        self._not_before = loop.time() + SEND_SECONDS
        await loop.run_in_executor(self._thread, self._send)

    def _send(self) -> None:
        try:
            if not self.fault:
                self._journal.send()
        except RunError as error:
            self.fault = str(error)
        except sqlite3.Error as error:
            self.fault = _broken(self._journal.path, error)

    async def close(self) -> None:
        """Wait for what is being sent, and close the file."""
        if self._sending:
            await asyncio.wait([self._sending])
        self._thread.shutdown()
        self._journal.close()


class Writer:
    """Commits rows in groups, in one thread. What it could not write when the disk was full, it writes into a reserve.

    The reserve is a file of real blocks beside the journal. It is given up at the first failure, so that the answers
    still in flight, which are paid for, find room; `fault` then says why nothing more may be asked. It also does where
    the storage of the run cannot be written: the rows are on disk, and are sent with the next run.
    """

    def __init__(self, path: Path, reserve_bytes: int) -> None:
        """Open the journal and set the reserve aside. Raises RunError where the disk has no room for it."""
        self._reserve = path.with_name("journal.reserve")
        try:
            with self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, reserve_bytes)
        except OSError as error:
            self._reserve.unlink(missing_ok=True)
            raise RunError(
                f"the disk of {path.parent} is full: {reserve_bytes / 1e6:.1f} MB must be free ({error.strerror})"
            ) from error
        self._journal = Journal(path)
        self._thread = ThreadPoolExecutor(1, "journal")
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._sender = Sender(path) if self._journal.is_remote else None
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why nothing more may be asked; empty where all is well."""
        return self._fault or (self._sender.fault if self._sender else "")

    async def put(self, row: Row) -> None:
        """Put a row on disk and into the storage of the run, where it has one; it is there when this returns.

        Raises RunError where the disk is full or broken.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((row, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        await future
        if self._sender:
            await self._sender.sent()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_ROWS], self._waiting[GROUP_ROWS:]
                await self._write_group(group)
        finally:
            self._writing = None

    async def _write_group(self, group: list[tuple[Row, asyncio.Future[None]]]) -> None:
        """Write rows together; where one of them cannot be stored, one by one, so that it fails alone."""
        rows, fault = [row for row, _ in group], None
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, rows)
        except sqlite3.Error as error:
            fault = RunError(f"journal {self._journal.path} cannot be written: {error}")
        except (ValueError, OverflowError, TypeError) as error:
            if len(group) > 1:
                for one in group:
                    await self._write_group([one])
                return
            fault = RunError(f"journal {self._journal.path} cannot hold an answer: {error}")
        for _, future in group:
            if not future.done():
                future.set_exception(fault) if fault else future.set_result(None)

    def _write(self, rows: list[Row]) -> None:
        try:
            self._journal.write(rows)
        except sqlite3.Error as error:
            self._fault = _broken(self._journal.path, error)
            self._reserve.unlink(missing_ok=True)
            self._journal.write(rows)

    async def close(self) -> None:
        """Wait for what is being written, give the reserve back and close the file."""
        if self._writing:
            await self._writing
        if self._sender:
            await self._sender.close()
        self._thread.shutdown()
        self._journal.close()
        self._reserve.unlink(missing_ok=True)
