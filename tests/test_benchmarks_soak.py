"""The soak in short: an endpoint fails in eleven ways, and no answer is lost and no descriptor left open."""

from collections import Counter
from pathlib import Path

import psutil
import pytest

from benchmarks.soak import CONCURRENCY, Exactness, exactness, prepare, watch, with_by_design
from benchmarks.soak_replay import replay
from benchmarks.soak_server import DEALT, FAULTS, FaultyEndpoint, counts_of, faulty_endpoint
from pipelines.calls import Call
from pipelines.engine import Engine
from pipelines.journal import Journal
from stillhouse.progress import Unseen
from stillhouse.sections import Runtime, Teacher
from stillhouse.store import RunFolder
from tests.teacher_server import MODEL

ROWS = 300


def test_a_run_that_is_stopped_and_resumed_loses_nothing_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with faulty_endpoint() as endpoint:
        prepare(run, endpoint, ROWS)
        code, _ = watch(run, endpoint, seconds=3, every=0.5)
        first = exactness(run, endpoint)
        assert code == 1, "stopped"
        assert 0 < first.delivered < ROWS
        assert first == Exactness(first.delivered, lost=0, unknown=0, asked_again=0)
        code, samples = watch(run, endpoint, seconds=600, every=0.5)
        found = exactness(run, endpoint)
        given, delivered = endpoint.found()
        assert code == 0, (tmp_path / "run.log").read_text("utf-8")
        assert found == Exactness(found.delivered, lost=0, unknown=0, asked_again=0)
        assert endpoint.figures()["server_open"] == 0
    counts = counts_of(given, delivered)
    assert [kind for kind in FAULTS if not counts[kind][0]] == [], "each fault was met"
    statuses = Counter(RunFolder(run).read_table("responses")["status"])
    assert statuses.total() == ROWS
    with Journal(run / "journal.sqlite") as journal:
        failed = [failure for failure in journal.failures() if not failure[-1]]
    assert statuses["failed"] == len(failed) == len(given) - len(delivered)
    assert statuses["valid"] > 0.9 * ROWS
    assert samples["descriptors"].max() < 80  # type: ignore[operator]


def test_descriptors_return_to_their_level(tmp_path: Path) -> None:
    with faulty_endpoint() as endpoint:
        _ask(tmp_path / "one", endpoint, range(10))  # what is opened once and stays
        before = psutil.Process().num_fds()
        _ask(tmp_path / "two", endpoint, range(DEALT))
        assert psutil.Process().num_fds() == before


def _ask(journal: Path, endpoint: FaultyEndpoint, numbers: range) -> None:
    teacher = Teacher(backend="endpoint", base_url=endpoint.base_url, model=MODEL, api="chat")
    with Engine(teacher, Runtime(concurrency=32, timeout=1.0), journal, Unseen()) as engine:

        async def handle(number: int) -> bool | None:
            prompt = [{"role": "user", "content": f"{journal}: {number}"}]
            call = Call(MODEL, None, "chat", prompt, {"enum": ["calm", "angry"]}, 0.5, 20, 1)
            return True if await engine.answer(call) else None

        engine.each(numbers, handle, "responses", len(numbers))


@pytest.mark.prove
def test_three_minutes_are_flat(tmp_path: Path) -> None:
    """Besides the rows themselves; some thousand requests fail, so that a leak of 10 kB or a descriptor each shows."""
    run = tmp_path / "run"
    with faulty_endpoint() as endpoint:
        prepare(run, endpoint, 20_000)
        code, samples = watch(run, endpoint, seconds=180)
        found = exactness(run, endpoint)
    assert code == 1, "stopped"
    assert found.delivered > 3000
    assert found == Exactness(found.delivered, lost=0, unknown=0, asked_again=0)
    warm = with_by_design(samples, replay(run))[len(samples) // 5 :]
    own = warm["uss_mb"] - warm["by_design_mb"]
    assert own[-5:].mean() - own[:5].mean() < 3  # type: ignore[operator]
    assert warm["descriptors"].max() - warm["descriptors"].median() < CONCURRENCY  # type: ignore[operator]
