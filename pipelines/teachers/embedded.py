"""The embedded teacher: a GGUF model in this process, batched by llama.cpp, on a loopback port of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.teachers.endpoint import Endpoint
from stillhouse.errors import RunError
from stillhouse.models import gguf_file
from stillhouse.sections import Teacher

CONTEXT_TOKENS = 4096  # per request: prompt and answer
MAX_SLOTS = 8  # llama.cpp's throughput on CPU peaks here


@contextmanager
def serve_embedded(teacher: Teacher, limit: int, timeout: float) -> Iterator[Endpoint]:
    """Serve the model until the block ends, to `limit` requests at a time. Raises RunError where it does not load."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf_file(teacher.model))
    params.n_parallel = min(limit, MAX_SLOTS)
    params.n_ctx = CONTEXT_TOKENS * params.n_parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
    params.swa_full = True  # without it, a shared prompt prefix is computed again for models with a sliding window
    params.port = 0
    params.verbosity = -1
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise RunError(f"teacher.model: {params.model.path} cannot be loaded by llama.cpp: {error}") from error
    try:
        yield Endpoint(
            base_url=f"{server.listening_address}/v1",
            model=teacher.model,
            api_key_env=None,
            timeout=timeout,
            limit=limit,
            dialect="embedded",
        )
    finally:
        del server


def _threads() -> int:
    """Return all processors, or as many as OMP_NUM_THREADS leaves us, which Ray sets for its workers."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
