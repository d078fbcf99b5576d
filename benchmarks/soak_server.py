"""The faulty endpoint of benchmarks/soak.py: the teacher of the tests, with the faults of servers that are far away.

It lives in a process of its own, and keeps what became of every request. Faults are dealt as cards are, from a deck of
200 that holds each as often as it should come, so that none stays away for long.
"""

import json
import math
import multiprocessing
import os
import random
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import Any

import psutil

from tests.teacher_server import Handler, TeacherServer

# Of every 200 requests: 5 % errors, 1 % hangs, 2 % broken connections, half a percent that are no completion. The last
# two are whole answers, paid for and kept, that no program can use: their rows are asked for a correction.
DEALT = 200
FAULTS = {
    "HTTP 500": 4,
    "HTTP 502": 2,
    "HTTP 503": 2,
    "HTTP 429": 2,
    "hang": 2,
    "reset in the middle": 2,
    "closed without a word": 1,
    "cut in the middle": 1,
    "no completion": 1,
    "answer is not JSON": 2,
    "answer is cut off": 1,
}
GOOD = "good"
WHOLE = {
    GOOD: "good",
    "answer is not JSON": "garbage",
    "answer is cut off": "cut",
}  # as the teacher of the tests says it
MEDIAN_SECONDS, SPREAD, LEAST_SECONDS, MOST_SECONDS = 0.15, 0.6, 0.05, 0.5  # of an answer: log-normal, within bounds
RETRY_AFTER = "1"  # seconds, with HTTP 429
WAITING = 128  # connections that wait to be accepted


class FaultyServer(TeacherServer):
    """Keeps per request, by the hash of its body, what it got each time, and which were delivered whole."""

    request_queue_size = WAITING

    def __init__(self) -> None:
        """Listen on a free loopback port."""
        super().__init__(FaultyHandler)
        self.retry_after = RETRY_AFTER
        self.given: defaultdict[str, list[str]] = defaultdict(list)
        self.delivered: set[str] = set()
        self.connections = self.rows = self.asked_again = 0
        self._rng, self._deck = random.Random(0), list[str]()

    def draw(self, body: bytes) -> tuple[str, str, float]:
        """Take a request; return its key, what it gets, and after how many seconds."""
        key = sha256(body).hexdigest()
        with self.lock:
            self.in_flight += 1
            self.asked_again += key in self.delivered
            if not self._deck:
                self._deck = [kind for kind, count in FAULTS.items() for _ in range(count)]
                self._deck += [GOOD] * (DEALT - len(self._deck))
                self._rng.shuffle(self._deck)
            kind = self._deck.pop()
            self.given[key].append(kind)
            seconds = self._rng.lognormvariate(math.log(MEDIAN_SECONDS), SPREAD)
        return key, kind, min(max(seconds, LEAST_SECONDS), MOST_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where the client hung up."""

    def figures(self) -> dict[str, int]:
        """Return what is open now and what has been done so far; `rows` have an answer, a correction is no row."""
        return {
            "server_open": self.connections,
            "in_flight": self.in_flight,
            "answers": len(self.delivered),
            "rows": self.rows,
            "asked_again": self.asked_again,
        }

    def found(self) -> tuple[dict[str, list[str]], set[str]]:
        """Return what each request got, and which were delivered whole."""
        return dict(self.given), self.delivered


class FaultyHandler(Handler):
    """One connection to a `FaultyServer`."""

    server: FaultyServer

    def setup(self) -> None:
        """Count the connection."""
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def finish(self) -> None:
        """Count it no longer."""
        with self.server.lock:
            self.server.connections -= 1
        super().finish()

    def do_POST(self) -> None:  # noqa: N802 - a name of http.server
        """Answer a chat request, or fail to; a probe is always answered."""
        body = self.rfile.read(int(self.headers["content-length"]))
        request = json.loads(body)
        if self.is_probe(request):
            return self._send(200, self._completion(request, ""))
        key, kind, seconds = self.server.draw(body)
        try:
            time.sleep(seconds)
            if kind in WHOLE:
                self._send(200, self._completion(request, WHOLE[kind]))
                self._note(key, is_row=b"This answer is not valid" not in body)
            else:
                self._fail(kind, request)
        finally:
            with self.server.lock:
                self.server.in_flight -= 1
        return None

    def _note(self, key: str, is_row: bool) -> None:
        with self.server.lock:
            self.server.rows += is_row and key not in self.server.delivered
            self.server.delivered.add(key)

    def _fail(self, kind: str, request: dict[str, Any]) -> None:
        if kind.startswith("HTTP"):
            return self._send(int(kind[-3:]), {"error": {"message": "out of order"}})
        if kind == "no completion":
            return self._send_bytes(200, b"<html>Bad gateway</html>")
        self.close_connection = True
        if kind == "hang":
            self.rfile.read(1)  # until the client hangs up
        elif kind != "closed without a word":
            self._send_half(json.dumps(self._completion(request, "good")).encode())
        if kind == "reset in the middle":
            self._reset()
        return None

    def _send_half(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])

    def _reset(self) -> None:
        """Close as a crash does: without lingering, TCP sends RST in the place of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


@dataclass
class FaultyEndpoint:
    """The endpoint as seen from outside its process."""

    base_url: str
    process: psutil.Process
    _pipe: Connection

    def figures(self) -> dict[str, int]:
        """Return `FaultyServer.figures`."""
        return self._ask("figures")

    def found(self) -> tuple[dict[str, list[str]], set[str]]:
        """Return `FaultyServer.found`."""
        return self._ask("found")

    def _ask(self, name: str) -> Any:
        self._pipe.send(name)
        return self._pipe.recv()


@contextmanager
def faulty_endpoint() -> Iterator[FaultyEndpoint]:
    """Serve in a process of its own until the block ends."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield FaultyEndpoint(ours.recv(), psutil.Process(process.pid), ours)
    finally:
        ours.close()
        process.join()


def _serve(pipe: Connection) -> None:
    with FaultyServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pipe.send(server.base_url)
        while True:
            try:
                name = pipe.recv()
            except EOFError:
                server.shutdown()
                return
            pipe.send(getattr(server, name)())


def counts_of(given: dict[str, list[str]], answered: set[str]) -> dict[str, tuple[int, int]]:
    """Return per kind how many requests got it, and how many of those are of calls that were answered in the end."""
    requests, ended = Counter[str](), Counter[str]()
    for key, kinds in given.items():
        requests.update(kinds)
        ended.update(kinds if key in answered else [])
    return {kind: (requests[kind], ended[kind]) for kind in (*FAULTS, GOOD)}
