"""A real Ray cluster of several nodes on this machine, each a process tree of its own, and workers for its tests."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.calls import Answer, Call
from pipelines.teachers.replicas import Replica
from stillhouse.errors import InputError, RunError
from stillhouse.models import cpu_threads
from stillhouse.places import Chunk, Tell, Work

STORE_BYTES = 80_000_000  # of a node's object store: hardly more than the least that Ray takes


class Nodes:
    """The nodes besides the head, on which no worker runs."""

    def __init__(self, cluster: Any, count: int) -> None:
        """Add nodes of one CPU each."""
        self._cluster, self.address = cluster, str(cluster.address)
        self._nodes: list[Any] = []
        for _ in range(count):
            self.join()

    def join(self) -> None:
        """Add a node; from the main thread only."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "5")  # as if somebody had set it there: it is not the driver's
            self._nodes.append(self._cluster.add_node(num_cpus=cpu_threads(), object_store_memory=STORE_BYTES))

    def kill(self) -> None:
        """Kill a node, with all that runs there, as a machine that loses its power."""
        node = self._nodes.pop()
        for process in (psutil.Process(info.process.pid) for info in node.all_processes["raylet"]):
            for one in [*process.children(recursive=True), process]:
                one.kill()
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def ray_nodes(count: int = 2) -> Iterator[Nodes]:
    """Run a head and so many nodes."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield Nodes(cluster, count)
    finally:
        cluster.shutdown()


def lengths_of(log: Path, seconds: float) -> Work[tuple[int, str]]:
    """Return a worker that takes its time, and notes each chunk with its process in a file."""

    def work(chunk: Chunk, tell: Tell) -> tuple[int, str]:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {chunk[0][:8]}\n")
        time.sleep(seconds)
        return sum(map(len, chunk)), chunk[0][:8]

    return work


def threads() -> Work[str]:
    """Return a worker that says how many threads it has."""
    return lambda chunk, tell: os.environ["OMP_NUM_THREADS"]


class Mortal(Replica):
    """A replica whose engine dies with the first call; the next one answers."""

    def __init__(self, log: Path) -> None:
        """Note in a file that there has been one."""
        self._opening, self._backend = asyncio.Lock(), _Engine(is_ill=not log.exists())
        log.touch()


class _Engine:
    name, limit, adapts = "engine", 1, True

    def __init__(self, is_ill: bool) -> None:
        self._is_ill = is_ill

    async def send(self, call: Call) -> Answer:
        if self._is_ill:
            raise RunError("the engine is dead")
        return Answer("well", "stop", 1, 1, 0.0)

    def stop(self) -> None:
        """Wait for nothing."""


def refusing() -> Work[None]:
    """Return a worker that finds fault with what a user gave."""

    def work(chunk: Chunk, tell: Tell) -> None:
        raise InputError(f"{chunk[0]} is not to be had; give another")

    return work


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
