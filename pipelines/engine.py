"""Asks a teacher: requests stay in flight up to the limit until the last row, and an answer is on disk before its use.

There is no batch: each row is asked, checked and asked again on its own, and as many rows are open at a time as it
takes to keep the teacher busy, so memory does not grow with their number. One row's failure is a row in the journal.
"""

import asyncio
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Self, TypeVar

from pipelines.calls import Answer, Call
from pipelines.caps import Caps
from pipelines.dispatch import Dispatcher
from pipelines.journal import Journal, Row, Usage, Writer, answer_row, failure_row, hash_of, salvage
from pipelines.teachers import Backend, open_teacher
from pipelines.teachers.backend import CallFailedError, StoppedError, TransientError
from stillhouse.errors import RunError
from stillhouse.progress import BREAKER, BREAKER_FAILURES, BREAKER_WINDOW, Progress, Tally
from stillhouse.sections import Runtime, Teacher

Item = TypeVar("Item")
OpenTeacher = Callable[[Teacher, Runtime, Journal], AbstractAsyncContextManager[list[Backend]]]

RESUME = "All answers so far are kept; run the same command again to resume"
NO_USAGE = (
    "the teacher's server does not say how many tokens an answer takes, so runtime.max_tokens and runtime.max_cost "
    "cannot be kept; use runtime.max_calls instead"
)
TICK_SECONDS = 0.25
ROWS_BESIDES = 64  # open rows beyond those in flight: being checked, written, or waiting for a retry
RESERVE_BYTES = (1_000_000, 20_000)  # at least, and per request in flight


class Engine:
    """Asks one teacher, within one run. The teacher is opened when there is something to ask.

    `usage` sums the answers given since `begin`, `asked` counts the rows and `failed` those that have no answer.
    """

    def __init__(
        self,
        teacher: Teacher,
        runtime: Runtime,
        journal_path: Path,
        progress: Progress,
        open_teacher: OpenTeacher = open_teacher,
    ) -> None:
        """Prepare to ask; nothing is opened yet."""
        self._teacher, self._runtime, self._journal_path, self._progress = teacher, runtime, journal_path, progress
        self._open_teacher = open_teacher
        self._runner, self._open = asyncio.Runner(), AsyncExitStack()
        self._opening: asyncio.Lock | None = None
        self._dispatcher: Dispatcher | None = None
        self._recent: deque[bool] = deque(maxlen=BREAKER_WINDOW)
        self._stop_reason: BaseException | None = None
        self.begin()

    def __enter__(self) -> Self:
        """Open the journal; a damaged one is mended first, as far as it can be read."""
        saved = salvage(self._journal_path)
        if saved is not None:
            self._progress.warn(f"the journal was damaged: {saved:,} answers are recovered, the damaged file is kept")
        self._journal = Journal(self._journal_path)
        self._journal.send()
        self._journal.fold()
        self._known = self._journal.hashes()
        self._caps = Caps(self._runtime, self._teacher.price, self._journal.usage())
        return self

    def __exit__(self, *_: object) -> None:
        """Close the teacher and the journal."""
        self.rest()
        self._runner.close()
        self._journal.fold()
        self._journal.close()

    def open(self) -> None:
        """Open the teacher now. Raises as its backend does where it cannot be reached or loaded."""
        self._runner.run(self._opened())

    def rest(self) -> None:
        """Close the teacher, so that others have its room; it is opened again when there is something to ask."""
        self._runner.run(self._open.aclose())
        self._open, self._opening, self._dispatcher = AsyncExitStack(), None, None

    @property
    def spent(self) -> Usage:
        """Calls and tokens of all answers of the run folder."""
        return self._caps.used

    def begin(self) -> None:
        """Count from zero, for another stage."""
        self.usage, self.asked, self.failed = Usage(), 0, 0

    def each(
        self,
        items: Iterable[Item],
        handle: Callable[[Item], Awaitable[bool | None]],
        stage: str,
        total: int,
        label: str | None = None,
    ) -> None:
        """Call `handle` for every item, many at a time; it asks with `answer`.

        It returns whether the row is valid, or None where its call failed. `label` is what the progress is shown
        under. Raises RunError where more of the stage's rows failed than `runtime.max_failed_share` allows, where
        the circuit breaker opened (BREAKER), a cap is reached or the journal cannot be written, and KeyboardInterrupt
        after Ctrl-C: then all that was in flight is on disk.
        """
        self._stage, self._total, self._tally = stage, total, Tally()
        self._last_cause, self._stop_reason = "", None
        self._flying: dict[str, asyncio.Future[Answer | None]] = {}
        self.asked += total
        self._progress.start(label or stage, total)
        reason = self._runner.run(self._work_off(iter(items), handle))
        self._progress.tally(self._tally)
        self.failed += self._tally.failed
        if reason:
            raise reason
        self._refuse_failures()

    async def answer(self, call: Call, optional: bool = False) -> Answer | None:
        """Return the answer of a call, from the journal or from the teacher; None where it failed.

        An `optional` call that fails does not count against the teacher.
        """
        if call.call_id in self._flying:
            return await self._flying[call.call_id]
        is_known = hash_of(call.call_id) in self._known
        answer = self._journal.answer(call.call_id) if is_known else None
        if answer is not None:
            self._tally.journal += 1
        else:
            flight = self._flying[call.call_id] = asyncio.get_running_loop().create_future()
            try:
                answer = await self._ask(call, optional)
            finally:
                flight.set_result(answer)
                del self._flying[call.call_id]
        if answer is not None:
            self.usage.add(answer.prompt_tokens, answer.output_tokens)
        return answer

    async def _ask(self, call: Call, optional: bool) -> Answer | None:
        dispatcher = self._dispatcher or await self._opened()
        if self._stop_reason:
            raise StoppedError
        try:
            answer = await dispatcher.send(call)
        except CallFailedError as error:
            self._last_cause = str(error)
            await self._write(failure_row(self._stage, call, str(error)))
            self._note(failed=not optional)
            return None
        await self._write(answer_row(self._stage, call, answer))
        self._known.add(hash_of(call.call_id))
        if self._caps.is_blind(answer):
            self._stop(RunError(f"{NO_USAGE}. {RESUME}"))
        self._tally.prompt_tokens += answer.prompt_tokens
        self._tally.output_tokens += answer.output_tokens
        self._note(failed=False)
        return answer

    async def _write(self, row: Row) -> None:
        """Put a row on disk; nothing more is asked once that was only possible with the reserve, or is all there is."""
        await self._writer.put(row)
        if self._writer.fault:
            self._stop(RunError(f"{self._writer.fault}. {RESUME}"))

    async def _opened(self) -> Dispatcher:
        """Open the teacher, once."""
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if self._stop_reason:
                raise StoppedError
            if self._dispatcher is None:
                opening = self._open_teacher(self._teacher, self._runtime, self._journal)
                try:
                    backends = await self._open.enter_async_context(opening)
                except TransientError as error:
                    unreachable = RunError(f"teacher: {error}. {RESUME}")
                    self._stop(unreachable)
                    raise unreachable from error
                except Exception as error:
                    self._stop(error)  # before another row tries
                    raise
                self._dispatcher = Dispatcher(backends, self._runtime.retries, self._caps)
        return self._dispatcher

    def _note(self, failed: bool) -> None:
        """Open the circuit breaker where too many of the latest calls failed for good."""
        self._recent.append(failed)
        if sum(self._recent) >= BREAKER_FAILURES:
            self._stop(
                RunError(
                    f"stage {self._stage}: stopped because {BREAKER}. Last cause: {self._last_cause}. "
                    f"See all with `stillhouse inspect {self._journal_path.parent} failures`. {RESUME}"
                )
            )

    def _stop(self, reason: BaseException) -> None:
        """Send nothing more; the first reason is the one that is raised."""
        self._stop_reason = self._stop_reason or reason
        if self._dispatcher:
            self._dispatcher.stop()

    async def _work_off(
        self, items: Iterator[Item], handle: Callable[[Item], Awaitable[bool | None]]
    ) -> BaseException | None:
        async def work() -> None:
            for item in items:
                valid = await handle(item)
                self._tally.ok += valid is True
                self._tally.invalid += valid is False
                self._tally.failed += valid is None
                if self._stop_reason:
                    return

        def ended(task: "asyncio.Task[None]") -> None:
            error = task.exception()
            if error:
                self._stop(error)

        if self._dispatcher:
            self._dispatcher.stopped.clear()
        async with self._writing(), self._ticking():
            with self._interruptible():
                workers = [asyncio.create_task(work()) for _ in range(self._open_rows())]
                for worker in workers:
                    worker.add_done_callback(ended)
                await asyncio.wait(workers)
        return self._stop_reason

    def _open_rows(self) -> int:
        return min(2 * self._teacher.in_flight(self._runtime) + ROWS_BESIDES, max(self._total, 1))

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        least, each = RESERVE_BYTES
        self._writer = Writer(self._journal_path, least + each * self._teacher.in_flight(self._runtime))
        try:
            yield
        finally:
            await self._writer.close()

    @asynccontextmanager
    async def _ticking(self) -> AsyncIterator[None]:
        price = self._teacher.price

        async def tick() -> None:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                self._tally.cost, self._tally.currency = self._caps.cost, price.currency if price else ""
                self._tally.in_flight = (
                    sum(lane.in_flight for lane in self._dispatcher.lanes) if self._dispatcher else 0
                )
                self._progress.tally(self._tally)

        ticker = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticker.cancel()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C (or SIGTERM) finish what is in flight; pressed again, it ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupted(number: int, frame: FrameType | None) -> None:
            if self._stop_reason:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.raise_signal(signal.SIGINT)
            loop.call_soon_threadsafe(self._stop, KeyboardInterrupt())

        loop = asyncio.get_running_loop()
        before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _refuse_failures(self) -> None:
        if self.failed > self._runtime.max_failed_share * self.asked:
            raise RunError(
                f"stage {self._stage}: {self.failed} of {self.asked} teacher calls failed, more than "
                f"runtime.max_failed_share ({self._runtime.max_failed_share:g}) allows. "
                f"Last cause: {self._last_cause}. {RESUME}"
            )
