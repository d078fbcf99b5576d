"""The only file that knows distilabel: it runs a stage's calls through a pipeline, into the journal.

distilabel's own resume hangs and its cache ignores code, so both stay off. Only calls that the journal does
not hold are fed to it, its LLM writes each answer to the journal before giving it back, and the stage reads
its answers from there: a row that distilabel drops, doubles or turns into None cannot change a table.
"""

import asyncio
import logging
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import parent_process
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("DISTILABEL_LOG_LEVEL", "ERROR")  # read by distilabel when it is imported
warnings.filterwarnings("ignore", category=UserWarning, module="pydantic")

from datasets import Dataset
from distilabel.constants import SIGINT_HANDLER_CALLED_ENV_NAME
from distilabel.models.llms import LLM
from distilabel.pipeline import Pipeline
from distilabel.steps.tasks import Task
from openai import APIError
from pydantic import PrivateAttr

from pipelines.calls import Answer, Call
from pipelines.journal import Journal, Usage
from pipelines.teachers.endpoint import Endpoint, send
from stillhouse.errors import RunError
from stillhouse.progress import Progress
from stillhouse.recipe import Runtime

if TYPE_CHECKING:
    from openai import AsyncOpenAI

sys.excepthook = sys.__excepthook__  # distilabel installs one that prints all local variables, keys included
RESUME = "All answers so far are kept; run the same command again to resume"
POLL_SECONDS = 0.25
FULL_DISK_BYTES = 1_000_000

FollowUp = Callable[[Call, Answer], Call | None]

# What is asked next, given an answer. A function cannot be sent to distilabel's processes: they inherit it by forking.
_follow_up: list[FollowUp] = []
_in_flight: set[str] = set()  # call ids that this (child) process has sent and not yet written down


@dataclass
class Engine:
    """Asks one teacher, within one run. `endpoint` starts the teacher, when there is something to ask.

    `usage` sums the answers given so far, `asked` counts the calls and `failed` those that have no answer.
    """

    endpoint: Callable[[], Endpoint]
    journal_path: Path
    runtime: Runtime
    progress: Progress
    usage: Usage = field(default_factory=Usage)
    asked: int = 0
    failed: int = 0

    def ask(
        self,
        stage: str,
        calls: Sequence[Call],
        follow_up: FollowUp | None = None,
        label: str | None = None,
        optional: bool = False,
    ) -> dict[str, Answer]:
        """Return the answers of `calls` by call id, asking only for those that the journal does not hold.

        `follow_up` names the call that is made as soon as an answer is there, if any; its own answer is in the journal
        when it is asked for. `label` is what the progress is shown under. A call that failed is missing from the
        result; it does not count as failed where it is `optional`. Raises RunError where more of the stage's calls
        failed than `runtime.max_failed_share` allows, or where the run was stopped before all were sent.
        """
        started = time.time()
        wanted = {call.call_id: call for call in calls}
        known = self._answers(wanted)
        missing = [call for call_id, call in wanted.items() if call_id not in known]
        missing.sort(key=lambda call: str(call.prompt))  # a shared beginning is computed once by most servers
        self.asked += 0 if optional else len(wanted)
        self.progress.start(label or stage, total=len(wanted), done=len(known))
        if missing:
            _follow_up[:] = [follow_up] if follow_up else []
            self._run_pipeline(stage, missing, done=len(known))
        answers = {**known, **self._answers(call.call_id for call in missing)}
        with Journal(self.journal_path) as journal:
            failures = journal.failures_since(started)
        failures = {key: failures[key] for key in wanted if key in failures and key not in answers}
        if not optional:
            self._refuse_failures(stage, failures)
            self.failed += len(failures)
        self._refuse_unsent(stage, len(wanted), len(wanted) - len(answers) - len(failures))
        self.usage = self.usage.plus(answers.values())
        return answers

    def _answers(self, wanted: Iterable[str]) -> dict[str, Answer]:
        with Journal(self.journal_path) as journal:
            return journal.answers(wanted)

    def _run_pipeline(self, stage: str, calls: Sequence[Call], done: int) -> None:
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as cache, _own_signals_and_logging():
            with StoppablePipeline(name=f"stillhouse-{stage}", cache_dir=cache, enable_metadata=False) as pipeline:
                AskTeacher(
                    llm=JournaledTeacher(
                        endpoint=self.endpoint(),
                        journal_path=str(self.journal_path),
                        stage=stage,
                        concurrency=self.runtime.concurrency,
                    ),
                    input_batch_size=self.runtime.batch_rows,
                    add_raw_output=False,
                    add_raw_input=False,
                )
            rows = Dataset.from_dict({"call": [call.to_json() for call in calls]})
            with self._watch(pipeline, done, done + len(calls)):
                pipeline.run(dataset=rows, dataset_batch_size=self.runtime.batch_rows, use_cache=False)
        if pipeline.interrupted:
            raise KeyboardInterrupt

    @contextmanager
    def _watch(self, pipeline: "StoppablePipeline", done: int, total: int) -> Iterator[None]:
        """Show progress from what is on disk, while distilabel holds the main thread.

        The journal is opened only after distilabel has forked: a child that inherits an open SQLite connection, or
        one of SQLite's locks, hangs or damages the file.
        """
        finished = threading.Event()

        def follow() -> None:
            pipeline.forked.wait()
            with Journal(self.journal_path) as journal:
                before = journal.last_row()
                while not finished.wait(POLL_SECONDS):
                    usage = journal.usage(before)
                    self.progress.update(done=min(done + usage.calls, total), tokens=usage.output_tokens)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            pipeline.forked.set()
            finished.set()
            thread.join()

    def _refuse_failures(self, stage: str, failures: dict[str, str]) -> None:
        count = self.failed + len(failures)
        if count > self.runtime.max_failed_share * self.asked:
            raise RunError(
                f"stage {stage}: {count} of {self.asked} teacher calls failed, more than "
                f"runtime.max_failed_share ({self.runtime.max_failed_share:g}) allows. "
                f"Last cause: {list(failures.values())[-1]}. {RESUME}"
            )

    def _refuse_unsent(self, stage: str, wanted: int, unsent: int) -> None:
        if unsent:
            free = shutil.disk_usage(self.journal_path.parent).free
            full = f"The disk of {self.journal_path.parent} is full. " if free < FULL_DISK_BYTES else ""
            raise RunError(f"stage {stage}: stopped with {unsent} of {wanted} calls not sent. {full}{RESUME}")


class StoppablePipeline(Pipeline):  # type: ignore[misc]
    """A pipeline that remembers Ctrl-C; distilabel's own returns as if all were well, and hangs at the second."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what distilabel's pipeline takes."""
        super().__init__(*args, **kwargs)
        self.interrupted = False
        self.forked = threading.Event()

    def _handle_keyboard_interrupt(self) -> Any:
        self.forked.set()  # distilabel calls this right after it has started its processes

        def stop(signal_number: int, frame: object) -> None:
            if self.interrupted:
                os._exit(1)  # pressed again: what is answered is on disk, and the children end with this process
            self.interrupted = True
            self._stop()

        return signal.signal(signal.SIGINT, stop)


class JournaledTeacher(LLM):  # type: ignore[misc]
    """distilabel's view of a teacher. It never raises: an exception here would empty the whole batch."""

    endpoint: Endpoint
    journal_path: str
    stage: str
    concurrency: int
    _journal_is_broken: bool = PrivateAttr(default=False)

    @property
    def model_name(self) -> str:
        """Return the name of the teacher model."""
        return self.endpoint.model

    def generate(self, inputs: list[str], num_generations: int = 1) -> list[dict[str, Any]]:
        """Ask all calls (each in its JSON form) at once, up to the concurrency limit."""
        with Journal(Path(self.journal_path)) as journal:
            texts = asyncio.run(self._ask_all([Call.from_json(text) for text in inputs], journal))
        return [{"generations": [text] * num_generations} for text in texts]

    async def _ask_all(self, calls: list[Call], journal: Journal) -> list[str | None]:
        limit = asyncio.Semaphore(self.concurrency)
        async with self.endpoint.client() as client:
            return list(await asyncio.gather(*(self._ask(client, call, journal, limit) for call in calls)))

    async def _ask(self, client: "AsyncOpenAI", call: Call, journal: Journal, limit: asyncio.Semaphore) -> str | None:
        """Ask a call and what follows from its answer; return the first answer's text."""
        first: str | None = None
        asked: Call | None = call
        while asked:
            answer = journal.answers([asked.call_id]).get(asked.call_id)
            answer = answer or await self._send(client, asked, journal, limit)
            first = answer.text if answer and first is None else first
            asked = _follow_up[0](asked, answer) if answer and _follow_up else None
        return first

    async def _send(
        self, client: "AsyncOpenAI", call: Call, journal: Journal, limit: asyncio.Semaphore
    ) -> Answer | None:
        async with limit:
            if self._journal_is_broken or _run_is_over():
                return None
            _in_flight.add(call.call_id)
            try:
                answer = await send(client, self.endpoint, call)
                journal.record(self.stage, call, answer)
            except (APIError, ValueError, TypeError, IndexError, AttributeError) as error:
                # A failed request, or a 200 that is no completion. The cause is on disk, the row stays alone with it.
                cause = self.endpoint.redact(f"{type(error).__name__}: {error}")[:500]
                journal.record_failure(self.stage, call, cause)
                return None
            except sqlite3.Error:  # nothing more may be paid for that cannot be kept; the run says what is not sent
                self._journal_is_broken = True
                return None
            finally:
                _in_flight.discard(call.call_id)
            return answer


class AskTeacher(Task):  # type: ignore[misc]
    """A step that sends the column `call`; its output is read from the journal, so it keeps nothing."""

    @property
    def inputs(self) -> list[str]:
        """Return the column that is read."""
        return ["call"]

    @property
    def outputs(self) -> list[str]:
        """Return the column that is added."""
        return ["answered"]

    def format_input(self, input: dict[str, Any]) -> str:
        """Hand the call over as it is."""
        return str(input["call"])

    def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """Say whether there is an answer."""
        return {"answered": output is not None}


def _run_is_over() -> bool:
    """Say whether Ctrl-C was pressed, or the main process is gone: then nothing more may be spent."""
    parent = parent_process()
    return SIGINT_HANDLER_CALLED_ENV_NAME in os.environ or (parent is not None and not parent.is_alive())


def _end_with_parent(_: object) -> None:
    """End this child process when the main process is gone, once what is in flight is written down."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            while _in_flight:
                time.sleep(POLL_SECONDS)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


register_after_fork(_in_flight, _end_with_parent)


@contextmanager
def _own_signals_and_logging() -> Iterator[None]:
    """Undo what distilabel does to the process: its SIGINT handler, and a root logger into a closed queue."""
    root, handler = logging.getLogger(), signal.getsignal(signal.SIGINT)
    handlers, level = root.handlers[:], root.level
    raising, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        root.handlers[:], logging.raiseExceptions = handlers, raising
        root.setLevel(level)
