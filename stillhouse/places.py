"""Where heavy work is done: in this process, or on a cluster (stillhouse/cluster.py). What comes of it is the same."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

Chunk = list[str]
Result = TypeVar("Result")
Tell = Callable[[int, int], None]  # is told what is done of a chunk, and the tokens read for it
Work = Callable[[Chunk, Tell], Result]


class Place(Protocol):
    """Does work that is cut into parts. A part is the same wherever it is done, and so is what comes of it."""

    def each(self, make: Callable[[], Work[Result]], chunks: Iterable[Chunk], tell: Tell) -> Iterator[Result]:
        """Yield what comes of each chunk, in their order; a worker is made by `make`, once, and a model loaded there.

        `tell` hears of a chunk before it is done only where the place can say it.
        """
        ...

    def put(self, value: Any) -> Any:
        """Bring a value there once, for several steps; return what `submit` takes in its place."""
        ...

    def submit(self, step: Callable[..., Any], *given: Any) -> Any:
        """Begin a step, of values and of what `put` and `submit` returned; return what stands for its outcome."""
        ...

    def result(self, submitted: Any) -> Any:
        """Wait for a step; return its outcome."""
        ...


class Here:
    """This process."""

    def each(self, make: Callable[[], Work[Result]], chunks: Iterable[Chunk], tell: Tell) -> Iterator[Result]:
        """Work on one chunk after the other; nothing is made where there is none."""
        work = None
        for chunk in chunks:
            work = work or make()
            yield work(chunk, tell)

    def put(self, value: Any) -> Any:
        """Leave it where it is."""
        return value

    def submit(self, step: Callable[..., Any], *given: Any) -> Any:
        """Take the step now."""
        return step(*given)

    def result(self, submitted: Any) -> Any:
        """Return it."""
        return submitted


def unheard(done: int, tokens: int) -> None:
    """Hear nothing."""
