"""Sends calls to one or several backends of a teacher: limits, retries, rests."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from pipelines.calls import Answer, Call
from pipelines.caps import Caps
from pipelines.teachers.backend import Backend, CallFailedError, StoppedError, TransientError

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before a retry: random, up to 0.5, 1, 2, 4 ... 60
LONGEST_RETRY_AFTER = 600.0  # seconds; a server that asks for more is taken to be out of order
TIRED_AFTER = 5  # attempts in a row that failed: then a backend is left alone
REST_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # of a server that refuses even one request at a time: 1, 2, 4 ... 60
LONGEST_REFUSED = 1800.0  # seconds; a call that is refused (429) for longer has failed


@dataclass
class Lane:
    """A backend and how much is sent to it now.

    The limit follows TCP's congestion control (RFC 5681): a refusal (429) halves it, once per round of requests; each
    answer raises it by one below the last half and by 1/limit above, so by one per round. A backend that refuses one
    request at a time is left alone for a pause that doubles until it answers; one that failed TIRED_AFTER times in a
    row is left alone for REST_SECONDS, then tried with one request.
    """

    backend: Backend
    limit: float = field(init=False)
    in_flight: int = 0
    failed_in_a_row: int = 0
    rests_until: float = 0.0
    _slow_from: float = field(init=False)
    _halved_at: float = 0.0
    _pause: float = FIRST_PAUSE

    def __post_init__(self) -> None:
        """Start at the full limit."""
        self.limit = self._slow_from = float(self.backend.limit)

    def is_free(self, now: float) -> bool:
        """Say whether a request may be sent now."""
        return now >= self.rests_until and self.in_flight < int(self.limit)

    def answered(self) -> int:
        """Take note of an answer; return by how many requests the limit has grown."""
        self.failed_in_a_row, self._pause, before = 0, FIRST_PAUSE, int(self.limit)
        self.limit = min(self.backend.limit, self.limit + (1 if self.limit < self._slow_from else 1 / self.limit))
        return int(self.limit) - before

    def failed(self, error: TransientError, sent_at: float, now: float) -> None:
        """Take note of a failed attempt that was sent at `sent_at`."""
        if not self.backend.adapts:
            return
        if error.throttled:
            if error.retry_after is None and self.limit < 2 and sent_at >= self._halved_at:
                self.rests_until = max(self.rests_until, now + self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            if sent_at >= self._halved_at:
                self.limit = self._slow_from = max(1.0, self.limit / 2)
                self._halved_at = now
            self.rests_until = max(self.rests_until, now + min(error.retry_after or 0.0, LONGEST_RETRY_AFTER))
            return
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= TIRED_AFTER:
            self.limit, self.rests_until = 1.0, now + REST_SECONDS


class Dispatcher:
    """Keeps requests in flight on every backend, up to its limit, and sends failed ones again."""

    def __init__(self, backends: Sequence[Backend], retries: int, caps: Caps) -> None:
        """Take the backends of one teacher, how often a failed request is sent again, and the caps."""
        self.lanes = [Lane(backend) for backend in backends]
        self.stopped = asyncio.Event()
        self._retries, self._caps = retries, caps
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._wait = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)

    async def send(self, call: Call) -> Answer:
        """Send a call until it is answered or has been retried often enough.

        Raises CallFailedError where it failed for good, StoppedError where the run stopped before it was sent,
        and RunError where a cap forbids it.
        """
        try:
            return await self._send_once(call)
        except TransientError as error:
            return await self._send_again(call, error)

    async def _send_again(self, call: Call, error: TransientError) -> Answer:
        """Go on after a first attempt that failed."""
        before, counted = [error], 0

        async def attempt() -> Answer:
            if before:
                raise before.pop()
            return await self._send_once(call)

        def is_enough(state: RetryCallState) -> bool:
            nonlocal counted
            last = state.outcome.exception() if state.outcome else None
            refused = isinstance(last, TransientError) and last.throttled
            counted += not refused  # a refusal is not the call's fault
            return counted > self._retries or (state.seconds_since_start or 0) > LONGEST_REFUSED

        retrying = AsyncRetrying(
            stop=is_enough,
            wait=self._seconds_before,
            retry=retry_if_exception_type(TransientError),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except TransientError as last:
            raise CallFailedError(str(last)) from last

    def stop(self) -> None:
        """Send nothing more; what is in flight is awaited by whoever sent it."""
        self.stopped.set()
        for lane in self.lanes:
            lane.backend.stop()
        self._wake(len(self._waiting))

    async def _send_once(self, call: Call) -> Answer:
        async with self._lane(call) as lane:
            with self._caps.admitted(call):
                sent_at = time.monotonic()
                try:
                    answer = await lane.backend.send(call)
                except TransientError as error:
                    lane.failed(error, sent_at, time.monotonic())
                    raise
                self._caps.take(answer)
            self._wake(lane.answered())
            return answer

    @asynccontextmanager
    async def _lane(self, call: Call) -> AsyncIterator[Lane]:
        """Wait for the least busy backend that may be sent something, and for room below the caps."""
        while not (lane := self._free_lane(call, now := time.monotonic())):
            await self._turn(now)
        lane.in_flight += 1
        try:
            yield lane
        finally:
            lane.in_flight -= 1
            self._wake(1)

    def _free_lane(self, call: Call, now: float) -> Lane | None:
        if self.stopped.is_set():
            raise StoppedError
        free = [lane for lane in self.lanes if lane.is_free(now)]
        if free and not self._caps.has_room(call):
            return None
        return min(free, key=lambda lane: lane.in_flight / lane.limit, default=None)

    async def _turn(self, now: float) -> None:
        """Wait until a request ended, or a backend has rested."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        rests = [lane.rests_until for lane in self.lanes if lane.rests_until > now]
        timer = loop.call_later(min(rests) - now, _finish, future) if rests else None
        try:
            await future
        finally:
            if timer:
                timer.cancel()

    def _wake(self, count: int) -> None:
        while count and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                count -= 1

    async def _sleep(self, seconds: float) -> None:
        """Wait before a retry; raise StoppedError as soon as the run stops."""
        try:
            await asyncio.wait_for(self.stopped.wait(), seconds)
        except TimeoutError:
            return
        raise StoppedError

    def _seconds_before(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, TransientError) and error.retry_after else 0.0
        return max(min(asked, LONGEST_RETRY_AFTER), self._wait(state))


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
