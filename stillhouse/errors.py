"""Every error a user can meet has one root; the exit code says whose turn it is."""

from collections.abc import Iterator
from contextlib import contextmanager


class StillhouseError(Exception):
    """Root of all errors that are shown to the user as one message, without a traceback."""

    exit_code = 1


class RunError(StillhouseError):
    """The run failed; the message says what to do next. Exit code 1."""


class InputError(StillhouseError):
    """The user's input is wrong; the message names file, row or key and the remedy. Exit code 2."""

    exit_code = 2


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C into a message and exit code 1; Typer would leave silently with 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise RunError("stopped. What was done so far is kept; run the same command again to resume") from error
