"""A teacher that this process loads itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipelines.teachers.backend import Backend
from pipelines.teachers.embedded import serve_embedded
from pipelines.teachers.endpoint import open_endpoint
from stillhouse.sections import Runtime, Teacher


@asynccontextmanager
async def open_local(teacher: Teacher, runtime: Runtime) -> AsyncIterator[Backend]:
    """Load the model of backend `embedded` or `vllm`, and yield what answers. Raises RunError where it cannot be."""
    limit = teacher.limit(runtime)
    if teacher.backend == "embedded":
        with serve_embedded(teacher, limit, runtime.timeout) as endpoint:
            async with open_endpoint(endpoint) as backend:
                yield backend
    else:
        from pipelines.teachers.in_process import open_in_process

        async with open_in_process(teacher, runtime, limit) as backend:
            yield backend
