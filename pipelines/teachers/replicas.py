"""Replicas of a local teacher on a Ray cluster: an actor each, with a model of its own.

An actor, its engine or its node may die: its calls fail as those of a server that is down do, so they are sent to
another replica, and Ray starts a new actor where there is room. What was answered is in the journal before.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.calls import Answer, Call
from pipelines.teachers.backend import Backend, TransientError
from pipelines.teachers.local import open_local
from stillhouse.cluster import FOREVER, Cluster
from stillhouse.errors import RunError
from stillhouse.sections import Runtime, Teacher

PLACED_SECONDS = 60.0  # until a replica that has found no node counts as down; Ray itself would wait for ever


class Replica:
    """What an actor runs: the model is loaded with the first call, and stays."""

    def __init__(self, teacher: Teacher, runtime: Runtime) -> None:
        """Take what is to be loaded."""
        self._teacher, self._runtime = teacher, runtime
        self._open, self._opening = AsyncExitStack(), asyncio.Lock()
        self._backend: Backend | None = None

    async def placed(self) -> None:
        """Say that a node has room for this actor."""

    async def send(self, call: Call) -> Answer:
        """Answer a call, as the backend does; where its engine has died this actor does too, and begins anew."""
        async with self._opening:
            if self._backend is None:
                self._backend = await self._open.enter_async_context(open_local(self._teacher, self._runtime))
        try:
            return await self._backend.send(call)
        except RunError:
            logging.getLogger(__name__).exception("begins anew")  # in the log that Ray keeps of this actor
            os._exit(1)  # whoever leaves in good order is not started again


@dataclass
class ReplicaBackend:
    """Hands calls to one replica."""

    actor: Any
    limit: int
    name: str
    adapts: bool = True
    _is_placed: bool = False
    _life: int = 0  # of the actor, as far as was heard of its ends

    async def send(self, call: Call) -> Answer:
        """Send a call once; see `Backend`."""
        import ray

        life = None
        try:
            await self._await_place()
            life = self._life
            answer: Answer = await self.actor.send.remote(call)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from error
            raise RunError(f"{self.name}: {error}") from error
        except ray.exceptions.RayError as error:
            if life == self._life:  # not of a call that is late to tell: the next actor may be loading by now
                self._is_placed, self._life = False, life + 1
            raise TransientError(f"{self.name} is gone: {error}".partition("\n")[0]) from error
        return answer

    async def _await_place(self) -> None:
        if self._is_placed:
            return
        try:
            await asyncio.wait_for(self.actor.placed.remote(), PLACED_SECONDS)
        except TimeoutError as error:
            raise TransientError(f"{self.name}: no node of the Ray cluster has had room for it") from error
        self._is_placed = True

    def stop(self) -> None:
        """Await what is in flight."""


@asynccontextmanager
async def open_replicas(teacher: Teacher, runtime: Runtime) -> AsyncIterator[list[Backend]]:
    """Start as many replicas as `runtime.workers` and the cluster allow, each on `runtime.gpus` or on CPUs.

    Raises RunError where there is room for none.
    """
    import ray

    with Cluster(runtime) as cluster:
        needs = cluster.needs(runtime.gpus)
        count = min(cluster.room(needs), teacher.replicas(runtime))
        kind = ray.remote(Replica).options(max_restarts=FOREVER, max_concurrency=teacher.limit(runtime), **needs)
        actors = [kind.remote(teacher, runtime) for _ in range(count)]
        try:
            yield [
                ReplicaBackend(actor, teacher.limit(runtime), f"teacher replica {number}")
                for number, actor in enumerate(actors, start=1)
            ]
        finally:
            for actor in actors:
                ray.kill(actor)
