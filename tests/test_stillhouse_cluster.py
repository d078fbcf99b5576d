"""On a real Ray cluster of several nodes a run gives the same bytes, also where workers and nodes die."""

import asyncio
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import ray

from curation import difficulty, scoring, vectors
from pipelines.calls import Call
from pipelines.teachers import replicas
from pipelines.teachers.backend import TransientError
from pipelines.teachers.replicas import Replica, ReplicaBackend
from stillhouse.checks import examined
from stillhouse.cluster import FOREVER, Cluster
from stillhouse.errors import InputError, RunError
from stillhouse.models import cpu_threads
from stillhouse.near_duplicates import find_across_blocks, find_near_duplicates
from stillhouse.needs import _cluster
from stillhouse.places import Here, unheard
from stillhouse.progress import Unseen
from stillhouse.recipe import load_recipe
from stillhouse.schemas import TABLES
from stillhouse.sections import Runtime
from stillhouse.stages import build_of
from stillhouse.store import RunFolder
from tests.conftest import DEMO_TEXTS, endpoint_teacher, stillhouse, write_recipe
from tests.ray_cluster import STORE_BYTES, Mortal, Nodes, lengths_of, ray_nodes, refusing, threads, until
from tests.teacher_server import TeacherServer
from tests.test_stillhouse_near_duplicates import clustered
from tests.tiny_student import write_student

pytestmark = pytest.mark.xdist_group("ray")
CALL = Call("m", None, "chat", "prompt", None, 0.0, 5, 1)
CHUNKS = [[f"{number:08}" + "x" * 4_000_000] for number in range(50)]  # more than all object stores hold


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes() as started:
        yield started


@pytest.fixture
def place(nodes: Nodes) -> Iterator[Cluster]:
    with Cluster(Runtime(ray=nodes.address)) as joined:
        yield joined


def test_a_run_gives_the_same_bytes(
    nodes: Nodes, tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small chunks and blocks, so that both nodes have many; the student and the encoder are real models."""
    monkeypatch.setenv("TEACHER_KEY", "key")
    monkeypatch.setattr(vectors, "ENCODED_AT_ONCE", 3)
    monkeypatch.setattr(difficulty, "CHUNK", 3)
    monkeypatch.setattr(scoring, "BLOCK_ROWS", 4)
    student = str(write_student(tmp_path / "student"))
    made: dict[str | None, dict[str, bytes]] = {}
    for address in (None, nodes.address):
        recipe = load_recipe(
            write_recipe(
                tmp_path,
                teacher=endpoint_teacher(teacher_server),
                curation={"student": student, "similarity": 0.7, "rate": 0.5},
                runtime={"ray": address},
            )
        )
        folder = RunFolder(tmp_path / f"run {len(made)}")
        build_of(recipe, folder, Unseen()).run()
        files = [folder.vectors_path, *(folder.table_path(name) for name in TABLES)]
        files += sorted(folder.dataset_path.rglob("*.parquet"))
        made[address] = {str(file.relative_to(folder.path)): file.read_bytes() for file in files}
    assert folder.read_table("scores")["nearest_id"].count() > 0
    assert made[None] == made[nodes.address]
    assert len(made[None]) > len(TABLES) + 2


def test_workers_and_nodes_that_die_cost_nothing(nodes: Nodes, place: Cluster, tmp_path: Path) -> None:
    log, found = tmp_path / "log", []
    make = partial(lengths_of, log, 0.1)
    kills: list[Callable[[], None]] = [partial(_kill_worker, log), nodes.kill]
    for result in place.each(make, CHUNKS, unheard):
        found.append(result)
        if len(found) in (5, 15):
            kills.pop(0)()
    nodes.join()
    assert found == list(Here().each(partial(lengths_of, tmp_path / "here", 0.0), CHUNKS, unheard))
    workers = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert len(workers) >= 4, f"two at first, and one for each that died: {workers}"
    assert sum(len(chunk[0]) for chunk in CHUNKS) > 2 * STORE_BYTES


def _kill_worker(log: Path) -> None:
    os.kill(int(log.read_text().splitlines()[-1].split()[0]), signal.SIGKILL)


def test_near_duplicates_are_exact_while_a_node_dies(nodes: Nodes, place: Cluster) -> None:
    rows = clustered(6_000, 60, 1)
    killing = threading.Timer(1.0, nodes.kill)
    killing.start()
    found = find_across_blocks(rows, 0.9, place, 400)
    assert not killing.is_alive(), "the node was to die in the middle"
    nodes.join()
    expected = find_near_duplicates(rows, 0.9)
    assert np.array_equal(found.kept, expected.kept)
    assert np.array_equal(found.nearest, expected.nearest)
    assert np.array_equal(found.similarity, expected.similarity, equal_nan=True)


def test_what_a_worker_raises_is_raised_here(place: Cluster) -> None:
    with pytest.raises(InputError, match=r"^model is not to be had; give another$"):
        list(place.each(refusing, [["model"]], unheard))


def test_a_local_teacher_has_replicas_and_survives_one(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sources = {"sources": [{"path": str(DEMO_TEXTS), "limit": 8}]}
    runtime = {"ray": nodes.address, "workers": 2, "concurrency": 1}
    recipe = write_recipe(tmp_path, texts=sources, attributes={"per_text": 1}, runtime=runtime)
    run = tmp_path / "run"
    done: list[int] = []
    running = threading.Thread(
        target=lambda: done.append(stillhouse("run", recipe, "--out", run, "--until", "attributes").returncode)
    )
    running.start()
    until(lambda: len(_answered(run)) >= 2, 300)
    _kill_replica()
    running.join()
    assert done == [0]
    assert len(_answered(run)) == len(set(_answered(run)))
    assert set(RunFolder(run).read_table("attributes")["call_id"]) <= set(_answered(run))


def _answered(run: Path) -> list[str]:
    try:
        with sqlite3.connect(f"file:{run / 'journal.sqlite'}?mode=ro", uri=True) as journal:
            return [str(row[0]) for row in journal.execute("SELECT call_id FROM answers")]
    except sqlite3.OperationalError:  # it is not there yet
        return []


def _kill_replica() -> None:
    named = [one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [""])[0][:12] == "ray::Replica"]
    assert len(named) == 2
    named[0].kill()


def test_a_replica_that_finds_no_node_counts_as_down(place: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "PLACED_SECONDS", 1.0)
    actor = ray.remote(Replica).options(num_cpus=99).remote(None, None)
    with pytest.raises(TransientError, match=r"^replica 1: no node of the Ray cluster has had room for it$"):
        asyncio.run(ReplicaBackend(actor, 1, "replica 1").send(CALL))


@pytest.mark.timeout(120)
def test_a_replica_whose_engine_dies_begins_anew(place: Cluster, tmp_path: Path) -> None:
    actor = ray.remote(Mortal).options(max_restarts=FOREVER, max_concurrency=1, num_cpus=1).remote(tmp_path / "log")
    backend = ReplicaBackend(actor, 1, "replica 1")

    async def ask_until_answered() -> list[str]:
        told: list[str] = []
        while "well" not in told:
            try:
                told.append((await backend.send(CALL)).text)
            except TransientError as error:
                told.append(str(error)[:17])
                await asyncio.sleep(0.5)
        return told

    assert set(asyncio.run(ask_until_answered())) == {"replica 1 is gone", "well"}


def test_a_call_that_is_late_to_tell_of_an_end_says_nothing_of_the_next_actor() -> None:
    """While the next one loads its model it answers nobody, also not whether it has a place."""
    early, late = asyncio.Event(), asyncio.Event()
    ends, asked = [early, late], []

    class Actor:
        placed = SimpleNamespace(remote=lambda: answered("placed"))
        send = SimpleNamespace(remote=lambda call: gone(ends.pop(0)) if ends else answered(call))

    async def answered(what: object) -> object:
        asked.append(what)
        return what

    async def gone(told: asyncio.Event) -> None:
        await told.wait()
        raise ray.exceptions.ActorDiedError

    async def ask() -> None:
        backend = ReplicaBackend(Actor(), 2, "replica 1")
        calls = [asyncio.create_task(backend.send(CALL)) for _ in ends]
        await asyncio.sleep(0.01)
        for told, call in ((early, calls[0]), (late, calls[1])):
            told.set()
            with pytest.raises(TransientError, match="replica 1 is gone"):
                await call
            await backend.send(CALL)

    asyncio.run(ask())
    assert asked == ["placed", "placed", "placed", CALL, CALL], "by each call at first, and once after the end"


def test_a_worker_has_as_many_threads_as_the_driver(place: Cluster) -> None:
    assert list(place.each(threads, [["chunk"]], unheard)) == [str(cpu_threads())]


def test_a_node_with_other_software_is_refused(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.cluster.code_digest", lambda part: f"other {part}")
    monkeypatch.setattr("stillhouse.software.__version__", "9.9")
    found = r"Ray node \S+ has stillhouse (\S+), code (\S+), not stillhouse 9.9, code other /other /other ; make them"
    with pytest.raises(RunError, match=found), Cluster(Runtime(ray=nodes.address)):
        pass


@pytest.mark.timeout(200)
def test_replicas_of_the_teacher_make_room_for_workers(nodes: Nodes, tmp_path: Path) -> None:
    """There are as many replicas as fit; a worker that waited for one to end would wait for ever."""
    recipe = load_recipe(write_recipe(tmp_path, runtime={"ray": nodes.address}))
    build = build_of(recipe, RunFolder(tmp_path / "run"), Unseen())
    with build.opened():
        build.engine.open()
        assert list(build.place.each(partial(lengths_of, tmp_path / "log", 0.0), [["abc"]], unheard)) == [(3, "abc")]


def test_the_doctor_looks_at_the_cluster(nodes: Nodes) -> None:
    check = _cluster(Runtime(ray=nodes.address))
    assert (check.state, "3 node(s) with" in check.found) == ("ok", True)
    assert examined("Ray cluster", lambda: _cluster(Runtime(ray="127.0.0.1:1"))).state == "fault"


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, teacher_server: TeacherServer) -> None:
    recipe = write_recipe(tmp_path, runtime={"ray": "127.0.0.1:1"})
    done = stillhouse("run", recipe, "--out", tmp_path / "run", "--until", "attributes")
    assert done.returncode == 2
    assert "runtime.ray: no Ray cluster at 127.0.0.1:1" in " ".join(done.stderr.split())
