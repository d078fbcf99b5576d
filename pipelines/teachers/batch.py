"""A backend that is a provider's batch API in OpenAI's format: half the price, answers within a day.

Calls are gathered into a file, which is one batch. The journal notes a batch before it is paid for; a run that was
stopped waits for the batches that it had sent instead of sending them again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from pipelines.calls import Answer, Call
from pipelines.journal import Journal
from pipelines.teachers.backend import CallFailedError, StoppedError, TransientError
from pipelines.teachers.endpoint import BUSY, CAUSE_SHOWN, EndpointBackend, answer_of, body_of, said
from stillhouse.errors import RunError

GATHER_SECONDS = 2.0  # without a further call: then the batch is sent
MAX_BYTES = 90_000_000
FIRST_POLL, LONGEST_POLL, POLL_GROWTH = 1.0, 60.0, 1.5  # seconds
PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
ENDED = {"completed", "failed", "expired", "cancelled"}
NOTE = "batch "
LISTED = 100  # latest batches of the provider that are searched for one whose number was not noted in time

Result = dict[str, Any]


class BatchBackend:
    """Gathers calls into batches and waits for them."""

    def __init__(self, endpoint: EndpointBackend, journal: Journal) -> None:
        """Take the endpoint of the provider, and the journal that knows of earlier batches."""
        self.name, self.limit = endpoint.name, endpoint.limit
        self._endpoint, self._journal = endpoint, journal
        self._waiting: dict[str, tuple[Call, asyncio.Future[Answer]]] = {}
        self._gathered: list[str] = []
        self._bytes = 0
        self._came = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._earlier: dict[str, asyncio.Task[dict[str, Result]]] = {}

    async def send(self, call: Call) -> Answer:
        """Send a call with the next batch, or take its answer from a batch of an earlier run; see `Backend`."""
        if call.call_id in self._earlier:
            task = self._earlier.pop(call.call_id)
            await asyncio.wait([task])
            if task.cancelled():
                raise StoppedError
            if call.call_id in task.result():
                return _read(call, task.result()[call.call_id])
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
                task = asyncio.create_task(self._results(batch, is_earlier=True))
                self._tasks.add(task)
                self._earlier.update(dict.fromkeys(note["calls"], task))

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
                    future.set_exception(RunError(f"teacher {self.name}, batch API: {type(error).__name__}: {error}"))

    async def _gather(self) -> None:
        """Wait until no further call comes or the file is large enough, then send the batch and wait for it."""
        while self._bytes < MAX_BYTES:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), GATHER_SECONDS)
            except TimeoutError:
                break
        gathered, self._gathered, self._bytes = self._gathered, [], 0
        try:
            results = await self._results(await self._submit([self._waiting[call_id][0] for call_id in gathered]))
        except (TransientError, RunError) as error:
            for call_id in gathered:
                self._waiting.pop(call_id)[1].set_exception(error)
            return
        for call_id in gathered:
            call, future = self._waiting.pop(call_id)
            try:
                future.set_result(_read(call, results.get(call_id)))
            except (TransientError, CallFailedError) as error:
                future.set_exception(error)

    async def _submit(self, calls: list[Call]) -> str:
        """Return the number of a new batch. It is noted before it is made, and once more with its number."""
        path = PATHS[calls[0].api]
        lines = (
            {"custom_id": call.call_id, "method": "POST", "url": path, "body": body_of(self._endpoint.endpoint, call)}
            for call in calls
        )
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", "\n".join(map(json.dumps, lines)).encode(), filename="stillhouse.jsonl")
        file = str(_member(await self._ask("POST", "/files", form), "id"))
        note: dict[str, Any] = {"calls": [call.call_id for call in calls], "batch": None}
        self._journal.set_note(NOTE + file, json.dumps(note))
        request = {"input_file_id": file, "endpoint": path, "completion_window": "24h"}
        try:
            note["batch"] = str(_member(await self._ask("POST", "/batches", json.dumps(request)), "id"))
        except TransientError:  # the reply may have been lost after the batch was made
            note["batch"] = await self._find(file)
            if note["batch"] is None:
                raise
        self._journal.set_note(NOTE + file, json.dumps(note))
        return str(note["batch"])

    async def _find(self, file: str) -> str | None:
        """Return the batch that was made of a file, where the run ended before its number was noted."""
        batches = _member(await self._ask("GET", f"/batches?limit={LISTED}"), "data")
        return next((str(_member(one, "id")) for one in batches if _member(one, "input_file_id") == file), None)

    async def _results(self, batch: str, is_earlier: bool = False) -> dict[str, Result]:
        """Wait for a batch; return its results by call id.

        Raises RunError where the provider refuses it as a whole; one of an earlier run then has no results.
        """
        pause = FIRST_POLL
        while _member(state := await self._state(batch), "status") not in ENDED:
            await asyncio.sleep(pause)
            pause = min(pause * POLL_GROWTH, LONGEST_POLL)
        if state["status"] == "failed" and is_earlier:
            return {}
        if state["status"] == "failed":
            raise RunError(
                f"teacher {self.name} refuses batch {batch}: {json.dumps(state.get('errors'))[:CAUSE_SHOWN]}"
            )
        results: dict[str, Any] = {}
        for file in filter(None, (state.get("output_file_id"), state.get("error_file_id"))):
            _, content = await self._reply("GET", f"/files/{file}/content")
            for line in content.decode("utf-8", "replace").splitlines():
                result = _parsed(line)
                results[str(_member(result, "custom_id"))] = result
        return results

    async def _state(self, batch: str) -> Any:
        """Return what the provider says of a batch; while it does not answer, it is taken to go on."""
        try:
            return await self._ask("GET", f"/batches/{batch}")
        except TransientError:
            return {"status": "unknown"}

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        _, content = await self._reply(method, path, body)
        return _parsed(content)

    async def _reply(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return a reply of the provider. Raises TransientError where it is busy, RunError where it refuses."""
        status, _, content = await self._endpoint.request(method, path, body)
        if status == 200:
            return status, content
        cause = self._endpoint.endpoint.redact(f"{path}: HTTP {status}: {said(content)}")[:CAUSE_SHOWN]
        if status in BUSY:
            raise TransientError(cause)
        raise RunError(f"teacher {self.name}, batch API: {cause}")


@asynccontextmanager
async def open_batch(endpoint: EndpointBackend, journal: Journal) -> AsyncIterator[BatchBackend]:
    """Yield the batch API of an endpoint, with the batches of earlier runs taken up."""
    backend = BatchBackend(endpoint, journal)
    await backend.resume()
    try:
        yield backend
    finally:
        backend.stop()


def _parsed(content: str | bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise RunError(f"the provider's batch API sends what is no JSON ({error})") from error


def _member(reply: Any, key: str) -> Any:
    if not isinstance(reply, dict) or key not in reply:
        raise RunError(f"the provider's batch API is not OpenAI's: a reply has no `{key}`")
    return reply[key]


def _read(call: Call, result: Result | None) -> Answer:
    """Return the answer of a line of results. Raises as `Backend.send` does."""
    if result is None:
        raise TransientError("the batch ended without this call")
    response = result.get("response")
    status, body = (response.get("status_code"), response.get("body")) if isinstance(response, dict) else (None, None)
    if status == 200:
        try:
            return answer_of(call, body, 0.0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise TransientError(f"HTTP 200, but no completion ({type(error).__name__}: {error})") from error
    cause = f"HTTP {status}: {said(json.dumps(body or {'error': result.get('error')}).encode())}"[:CAUSE_SHOWN]
    if status is None or status in BUSY:
        raise TransientError(cause)
    raise CallFailedError(cause)
