"""A run in a storage that fsspec reaches, such as s3://bucket/run: worked on in a folder here, kept the same there.

The folder is pulled before a command reads it and pushed after each stage and each command that writes: files that
changed, the manifest last, as it is what says that a stage is done. A file `.storage.json` in the folder says which
storage it belongs to, what was the same here and there last, and what of it was deleted here and not there yet. The
journal is not mirrored: its answers are put into the storage as segments of their own (see pipelines/journal.py).
"""

import filecmp
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout
from platformdirs import user_data_path

from stillhouse.errors import InputError, RunError, StillhouseError

PLACE = "STILLHOUSE_REMOTE"  # environment variable: folder of the working folders
INDEX, LOCK, MANIFEST, SEGMENTS = ".storage.json", ".lock", "manifest.json", "journal"
PULLING, PUSHING = ".pulling.lock", ".pushing.lock"
OWN_FILES = {INDEX, LOCK, PULLING, PUSHING}  # in a working folder, before there is a run
SEGMENT = re.compile(r"\d+-[0-9a-f]+\.jsonl\.gz")
NOT_MIRRORED = re.compile(  # hidden files, the journal with its segments, and what `publish` writes anew
    rf"(^|.*/)\..*|journal\.(sqlite|damaged|reserve|fold).*|journal/{SEGMENT.pattern}|publish/.*"
)
PATTERN = re.compile(r"[*?\[\]]|::")  # a client takes such a name for many, or for a chain of storages
WITH_USER = ("abfs", "sftp:", "ssh:", "hdfs:", "smb:")  # addresses that name a user, or a container before the host
INSIDE = re.compile(r"(.+?://[^/]+/.+?)/(cuts/[^/]+(?:/dataset)?|dataset)")  # what may be named inside a run
WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}  # storages whose objects appear when they are whole
REFRESH_SECONDS, ABANDONED_SECONDS = 20, 120  # a lock is renewed so often, and taken over when it is as old as that
SETTLING_SECONDS = 1  # until whoever else took a lock over has done so
TRANSFERS = 8  # at a time, each of one part of a file: s3fs would read ten parts of 50 MB ahead for each
BATCH = 64  # segments that are read at a time

Stat = list[Any]  # version there, then size in bytes, time of change in ns and number of the file here


def is_url(place: str) -> bool:
    """Say whether a place is a URL rather than a path."""
    return "://" in place


def local_path(place: str | Path) -> Path:
    """Return the path of a place; what a URL stands for is brought here first, as far as it differs.

    A URL may stand for a run, for `dataset` or `cuts/NAME` in one, or for any other folder or file. Raises InputError
    where its storage is unknown or its client is not installed, RunError where it cannot be read.
    """
    url = str(place).rstrip("/")
    if not is_url(url):
        return Path(place)
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    run = INSIDE.fullmatch(url)
    if run and _remote(run[1], _working_folder(run[1])).holds_run():
        url, inside = run[1], run[2]
    else:
        inside = ""
    remote = _remote(url, _working_folder(url))
    remote.refresh()
    return remote.single_file() or remote.folder / inside


def remote_of(folder: Path) -> "Remote | None":
    """Return the storage that a working folder belongs to; other folders have none."""
    index = folder / INDEX
    if not index.exists():
        return None
    return _remote(json.loads(index.read_text(encoding="utf-8"))["url"], folder.absolute())


def _working_folder(url: str) -> Path:
    home = Path(os.environ.get(PLACE) or user_data_path("stillhouse") / "remote")
    name = re.sub(r"[^\w.-]", "-", url.rpartition("/")[2])
    return home.absolute() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


@cache
def _remote(url: str, folder: Path) -> "Remote":
    return Remote(url, folder)


class Remote:
    """The storage of one working folder. `fault` says why it is not written to any more."""

    def __init__(self, url: str, folder: Path) -> None:
        """Find the client of a URL; nothing is read yet. Raises InputError where there is none."""
        parts = urlsplit(url)
        if PATTERN.search(url):
            raise InputError(
                "a URL with * ? [ ] or :: in it may stand for many places; give the run or folder another name"
            )
        if parts.password or (parts.username and not url.startswith(WITH_USER)):
            raise InputError("credentials do not belong into a URL; the client of the storage reads the environment")
        if not parts.path.strip("/"):
            raise InputError(f"{url} is a whole storage; name a folder in it: {url}/NAME")
        try:
            self._fs, self._root = _client(url)
            self._lock_fs, _ = _client(url)  # with connections of its own: it never waits for a large file
        except ImportError as error:
            raise InputError(f"{url}: a package is missing ({error}). pip install 'stillhouse[scale]'") from error
        except ValueError as error:
            raise InputError(f"{url}: {error}; s3://BUCKET/NAME is one that is known") from error
        if self._fs.async_impl:  # what fails is told by who asked for it, not by its loop besides
            self._fs.loop.set_exception_handler(lambda *_: None)
        self._lock_path = f"{self._root}/{LOCK}"
        self.url, self.folder, self.fault = url, folder, ""
        self._token = ""  # of the lock, while it is held

    def holds_run(self) -> bool:
        """Say whether there is a run."""
        with self._reaching("read"):
            return bool(self._fs.exists(f"{self._root}/{MANIFEST}"))

    def refresh(self) -> None:
        """Bring here what differs, unless a process here works on the run: then nothing is newer there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / PULLING):
            try:
                with FileLock(self.folder / LOCK, timeout=0):
                    self._pull()
            except Timeout:
                return

    def single_file(self) -> Path | None:
        """Return the file that the URL stands for, where it stands for one."""
        name = self._root.rpartition("/")[2]
        return self.folder / name if self._index().keys() == {name} else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run for this process, the same here and there; keep it the same in the end.

        Raises RunError where another process holds it, or the storage cannot be read or written.
        """
        self.fault = ""
        with self._reaching("written"):
            self._take()
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(ended,), daemon=True)
        renewing.start()
        try:
            with FileLock(self.folder / PULLING):
                self._pull()
            try:
                yield
            except BaseException:
                with suppress(RunError):
                    self.push()
                raise
            self.push()
        finally:
            ended.set()
            renewing.join()
            token, self._token = self._token, ""
            if not self.fault:
                with self._reaching("written"):
                    self._give_back(token)

    def push(self, under: str = "") -> None:
        """Take what changed here, or below a folder `under`, to the storage, the manifest last.

        Raises RunError where that is not possible, or another process has taken the run over.
        """
        with FileLock(self.folder / PUSHING):
            if not self._token:  # no run to be kept as it was when the storage failed
                self.fault = ""
            self._push(under)

    def note_deletions(self) -> None:
        """Put down what was deleted here, or it would be taken for lost, should this process be killed."""
        with FileLock(self.folder / PUSHING):
            self._note_deletions(self._files())

    def _note_deletions(self, here: Mapping[str, Stat], under: str = "") -> set[str]:
        about = self._about()
        noted = set(about["gone"])
        gone = {name for name in about["files"] if name.startswith(under) or name in noted} - here.keys()
        if not noted.issuperset(gone):
            self._write_index(about["files"], gone)
        return gone

    def _push(self, under: str) -> None:
        here = self._files()
        deleted, index = self._note_deletions(here, under), self._index()
        changed = [name for name, stat in here.items() if name.startswith(under) and index.get(name, [""])[1:] != stat]
        gone = [name for name in deleted if name.startswith(under)]
        if not changed and not gone:
            return
        with self._reaching("written"):
            self._refuse_taken()
            self._transfer(lambda name: self._place(name, self.folder / name), set(changed) - {MANIFEST})
            self._remove(gone)
            if MANIFEST in changed:
                self._place(MANIFEST, self.folder / MANIFEST)
            there = self._listing()
        index |= {name: [there.get(name, ""), *here[name]] for name in changed}
        self._write_index({name: stat for name, stat in index.items() if name not in gone}, deleted.difference(gone))

    def segments(self) -> list[str]:
        """Return the names of the journal's segments, in their order."""
        with self._reaching("read"):
            self._fs.invalidate_cache()
            return sorted(filter(SEGMENT.fullmatch, self._found(f"{self._root}/{SEGMENTS}")))

    def read_segments(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield segments with their content, but for those that were folded into another in the meantime."""
        for first in range(0, len(names), BATCH):
            paths = [f"{self._root}/{SEGMENTS}/{name}" for name in names[first : first + BATCH]]
            with self._reaching("read"):
                found = self._fs.cat(paths, on_error="return")
                for fault in found.values():
                    if isinstance(fault, Exception) and not isinstance(fault, FileNotFoundError):
                        raise fault
            yield from ((path.rpartition("/")[2], found[path]) for path in sorted(found) if type(found[path]) is bytes)

    def put_segment(self, name: str, content: bytes | Path) -> None:
        """Put a segment, or a file of one, into the storage; it is there when this returns. Raises RunError."""
        with self._reaching("written"):
            self._place(f"{SEGMENTS}/{name}", content)

    def remove_segments(self, names: Sequence[str]) -> None:
        """Delete segments."""
        with self._reaching("written"):
            self._remove([f"{SEGMENTS}/{name}" for name in names])

    def _pull(self) -> None:
        about = self._about()
        index: dict[str, Stat] = about["files"]
        with self._reaching("read"):
            self._fs.invalidate_cache()
            there = self._listing()
            gone = {name for name in about["gone"] if name in index and index[name][0] == there.get(name)}
            if MANIFEST in index and MANIFEST not in there:
                raise InputError(
                    f"{self.url} no longer holds the run that was worked on in {self.folder}: it was deleted, or "
                    "this is another storage of that name. That folder still has it; move it away to begin anew"
                )
            here = self._files()
            lost = there.keys() - here.keys() - gone
            differing = lost | {name for name in there if index.get(name, [""])[0] != there[name]}
            self._transfer(lambda name: self._fetch(name, index.get(name)), differing)
        here = self._files()
        for name in (index.keys() - there.keys()) & here.keys():
            if index[name][1:] == here[name]:
                (self.folder / name).unlink()
        kept = {name: index[name] for name in there.keys() - differing}
        self._write_index(kept | {name: [there[name], *here[name]] for name in differing}, gone)

    def _fetch(self, name: str, known: Stat | None) -> None:
        """Bring a file; one here that was changed as well, by a process that did not end, is put aside."""
        path = self.folder / name
        part = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._root if name == self._root.rpartition("/")[2] and self._fs.isfile(self._root) else ""
        self._fs.get_file(whole or f"{self._root}/{name}", str(part))
        is_own = path.exists() and (known is None or known[1:] != _stat(path))
        if is_own and not filecmp.cmp(path, part, shallow=False):
            aside = path.with_name(f".{path.name}.aside-{time.time_ns()}")
            path.replace(aside)
            logging.getLogger(__name__).warning("%s was changed here and in %s; ours is now %s", path, self.url, aside)
        _replace(part, path)

    def _transfer(self, move: Callable[[str], None], names: set[str]) -> None:
        with ThreadPoolExecutor(TRANSFERS, "storage") as threads:
            list(threads.map(move, sorted(names)))

    def _place(self, name: str, content: bytes | Path) -> None:
        """Put content into the storage, whole or not at all."""
        _write_whole(self._fs, f"{self._root}/{name}", content)

    def _remove(self, names: Sequence[str]) -> None:
        for first in range(0, len(names), 1000):
            with suppress(FileNotFoundError):
                self._fs.rm([f"{self._root}/{name}" for name in names[first : first + 1000]])

    def _listing(self) -> dict[str, str]:
        """Return the versions of the files that are mirrored."""
        found = self._found(self._root)
        return {name: _version(info) for name, info in found.items() if not NOT_MIRRORED.fullmatch(name)}

    def _found(self, root: str) -> dict[str, Mapping[str, Any]]:
        with suppress(FileNotFoundError):
            found = self._fs.find(root, detail=True)
            files = [path for path in found if not path.endswith("/")]  # what a console makes for a folder
            return {path.removeprefix(root).lstrip("/") or path.rpartition("/")[2]: found[path] for path in files}
        return {}

    def _files(self) -> dict[str, Stat]:
        """Return size, time and number of the files here that are mirrored."""
        found = {}
        for folder, _, names in os.walk(self.folder):  # past a folder that is just being replaced, such as a report
            for path in (Path(folder) / name for name in names):
                name = path.relative_to(self.folder).as_posix()
                if not NOT_MIRRORED.fullmatch(name) and path.is_file():
                    with suppress(FileNotFoundError):
                        found[name] = _stat(path)
        return found

    def _index(self) -> dict[str, Stat]:
        files: dict[str, Stat] = self._about()["files"]
        return files

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = {"files": {}, "gone": []}
        with suppress(FileNotFoundError):
            about |= json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        return about

    def _write_index(self, files: Mapping[str, Stat], gone: Iterable[str]) -> None:
        """Put down what is the same here and there, and what of it was deleted here, but not there yet."""
        part = self.folder / f"{INDEX}.part"
        about = {"url": self.url, "files": files, "gone": sorted(gone)}
        part.write_text(json.dumps(about, indent=1, sort_keys=True), encoding="utf-8")
        _replace(part, self.folder / INDEX)

    @contextmanager
    def _reaching(self, how: str) -> Iterator[None]:
        """Say of any error of a client (each has its own) what it means for the run."""
        if self.fault and how == "written":
            raise RunError(self.fault)
        try:
            yield
        except StillhouseError:
            raise
        except Exception as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            fault = f"{self.url} cannot be {how} ({cause}); see to the address, the network and your rights there"
            if how == "written":
                fault = self.fault = f"{fault}. What is not there yet is kept in {self.folder}, also answers: keep it"
            raise RunError(fault) from error

    def _take(self) -> None:
        """Take the lock; one that nobody renews any more is taken over."""
        holder = self._holder()
        if holder == {}:  # it is perhaps just being written
            time.sleep(SETTLING_SECONDS)
            holder = self._holder()
        if holder is not None and not _is_abandoned(holder):
            raise RunError(_held_by(holder, self.url))
        self._token = secrets.token_hex(8)
        if holder is not None:
            with suppress(FileNotFoundError):
                self._lock_fs.rm_file(self._lock_path)
        with suppress(FileExistsError):
            self._lock_fs.pipe_file(self._lock_path, self._claim(), mode="create")
        if holder is not None:  # another that takes it over now may delete ours
            time.sleep(SETTLING_SECONDS)
        found = self._holder() or {}
        if found.get("token") != self._token:
            self._token = ""
            raise RunError(_held_by(found, self.url))

    def _claim(self) -> bytes:
        who = {"host": socket.gethostname(), "processes": _processes(), "pid": os.getpid()}
        return json.dumps({**who, "time": time.time(), "token": self._token}).encode()

    def _holder(self) -> dict[str, Any] | None:
        try:
            about: dict[str, Any] = json.loads(self._lock_fs.cat_file(self._lock_path))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return about

    def _renew(self, ended: threading.Event) -> None:
        """Renew the lock until the end. A storage that cannot be reached is told of by what has to be written."""
        while not ended.wait(REFRESH_SECONDS):
            with suppress(Exception):
                self._refuse_taken()
                _write_whole(self._lock_fs, self._lock_path, self._claim())

    def _refuse_taken(self) -> None:
        holder = self._holder() if self._token else None
        if self._token and (holder or {}).get("token") != self._token:
            self.fault = f"{_held_by(holder or {}, self.url)} It took the run over, as this process had been silent"
            raise RunError(self.fault)

    def _give_back(self, token: str) -> None:
        if (self._holder() or {}).get("token") == token:
            self._lock_fs.rm_file(self._lock_path)


def _client(url: str) -> tuple[Any, str]:
    """Return a client of a storage, and the path of a URL there."""
    from fsspec.core import url_to_fs

    own = {"max_concurrency": 1} if url.startswith(("s3:", "s3a:")) else {}
    system, path = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **own)
    return system, str(path)


def _processes() -> str:
    """Return what process numbers are unique in: one start of a host, or of a container there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return socket.gethostname()


def _held_by(holder: Mapping[str, Any], url: str) -> str:
    seen = f"seen {max(0, time.time() - holder['time']):.0f} s ago" if "time" in holder else "not known to us"
    who = f"host {holder.get('host', '?')}, process {holder.get('pid', '?')}, {seen}"
    return (
        f"another process is working on {url}: {who}. Wait for it; one that is gone is taken over "
        f"{ABANDONED_SECONDS} s after it was last seen."
    )


def _is_abandoned(holder: Mapping[str, Any]) -> bool:
    """Say whether a lock may be taken over: it is old, or its process was one of this host and is no more."""
    if time.time() - holder.get("time", 0) > ABANDONED_SECONDS:
        return True
    if holder.get("processes") != _processes():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(holder["pid"] == os.getpid())  # ours is not held


def _write_whole(system: Any, target: str, content: bytes | Path) -> None:
    """Put content into a storage, whole or not at all."""
    if not WHOLE.isdisjoint(_protocols(system)):
        _write(system, target, content)
        return
    folder, _, last = target.rpartition("/")
    system.makedirs(folder, exist_ok=True)
    _write(system, f"{folder}/.{last}.part", content)
    system.mv(f"{folder}/.{last}.part", target)


def _write(system: Any, target: str, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        system.pipe_file(target, content)
    else:
        system.put_file(str(content), target)


def _protocols(system: Any) -> set[str]:
    return {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)


def _version(info: Mapping[str, Any]) -> str:
    """Return what changes with the content of an object: its checksum, or size and time."""
    checksum = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("content_md5")
    times = (info.get(name) for name in ("mtime", "modified", "last_modified", "LastModified", "created"))
    return str(checksum or [info.get("size"), *(str(when) for when in times if when)])


def _replace(part: Path, path: Path) -> None:
    """Put a file that is on disk, also after a power cut, in the place of another."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _stat(path: Path) -> Stat:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ino]  # clocks of file systems tick every few milliseconds
