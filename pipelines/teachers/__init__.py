"""Teachers: whatever answers a call. Each backend answers one call at a time; the dispatcher does the rest."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from pipelines.journal import Journal
from pipelines.teachers.backend import Backend
from pipelines.teachers.batch import open_batch
from pipelines.teachers.endpoint import Endpoint, EndpointBackend, check_endpoint, open_endpoint
from pipelines.teachers.local import open_local
from pipelines.teachers.probing import find_dialect
from stillhouse.sections import Runtime, Teacher

__all__ = ["Backend", "open_teacher"]


@asynccontextmanager
async def open_teacher(teacher: Teacher, runtime: Runtime, journal: Journal) -> AsyncIterator[list[Backend]]:
    """Yield the backends of the recipe's teacher, checked to answer; those of this process run while open.

    What was found out about a server is noted in the journal, so that a resumed run need not ask again.
    """
    limit = teacher.limit(runtime)
    async with AsyncExitStack() as stack:
        if teacher.base_urls:
            backends: list[Backend] = []
            for url in teacher.base_urls:
                endpoint = Endpoint(url, teacher.model, teacher.api_key_env, runtime.timeout, limit)
                backend = await stack.enter_async_context(open_endpoint(endpoint))
                await check_endpoint(backend)
                backend = await _verified(backend, teacher, journal) if teacher.structured_output else backend
                if teacher.backend == "batch":
                    backends.append(await stack.enter_async_context(open_batch(backend, journal)))
                else:
                    backends.append(backend)
            yield backends
        elif runtime.ray:
            from pipelines.teachers.replicas import open_replicas

            yield await stack.enter_async_context(open_replicas(teacher, runtime))
        else:
            yield [await stack.enter_async_context(open_local(teacher, runtime))]


async def _verified(backend: EndpointBackend, teacher: Teacher, journal: Journal) -> EndpointBackend:
    """Return the backend with the dialect in which its server obeys a JSON Schema."""
    key = f"dialect {backend.name} {teacher.model} {teacher.api}"
    dialect = journal.note(key)
    if dialect is None:
        dialect = await find_dialect(backend, teacher)
        journal.set_note(key, dialect)
    return EndpointBackend(replace(backend.endpoint, dialect=dialect), backend.session)
