"""What a stage holds of a row by design: the same rows, answered at once by the journal of the run that was watched."""

import multiprocessing
import shutil
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import polars as pl
import psutil

from pipelines.calls import Answer, Call
from pipelines.engine import Engine
from pipelines.journal import Journal
from pipelines.teachers import Backend
from stillhouse.errors import RunError
from stillhouse.progress import Tally, Unseen
from stillhouse.recipe import load_recipe
from stillhouse.sections import Runtime, Teacher
from stillhouse.stages import build_of
from stillhouse.store import RunFolder


def replay(run: Path) -> pl.DataFrame:
    """Return the curve of memory (`uss_mb`) against `rows`, of a process of its own; the run is left as it is."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return pl.DataFrame(fresh.submit(_replay, run).result(), ["rows", "uss_mb"], orient="row")


def _replay(run: Path) -> list[tuple[int, float]]:
    with tempfile.TemporaryDirectory() as spare, Journal(run / "journal.sqlite") as journal:
        folder, watched = RunFolder(Path(spare) / "run"), _Watched()
        shutil.copytree(run, folder.path, ignore=shutil.ignore_patterns("journal*"))
        recipe = load_recipe(folder.recipe_path)

        @asynccontextmanager
        async def open_replay(teacher: Teacher, runtime: Runtime, _: Journal) -> AsyncIterator[list[Backend]]:
            yield [_Replay(journal, teacher.in_flight(runtime))]

        build = build_of(recipe, folder, watched)
        engine = Engine(recipe.teacher, recipe.runtime, folder.journal_path, watched, open_replay)
        with suppress(RunError), engine as build.engine:
            build.run("responses")
    return watched.samples


class _Replay:
    """A backend that gives the answers of a journal until there are no more."""

    name, adapts = "replay", False

    def __init__(self, journal: Journal, limit: int) -> None:
        self.limit = limit
        self._journal = journal

    async def send(self, call: Call) -> Answer:
        answer = self._journal.answer(call.call_id)
        if answer is None:
            raise RunError("that is all")
        return answer

    def stop(self) -> None:
        """Wait for nothing."""


class _Watched(Unseen):
    """Keeps how much memory there was at how many rows."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, float]] = []

    def tally(self, tally: Tally) -> None:
        self.samples.append((tally.done, psutil.Process().memory_full_info().uss / 1e6))
