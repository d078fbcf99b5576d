"""A Ray cluster as the place of heavy work: actor pools of Ray Data for chunks, tasks of Ray for steps.

A worker, or a node, may die at any time: Ray starts another and gives it the chunk or step again, and each outcome
is taken once. Chunks wait in Ray's object store, which spills to disk; the cluster needs no storage of its own.
"""

import logging
import os
import platform
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from stillhouse.errors import InputError, RunError, StillhouseError
from stillhouse.models import cpu_threads
from stillhouse.places import Chunk, Result, Tell, Work, unheard
from stillhouse.sections import Runtime
from stillhouse.software import code_digest, versions_of

FOREVER = -1
CONNECT_SECONDS = 10
KINDS = {"num_cpus": "CPU", "num_gpus": "GPU"}  # what Ray calls them for a worker, and of a node
SAME = ("torch", "transformers", "sentence-transformers", "xllamacpp")  # on every node, with stillhouse and Python
REMEDY = "start one with `ray start --head`, join machines with `ray start --address HOST:6379`"


class Cluster:
    """The nodes of a Ray cluster that this process has joined."""

    def __init__(self, runtime: Runtime) -> None:
        """Take `runtime.ray` and `runtime.workers`; nothing is joined yet."""
        self._address, self._most, self._device = runtime.ray, runtime.workers, runtime.device
        self._joined = False

    def __enter__(self) -> Self:
        """Join. Raises InputError where there is no cluster, RunError where a node has another stillhouse or Python."""
        # It warns of restarts that need what this process holds, which is there as long as the run is.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            import ray
        except ImportError as error:
            raise InputError(f"runtime.ray: {error}. pip install 'stillhouse[scale]'") from error
        if ray.is_initialized():  # this run has joined for its teacher, or for its place
            return self
        try:
            _refuse_silence(self._address)
            ray.init(address=self._address, log_to_driver=False, configure_logging=False, namespace="stillhouse")
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"runtime.ray: no Ray cluster at {self._address} ({error}); {REMEDY}") from error
        self._joined = True
        try:
            self._refuse_others()
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the cluster; the workers of this run end."""
        import ray

        if self._joined:
            ray.shutdown()

    def about(self) -> str:
        """Return how many nodes there are, and what they have."""
        nodes = [node["Resources"] for node in _alive()]
        cpus, gpus = (sum(int(node.get(kind, 0)) for node in nodes) for kind in KINDS.values())
        return f"{len(nodes)} node(s) with {cpus:,} CPU(s) and {gpus:,} GPU(s)"

    def needs(self, gpus: int) -> Mapping[str, Any]:
        """Return what a worker with a model takes of a node: `gpus`, or without any, as many CPUs as this process.

        With as many threads it computes what this process would, to the last bit. Raises RunError where no node has
        that much.
        """
        if self._device != "cpu" and self.room(by_gpu := {"num_gpus": gpus}):
            return by_gpu
        if self.room(by_cpu := {"num_cpus": cpu_threads()}):
            # Said once more, as a value from where `ray start` ran would count.
            return {**by_cpu, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(cpu_threads())}}}
        raise RunError(
            f"no node of the Ray cluster has {gpus} GPUs, or the {cpu_threads()} CPUs of this machine, for a worker; "
            "set OMP_NUM_THREADS here to what one shall have. The last bits of scores depend on it"
        )

    def room(self, needs: Mapping[str, Any]) -> int:
        """Return how many workers fit on the nodes that each need so much (`num_cpus`, `num_gpus`)."""
        much = {KINDS[kind]: needs[kind] for kind in KINDS.keys() & needs.keys()}
        return sum(
            min(int(node["Resources"].get(kind, 0) // count) for kind, count in much.items()) for node in _alive()
        )

    def each(self, make: Callable[[], Work[Result]], chunks: Iterable[Chunk], tell: Tell) -> Iterator[Result]:
        """Yield what comes of each chunk, in their order, from a pool of actors; see `Place`. `tell` hears nothing."""
        import pyarrow as pa
        import ray

        refs = [ray.put(pa.table({"texts": [chunk]})) for chunk in chunks]
        if not refs:
            return
        _quiet_data()
        needs = self.needs(1)
        most = min(self.room(needs), self._most or len(refs))
        data = ray.data.from_arrow_refs(refs).map_batches(
            _Worker,
            fn_constructor_args=(make,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            **needs,
        )
        with _own_errors():
            for row in data.iter_rows():
                if isinstance(row["result"], StillhouseError):
                    raise row["result"]
                yield row["result"]

    def put(self, value: Any) -> Any:
        """Put a value into the object store."""
        import ray

        return ray.put(value)

    def submit(self, step: Callable[..., Any], *given: Any) -> Any:
        """Begin a task as soon as what it needs is there."""
        import ray

        return ray.remote(step).options(num_cpus=1, max_retries=FOREVER).remote(*given)

    def result(self, submitted: Any) -> Any:
        """Wait for a task. Raises what it raised."""
        import ray

        with _own_errors():
            return ray.get(submitted)

    def _refuse_others(self) -> None:
        """Ask every node what runs there: other code would give other rows."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = _alive()
        task = ray.remote(_versions)
        there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        asked = [task.options(num_cpus=0, scheduling_strategy=one).remote() for one in there]
        own = _versions()
        for node, found in zip(nodes, map(self.result, asked), strict=True):
            other = [name for name, what in own.items() if found.get(name) != what]
            if other:
                told = (", ".join(f"{name} {one.get(name, 'none')}" for name in other) for one in (found, own))
                raise RunError(f"Ray node {node['NodeManagerAddress']} has {', not '.join(told)}; make them equal")


class _Worker:
    """An actor of the pool: makes its worker with the first chunk."""

    def __init__(self, make: Callable[[], Work[Any]]) -> None:
        self._make = make
        self._work: Work[Any] | None = None

    def __call__(self, table: Any) -> dict[str, list[Any]]:
        """Return what comes of a chunk; a message for the user is one too, since Ray Data rewrites what is raised."""
        (chunk,) = table["texts"].to_pylist()
        try:
            self._work = self._work or self._make()
            return {"result": [self._work(chunk, unheard)]}
        except StillhouseError as error:
            return {"result": [error]}


def _refuse_silence(address: str | None) -> None:
    """Raise OSError where nothing listens at an address; Ray itself would wait for minutes."""
    host, _, port = (address or "").partition(":")
    if port:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _versions() -> dict[str, str]:
    """Return what results depend on, of this machine."""
    found = {name: version.partition("+")[0] for name, version in versions_of(SAME).items()}
    code = "/".join(code_digest(part)[:6] for part in ("stillhouse", "pipelines", "curation"))
    return {**found, "processor": platform.machine(), "code": code}


def _quiet_data() -> None:
    """Let Ray Data keep order, and leave the terminal to the run."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what a worker raised in its place; what Ray says else becomes a RunError."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, StillhouseError):
            raise cause from error
        raise RunError(f"the Ray cluster could not do its part: {error}") from error
