"""A local OpenAI-compatible endpoint for tests: answers by schema, counts requests, and misbehaves on demand.

It stands where a hosted teacher would stand and cannot here; the client that asks it is the real one.
"""

import hashlib
import json
import random
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipelines.calls import Call
from pipelines.teachers.endpoint import Endpoint, body_of

MODEL = "test-teacher"
VERBS = ["Explain", "Judge", "Tell", "Weigh up", "Sum up", "Discuss"]
SUBJECTS = ["the author", "the first line", "the wording", "the ending", "the humour", "the plea"]
WORDS = ["calm tone", "sharp humour", "mild regret", "open praise", "cold anger", "warm thanks", "price worry"]


class TeacherServer(ThreadingHTTPServer):
    """Counts requests by their body, without the probes for structured output.

    `mode` is good, garbage, error (400), cut, learner (wrong until told so), flaky (500 when first asked), down (503),
    leaky (400 that repeats the key), or free (answers 200 and ignores the schema). More than `most` requests at a time
    are refused with 429. A request with the word `patience` waits until `patience` others are answered.
    """

    def __init__(self, handler: "type[Handler] | None" = None) -> None:
        """Listen on a free loopback port."""
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.mode = "good"
        self.delay = 0.0
        self.most = 1000
        self.retry_after: str | None = None
        self.requests: Counter[str] = Counter()
        self.probes = self.refused = self.in_flight = self.most_in_flight = 0
        self.keys: set[str] = set()
        self.key: str | None = None  # the only one that it takes; any where there is none
        self.patience = self.answered = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.batch_seconds = 0.0  # that a batch takes
        self.busy = 0  # times that the batch API answers 503
        self.results: bytes | None = None  # what it gives instead of results
        self.probe_faults = 0  # times that a probe gets 503
        self.tells_usage = True
        self.surrogates = False  # half a character in every answer
        self.bad_words: set[str] = set()  # in a request that gets 400
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        """Base URL of the API."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def status_of(self, body: bytes) -> int:
        """Count a request and return the status that it gets."""
        key = hashlib.sha256(body).hexdigest()
        self.requests[key] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.in_flight > self.most:
            self.refused += 1
            return 429
        if self.mode == "flaky" and self.requests[key] == 1:
            return 500
        if any(word.encode() in body for word in self.bad_words):
            return 400
        return {"error": 400, "leaky": 400, "down": 503}.get(self.mode, 200)


@contextmanager
def serve_teacher() -> Iterator[TeacherServer]:
    """Serve until the block ends."""
    server = TeacherServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def requests_on_disk(run: Path, base_url: str) -> set[str]:
    """Return the hashes, as the server counts them, of all requests whose answers are in the journal."""
    path = run / "journal.sqlite"
    if not path.exists():
        return set()
    endpoint = Endpoint(base_url, MODEL, None, 1.0, 1, "response_format")
    with sqlite3.connect(path) as journal:
        try:
            rows = journal.execute("SELECT request FROM answers").fetchall()
        except sqlite3.OperationalError:  # killed before the tables were made
            return set()
    bodies = (json.dumps(body_of(endpoint, Call(**json.loads(row[0])))) for row in rows)
    return {hashlib.sha256(body.encode()).hexdigest() for body in bodies}


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: TeacherServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """List the model, or give what the batch API has."""
        path = self.path.partition("?")[0].removeprefix("/v1")
        server = self.server
        if server.key and self.headers.get("authorization") != f"Bearer {server.key}":
            return self._send(401, {"error": {"message": "no such key"}})
        if path != "/models" and self._is_busy():
            return None
        if path.startswith("/batches/") and path.removeprefix("/batches/") not in server.batches:
            return self._send(404, {"error": {"message": "no such batch"}})
        if path == "/batches":
            return self._send(200, {"data": list(server.batches.values())[::-1]})
        if path.startswith("/batches/"):
            batch = server.batches[path.removeprefix("/batches/")]
            if time.monotonic() >= batch["ends"] and batch["status"] == "in_progress":
                batch |= self._worked_off(server.files[batch["input_file_id"]])
            return self._send(200, batch)
        if path.startswith("/files/"):
            return self._send_bytes(200, server.files[path.split("/")[2]])
        return self._send(
            200, {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "t"}]}
        )

    def do_POST(self) -> None:
        """Answer a chat request by its schema."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path in ("/v1/files", "/v1/batches"):
            return None if self._is_busy() else self._take(body)
        request, server = json.loads(body), self.server
        is_probe = self.is_probe(request)
        with server.lock:
            server.keys.add(self.headers.get("authorization", ""))
            server.in_flight += 1
            server.probes += is_probe
            status = 200 if is_probe else server.status_of(body)
            if is_probe and server.probe_faults:
                server.probe_faults, status = server.probe_faults - 1, 503
        if server.delay:
            threading.Event().wait(server.delay)
        while b"patience" in body and server.answered < server.patience:
            threading.Event().wait(0.01)
        with server.lock:
            server.in_flight -= 1
            server.answered += 1
        if status != 200:
            key = self.headers.get("authorization", "") if server.mode == "leaky" else ""
            return self._send(status, {"error": {"message": f"this endpoint is broken{key}"}})
        return self._send(200, self._completion(request, server.mode if server.mode == "free" or not is_probe else ""))

    def is_probe(self, request: dict[str, Any]) -> bool:
        """Say whether a request only tries out structured output."""
        return "Say a word" in str(request.get("messages"))

    def _is_busy(self) -> bool:
        if not self.server.busy:
            return False
        self.server.busy -= 1
        self._send(503, {"error": {"message": "busy"}})
        return True

    def _take(self, body: bytes) -> None:
        """Take a file, or make a batch of one."""
        server = self.server
        if self.path == "/v1/files":
            boundary = self.headers["content-type"].partition("boundary=")[2].encode()
            part = next(part for part in body.split(b"--" + boundary) if b"filename" in part)
            name = f"file-{len(server.files)}"
            server.files[name] = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            return self._send(200, {"id": name})
        name = f"batch-{len(server.batches)}"
        ends = time.monotonic() + server.batch_seconds
        server.batches[name] = {**json.loads(body), "id": name, "status": "in_progress", "ends": ends}
        return self._send(200, server.batches[name])

    def _worked_off(self, content: bytes) -> dict[str, Any]:
        """Answer the lines of a batch, in another order; what is refused is in a file of its own."""
        server, results = self.server, {"output_file_id": [], "error_file_id": []}
        for line in reversed([json.loads(line) for line in content.splitlines()]):
            status = server.status_of(json.dumps(line["body"]).encode())
            error = {"error": {"message": "this endpoint is broken"}}
            body = self._completion(line["body"], server.mode) if status == 200 else error
            response = {"status_code": status, "body": body}
            name = "output_file_id" if status == 200 else "error_file_id"
            results[name].append(json.dumps({"custom_id": line["custom_id"], "response": response}))
        found: dict[str, Any] = {"status": "completed"}
        for name, lines in results.items():
            if lines:
                found[name] = f"file-{len(server.files)}"
                server.files[found[name]] = server.results or "\n".join(lines).encode()
        return found

    def _completion(self, request: dict[str, Any], mode: str) -> dict[str, Any]:
        told = request["messages"][-1]["content"].startswith("This answer is not valid: not JSON.")
        wrong = mode in ("garbage", "free") or (mode == "learner" and not told)
        text = "I am sorry, I cannot." if wrong else json.dumps(_answer(request))
        reason = "stop"
        if mode == "cut":
            text, reason = text[: len(text) // 2], "length"
        choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
        if self.server.surrogates:
            choice["message"] = {"role": "assistant", "content": f"{text}\ud83d"}
        if not self.server.tells_usage:
            usage = {}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": MODEL}
        return {**head, "choices": [choice], "usage": usage}

    def _send(self, status: int, content: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(content).encode())

    def _send_bytes(self, status: int, data: bytes) -> None:
        self.send_response(status)
        if status == 429 and self.server.retry_after:
            self.send_header("retry-after", self.server.retry_after)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _answer(request: dict[str, Any]) -> Any:
    """Make a value of the request's schema, the same for the same request."""
    question = next(turn["content"] for turn in reversed(request["messages"]) if turn["content"][:6] != "This a")
    rng = random.Random(hashlib.sha256(json.dumps(request["messages"]).encode()).digest())
    return _consistent(_value(request["response_format"]["json_schema"]["schema"], question, rng), rng)


def _value(schema: dict[str, Any], question: str, rng: random.Random) -> Any:
    if "anyOf" in schema:
        return _value(rng.choice(schema["anyOf"]), question, rng)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema["type"] == "boolean":
        return rng.random() < 0.5
    if schema["type"] == "integer":
        return rng.randint(schema["minimum"], schema["maximum"])
    if schema["type"] == "object":
        return {name: _value(part, question, rng) for name, part in schema["properties"].items()}
    if schema["type"] == "array":
        fewest = schema.get("minItems", 0)
        count = rng.randint(fewest, max(fewest, min(schema["maxItems"], 2)))
        return [_value(schema["items"], question, rng) for _ in range(count)]
    if schema.get("description") == "exact words of the text":
        return rng.choice(re.sub(r".*Text: ", "", question, flags=re.S).split())
    if "pattern" in schema or schema["maxLength"] < 130:
        return rng.choice(WORDS)
    return (
        f"{rng.choice(VERBS)} how {rng.choice(SUBJECTS)} of the text shows {rng.choice(WORDS)} and {rng.choice(WORDS)}."
    )


def _consistent(value: Any, rng: random.Random) -> Any:
    """Make the examples of a definition fit it, as a good teacher's do; labels and fields are distinct."""
    if not isinstance(value, dict) or "examples" not in value:
        return value
    for name in ("labels", "fields"):
        if value.get(name):
            value[name] = rng.sample(WORDS, len(value[name])) if name == "labels" else _fields(value[name], rng)
    for number, example in enumerate(value["examples"]):
        example["text"] = f"Text number {number} with a {rng.choice(WORDS)}."
        if value.get("labels"):
            example["output"] = rng.choice(value["labels"])
        elif "highest" in value:
            example["output"] = rng.randint(value["lowest"], value["highest"])
        elif "verbatim" in value:
            example["output"] = ["Text"]
        elif "fields" in value:
            example["output"] = [(part["values"] or ["Text"])[0] for part in value["fields"]]
    return value


def _fields(fields: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    names = rng.sample(WORDS, len(fields))
    return [
        {**part, "name": name, "values": rng.sample(WORDS, 2) if part["kind"] == "choice" else []}
        for part, name in zip(fields, names, strict=True)
    ]
