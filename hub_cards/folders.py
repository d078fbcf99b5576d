"""A finished folder, what of it is new at its target, and the copy of it into another folder."""

import filecmp
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillhouse.errors import InputError, RunError
from stillhouse.store import replace_folder

MARK = "facts.json"  # only folders and repositories of ours have one
FIRST_FILES = {"README.md", "LICENSE"}  # that a repository may have before anything was published to it

Report = Callable[[int, int], None]
"""Told how many files are done, at first none, and of how many."""


@dataclass(frozen=True)
class Change:
    """What publishing does to one file of the target; `size` is in bytes, for a deleted file that of the old one."""

    path: str
    size: int
    kind: Literal["new", "changed", "unchanged", "deleted"]


@dataclass(frozen=True)
class Published:
    """Where a folder is now.

    `commit` and `tag` are None for a folder; `commit` is the head as it was where nothing had changed.
    """

    url: str
    changes: list[Change]
    commit: str | None = None
    tag: str | None = None
    pull_request: str | None = None
    private: bool = False

    @property
    def changed(self) -> bool:
        """Say whether there was anything to publish."""
        return bool(differing(self.changes))


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files to publish by their paths in the target; hidden ones stay at home.

    Raises InputError where it is not a finished folder.
    """
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name.as_posix(): path for name, path in paths.items() if not _is_hidden(name.as_posix())}
    missing = [name for name in ("README.md", MARK) if name not in files]
    if missing:
        raise InputError(f"{folder} is not a finished folder: it has no {' and no '.join(missing)}")
    return files


def changes_between(
    files: Mapping[str, Path], there: Mapping[str, int], same: Callable[[str, Path], bool]
) -> list[Change]:
    """Compare with a target whose files and sizes are `there`; `same` compares the content of files of one size.

    After publishing, the target has what the folder has: files of the target that the folder lacks are deleted, but
    for hidden ones (.gitattributes).
    """
    changes = []
    for name, path in files.items():
        size = path.stat().st_size
        if name not in there:
            changes.append(Change(name, size, "new"))
        else:
            is_same = there[name] == size and same(name, path)
            changes.append(Change(name, size, "unchanged" if is_same else "changed"))
    gone = sorted(name for name in there if name not in files and not _is_hidden(name))
    return changes + [Change(name, there[name], "deleted") for name in gone]


def differing(changes: Iterable[Change]) -> list[Change]:
    """Return the changes that change something."""
    return [change for change in changes if change.kind != "unchanged"]


def check_ours(names: Iterable[str], target: object) -> None:
    """Raise InputError where a target has files that were not published by us: they would be deleted."""
    names = set(names)
    foreign = sorted(name for name in names if not _is_hidden(name) and name not in FIRST_FILES)
    if MARK not in names and foreign:
        raise InputError(
            f"{target} has files that are not of a published folder ({', '.join(foreign[:3])}), and they would be "
            "deleted. Give another target"
        )


def plan_copy(folder: Path, to: Path) -> list[Change]:
    """Return what copying `folder` to `to` would change. Raises InputError where that must not be."""
    files, there = files_of(folder), _files_there(folder, to)
    sizes = {name: path.stat().st_size for name, path in there.items()}
    return changes_between(files, sizes, lambda name, path: filecmp.cmp(path, there[name], shallow=False))


def copy_folder(folder: Path, to: Path, report: Report) -> Published:
    """Copy `folder` to `to`, whole or not at all."""
    changes = plan_copy(folder, to)
    published = Published(str(to), changes)
    if not published.changed:
        return published
    place = to.resolve()  # `.` has no name
    partial = place.with_name(f".{place.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    files = files_of(folder)
    report(0, len(files))
    try:
        for done, (name, path) in enumerate(files.items(), 1):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, partial / name)
            report(done, len(files))
        replace_folder(partial, place)
    except OSError as error:
        raise RunError(
            f"{error.filename or to}: {error.strerror or error}. What was at {to} is as it was; run it again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return published


def _files_there(folder: Path, to: Path) -> dict[str, Path]:
    ours, theirs = folder.resolve(), to.resolve()
    if ours == theirs or ours in theirs.parents or theirs in ours.parents:
        raise InputError(f"{to} is {folder}, or one is in the other; give another folder")
    if to.exists() and not to.is_dir():
        raise InputError(f"{to} is a file; give a folder")
    if not to.exists():
        return {}
    hidden = sorted(path.name for path in to.iterdir() if _is_hidden(path.name))
    if hidden:  # the whole folder is replaced: a git checkout would lose its history
        raise InputError(f"{to} has {hidden[0]}, which would be deleted. Give another folder")
    there = {path.relative_to(to).as_posix(): path for path in sorted(to.rglob("*")) if path.is_file()}
    check_ours(there, to)
    return there


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
