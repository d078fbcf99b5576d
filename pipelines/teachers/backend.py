"""What every teacher backend is: one attempt at one call, and the ways in which it can fail."""

from typing import Protocol

from pipelines.calls import Answer, Call


class Backend(Protocol):
    """One place that answers calls.

    `limit` is how many it is sent at a time at most; `adapts` says whether it is sent fewer after failures.
    """

    name: str
    limit: int
    adapts: bool

    async def send(self, call: Call) -> Answer:
        """Send a call once.

        Raises CallFailedError where this call can never succeed here, TransientError where it may at another time or
        place, and InputError or RunError where no further call has a chance.
        """

    def stop(self) -> None:
        """Wait no longer for what a later run can still fetch; what would be lost is awaited."""


class StoppedError(Exception):
    """The run is stopping: the call was not sent, or is left for a later run to fetch."""


class CallFailedError(Exception):
    """A call that failed for good; the message is the cause that the journal keeps. Other calls are not concerned."""


class TransientError(Exception):
    """An attempt that failed: no connection, a timeout, an overloaded or broken server.

    `retry_after` is the server's own wish in seconds; `throttled` says that the server is well and asks for less.
    """

    def __init__(self, cause: str, retry_after: float | None = None, throttled: bool = False) -> None:
        """Keep the cause, and what the server asks for."""
        super().__init__(cause)
        self.retry_after, self.throttled = retry_after, throttled
