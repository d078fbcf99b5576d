"""The software that rows depend on: versions of packages, and stillhouse's own code."""

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from stillhouse import __version__
from stillhouse.errors import RunError
from stillhouse.store import file_digest

CODE_SUFFIXES = {".py", ".yaml", ".jinja", ".parquet"}


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of stillhouse, of Python, and of those packages that are installed."""
    installed = {distribution.name.lower(): distribution.version for distribution in metadata.distributions()}
    found = {name: installed[name] for name in packages if name in installed}
    return {"stillhouse": __version__, "python": platform.python_version(), **found}


def code_digest(module: str) -> str:
    """Hash the source of a module, or all files of a package or data folder, without importing it."""
    root = Path(__file__).parent.parent / module.replace(".", "/")
    single = root.with_suffix(".py")
    files = [single] if single.exists() else sorted(path for path in root.rglob("*") if path.suffix in CODE_SUFFIXES)
    if not files:
        raise RunError(f"stage code {module} is not there; the installation is damaged, install stillhouse again")
    return digest_of([[path.name, file_digest(path)] for path in files])


def digest_of(value: object) -> str:
    """Hash a value that JSON can hold: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
