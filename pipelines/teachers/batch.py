"""A backend that is a provider's batch API in OpenAI's format: half the price, answers within a day.

Calls are gathered into a file, which is one batch. The journal notes a batch before it is paid for; a run that was
stopped waits for the batches that it had sent instead of sending them again.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from pipelines.calls import Answer, Call
from pipelines.journal import Journal
from pipelines.teachers.backend import CallFailedError, StoppedError, TransientError
from pipelines.teachers.endpoint import BUSY, CAUSE_SHOWN, NO_COMPLETION, EndpointBackend, answer_of, body_of, said
from stillhouse.errors import RunError

GATHER_SECONDS = 2.0  # without a further call: then the batch is sent
MAX_BYTES = 90_000_000
FIRST_POLL, LONGEST_POLL, POLL_GROWTH = 1.0, 60.0, 1.5  # seconds
PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
GONE = {404, 410}
ENDED = {"completed", "failed", "expired", "cancelled"}
NOTE = "batch "
LISTED = 100  # latest batches of the provider that are searched for one whose number was not noted in time


class GoneError(RunError):
    """What was asked for is not there, or not any more."""


class BatchBackend:
    """Gathers calls into batches and waits for them."""

    adapts = False

    def __init__(self, endpoint: EndpointBackend, journal: Journal) -> None:
        """Take the endpoint of the provider, and the journal that knows of earlier batches."""
        self.name, self.limit = endpoint.name, endpoint.limit
        self._endpoint, self._journal = endpoint, journal
        self._waiting: dict[str, tuple[Call, asyncio.Future[Answer]]] = {}
        self._gathered: list[str] = []
        self._bytes = 0
        self._came = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._earlier: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def send(self, call: Call) -> Answer:
        """Send a call with the next batch, or take its answer from a batch of an earlier run; see `Backend`."""
        if call.call_id in self._earlier:
            task = self._earlier.pop(call.call_id)
            await asyncio.wait([task])
            if task.cancelled():
                raise StoppedError
            known = task.result().get(call.call_id)
            if known is not None:
                return self._read(call, known, "completed")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[call.call_id] = call, future
        self._gathered.append(call.call_id)
        self._bytes += len(call.json)
        self._came.set()
        if len(self._gathered) == 1:
            self._start(self._gather())
        return await future

    def stop(self) -> None:
        """Wait no longer: a later run fetches what the provider has been sent."""
        for task in self._tasks:
            task.cancel()
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(StoppedError())

    async def resume(self) -> None:
        """Take up the batches of earlier runs that hold answers which the journal does not."""
        for key, value in self._journal.notes(NOTE):
            note = json.loads(value)
            if all(self._journal.answer(call_id) for call_id in note["calls"]):
                continue
            batch = note["batch"] or await self._find(key.removeprefix(NOTE))
            if batch:
                task = asyncio.create_task(self._earlier_results(batch))
                self._tasks.add(task)
                self._earlier.update(dict.fromkeys(note["calls"], task))

    async def _earlier_results(self, batch: str) -> dict[str, Any]:
        """Return the results of a batch of an earlier run that are answers; calls without one are asked again."""
        try:
            _, results = await self._results(batch)
        except GoneError:  # the provider has thrown the batch or its file away
            return {}
        return {
            key: result
            for key, result in results.items()
            if isinstance(result, dict) and (result.get("response") or {}).get("status_code") == 200
        }

    def _start(self, gathering: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(gathering)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Tell those who wait where a provider's reply was not understood; nobody waits for ever."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error:
            for _, future in self._waiting.values():
                if not future.done():
                    future.set_exception(error if isinstance(error, RunError) else _not_understood(error))

    async def _gather(self) -> None:
        """Wait until no further call comes or the file is large enough, then send the batch and wait for it."""
        while self._bytes < MAX_BYTES:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), GATHER_SECONDS)
            except TimeoutError:
                break
        gathered, self._gathered, self._bytes = self._gathered, [], 0
        batch = await self._submit([self._waiting[call_id][0] for call_id in gathered])
        state, results = await self._results(batch)
        if state == "failed":
            raise RunError(f"teacher {self.name} refuses batch {batch}: {self._redacted(results['errors'])}")
        for call_id in gathered:
            call, future = self._waiting.pop(call_id)
            try:
                future.set_result(self._read(call, results.get(call_id), state))
            except (TransientError, CallFailedError) as error:
                future.set_exception(error)

    async def _submit(self, calls: list[Call]) -> str:
        """Return the number of a new batch. It is noted before it is made, and once more with its number."""
        path = PATHS[calls[0].api]
        lines = [
            {"custom_id": call.call_id, "method": "POST", "url": path, "body": body_of(self._endpoint.endpoint, call)}
            for call in calls
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        file = str(_member(await self._patiently("POST", "/files", content), "id"))
        note: dict[str, Any] = {"calls": [call.call_id for call in calls], "batch": None}
        self._journal.set_note(NOTE + file, json.dumps(note))
        request = json.dumps({"input_file_id": file, "endpoint": path, "completion_window": "24h"})
        while note["batch"] is None:
            try:
                note["batch"] = str(_member(_parsed(await self._reply("POST", "/batches", request)), "id"))
            except TransientError:  # the reply may have been lost after the batch was made
                note["batch"] = await self._find(file)
        self._journal.set_note(NOTE + file, json.dumps(note))
        return str(note["batch"])

    async def _find(self, file: str) -> str | None:
        """Return the batch that was made of a file, where its number could not be noted."""
        batches = _member(await self._patiently("GET", f"/batches?limit={LISTED}"), "data")
        return next((str(_member(one, "id")) for one in batches if _member(one, "input_file_id") == file), None)

    async def _results(self, batch: str) -> tuple[str, dict[str, Any]]:
        """Wait for a batch; return how it ended and its results by call id, or `errors` of one that failed."""
        pause = FIRST_POLL
        while (status := _member(state := await self._patiently("GET", f"/batches/{batch}"), "status")) not in ENDED:
            await asyncio.sleep(pause)
            pause = min(pause * POLL_GROWTH, LONGEST_POLL)
        if status == "failed":
            return status, {"errors": state.get("errors")}
        results: dict[str, Any] = {}
        for file in filter(None, (state.get("output_file_id"), state.get("error_file_id"))):
            content = await self._patiently("GET", f"/files/{file}/content", parse=False)
            for line in filter(None, content.split(b"\n")):
                try:
                    result = json.loads(line)
                    results[str(result["custom_id"])] = result
                except (ValueError, TypeError, KeyError):
                    continue  # its call has no result, which is said of it
        return status, results

    def _read(self, call: Call, result: Any, state: str) -> Answer:
        """Return the answer of a line of results. Raises as `Backend.send` does."""
        if result is None and state == "completed":  # paid for, perhaps: not to be asked again in this run
            raise CallFailedError("the batch is completed, and has no readable result of this call")
        if result is None:
            raise TransientError(f"the batch is {state}, without this call")
        response = result.get("response")
        known = response if isinstance(response, dict) else {}
        status, body = known.get("status_code"), known.get("body")
        if status == 200:
            try:
                return answer_of(call, body, 0.0)
            except NO_COMPLETION as error:
                raise CallFailedError(f"HTTP 200, but no completion ({type(error).__name__}: {error})") from error
        cause = self._redacted(f"HTTP {status}: {said(json.dumps(body or {'error': result.get('error')}).encode())}")
        if status is None or status in BUSY:
            raise TransientError(cause)
        raise CallFailedError(cause)

    def _redacted(self, said: Any) -> str:
        text = said if isinstance(said, str) else json.dumps(said)
        return self._endpoint.endpoint.redact(text)[:CAUSE_SHOWN]

    async def _patiently(self, method: str, path: str, file: bytes | None = None, parse: bool = True) -> Any:
        """Return a reply to a request that may be repeated, as long as it takes. Raises RunError as `_reply` does."""
        pause = FIRST_POLL
        while True:
            form = None
            if file is not None:
                form = aiohttp.FormData()
                form.add_field("purpose", "batch")
                form.add_field("file", file, filename="stillhouse.jsonl")
            try:
                content = await self._reply(method, path, form)
                return _parsed(content) if parse else content
            except TransientError:
                await asyncio.sleep(pause)
                pause = min(pause * POLL_GROWTH, LONGEST_POLL)

    async def _reply(self, method: str, path: str, body: Any = None) -> bytes:
        """Return a reply of the provider. Raises TransientError where it is busy, RunError where it refuses."""
        status, _, content = await self._endpoint.request(method, path, body, most=sys.maxsize)
        if status == 200:
            return content
        cause = self._redacted(f"{path}: HTTP {status}: {said(content)}")
        if status in BUSY:
            raise TransientError(cause)
        raise GoneError(cause) if status in GONE else RunError(f"teacher {self.name}, batch API: {cause}")


@asynccontextmanager
async def open_batch(endpoint: EndpointBackend, journal: Journal) -> AsyncIterator[BatchBackend]:
    """Yield the batch API of an endpoint, with the batches of earlier runs taken up."""
    backend = BatchBackend(endpoint, journal)
    await backend.resume()
    try:
        yield backend
    finally:
        backend.stop()


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise _not_understood(error) from error


def _member(reply: Any, key: str) -> Any:
    if not isinstance(reply, dict) or key not in reply:
        raise RunError(f"the provider's batch API is not OpenAI's: a reply has no `{key}`")
    return reply[key]


def _not_understood(error: BaseException) -> RunError:
    return RunError(f"the provider's batch API sends what is not understood ({type(error).__name__}: {error})")
