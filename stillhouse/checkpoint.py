"""Results of a long computation, on disk as they come: what a run that is killed need not compute again."""

import json
from pathlib import Path
from typing import Any

from stillhouse.store import write_atomically


class Checkpoint:
    """Results by key, in a file of JSON lines; without a path they are kept in memory only.

    The first line says what the results depend on (`about`): results of another computation are thrown away, as is a
    last line that was cut off, as by kill -9.
    """

    def __init__(self, path: Path | None = None, about: str = "") -> None:
        """Read what is there."""
        self._path = path
        self._known: dict[str, Any] = {}
        if path is None:
            return
        first = json.dumps({"about": about}).encode() + b"\n"
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1] if content.startswith(first) else first
        if whole != content:
            write_atomically(path, whole)
        for line in whole.splitlines()[1:]:
            try:
                self._known.update(json.loads(line))
            except ValueError:  # damaged: its results are computed anew
                continue

    def get(self, key: str) -> Any:
        """Return the result of a key; None where there is none."""
        return self._known.get(key)

    def put(self, results: dict[str, Any]) -> None:
        """Keep results by key, which JSON can hold."""
        self._known |= results
        if self._path:
            with self._path.open("ab") as file:
                file.write(json.dumps(results).encode() + b"\n")

    def remove(self) -> None:
        """Delete the file: the whole result is somewhere else now."""
        if self._path:
            self._path.unlink(missing_ok=True)
