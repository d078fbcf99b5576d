"""Teachers: whatever answers a call. Each backend ends as an OpenAI-compatible endpoint that one client asks."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.teachers.embedded import serve_embedded
from pipelines.teachers.endpoint import Endpoint, check_endpoint
from stillhouse.recipe import Runtime, Teacher

__all__ = ["Endpoint", "open_teacher"]


@contextmanager
def open_teacher(teacher: Teacher, runtime: Runtime) -> Iterator[Endpoint]:
    """Yield the endpoint of the recipe's teacher, checked to answer; an embedded one is served while open."""
    if teacher.backend == "embedded":
        with serve_embedded(teacher, runtime) as endpoint:
            yield endpoint
    else:
        endpoint = Endpoint(
            teacher.base_url or "", teacher.model, teacher.api_key_env, runtime.timeout, runtime.retries
        )
        check_endpoint(endpoint)
        yield endpoint
