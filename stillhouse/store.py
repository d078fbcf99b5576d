"""A run is a folder: recipe, manifest, one Parquet table per stage, each written whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from filelock import FileLock, Timeout

from stillhouse.errors import InputError, RunError
from stillhouse.recipe import Recipe, load_recipe
from stillhouse.remote import LOCK, OWN_FILES, PULLING, Remote, remote_of
from stillhouse.schemas import TABLES, conform


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write; a reader of `path` sees the old content or the new, also after a crash."""
    temporary = path.with_name(f".{path.name}.part")
    yield temporary
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that people can read, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing_keys(path: Path, about: Mapping[str, Any], aside: frozenset[str] = frozenset()) -> list[str]:
    """Return the keys, but for those `aside`, whose values in a JSON file are not those of `about`."""
    known = json.loads(path.read_text(encoding="utf-8"))
    keys = (about.keys() | known.keys()) - aside
    return sorted(key for key in keys if about.get(key) != known.get(key))


def claim_folder(
    folder: Path, name: str, about: Mapping[str, Any], kind: str, aside: frozenset[str] = frozenset()
) -> None:
    """Take a folder for the work of a `kind` that `about` describes, in its file `name`; or find it taken for that.

    Raises InputError where it holds another one, or anything else. Keys `aside` may differ.
    """
    path = folder / name
    if path.exists():
        other = differing_keys(path, about, aside)
        if other:
            raise InputError(f"{folder} holds an {kind} with another {', '.join(other)}; give a new folder with --out")
    elif folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already and is no {kind}; give a new folder with --out")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, about)


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a Parquet file whole or not at all."""
    try:
        with replacing(path) as temporary:
            frame.write_parquet(temporary)
    except pl.exceptions.PolarsError as error:
        cause = str(error).partition("\n")[0]
        raise RunError(f"{path} cannot be written ({cause}); what was there stays. Is the disk full?") from error


def replace_folder(new: Path, old: Path) -> None:
    """Put folder `new` in the place of `old`; a crash in between leaves one of them whole."""
    for path in new.rglob("*"):
        _sync(path)
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    _sync(old.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        """Point at a run folder; nothing is created before something is written."""
        self.path = path

    @property
    def remote(self) -> Remote | None:
        """Storage that the run lives in, where the folder is only where it is worked on."""
        return remote_of(self.path)

    def __str__(self) -> str:
        """Return what a command takes for the run: its folder or its URL."""
        return self.remote.url if self.remote else str(self.path)

    def shown(self, path: Path) -> str:
        """Return what a user calls a file of the run: a path, or a URL, as only there a deletion counts."""
        return f"{self}/{path.relative_to(self.path).as_posix()}"

    @property
    def imported_path(self) -> Path:
        """Rows of somebody else's data as they were given, with their sample ids."""
        return self.path / "imported.parquet"

    @property
    def vectors_path(self) -> Path:
        """Embeddings of the samples."""
        return self.path / "vectors.npz"

    @property
    def difficulty_path(self) -> Path:
        """Difficulties as they were computed, for another run of the stage `scores`."""
        return self.path / "difficulty.jsonl"

    @property
    def journal_path(self) -> Path:
        """File of the teacher's answers."""
        return self.path / "journal.sqlite"

    @property
    def has_journal(self) -> bool:
        """Whether there is a journal to open: its file is here, or the storage of the run may hold some of it."""
        return self.journal_path.exists() or self.remote is not None

    @property
    def recipe_path(self) -> Path:
        """File of the resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def edits_path(self) -> Path:
        """File of the instructions as a person edited them; there only after an import."""
        return self.path / "edited_instructions.yaml"

    @property
    def dataset_path(self) -> Path:
        """Folder of the published-shape dataset."""
        return self.path / "dataset"

    @property
    def review_path(self) -> Path:
        """Folder of what was asked of annotators, and what they said."""
        return self.path / "review"

    @property
    def findings_path(self) -> Path:
        """What the audit found, as data."""
        return self.path / "audit.json"

    @property
    def gates_path(self) -> Path:
        """What the gates found, as data."""
        return self.path / "gates.json"

    def cut_path(self, name: str) -> Path:
        """Folder of a cut that was made beside the run's own."""
        return self.path / "cuts" / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, and keep it the same in its storage.

        Raises RunError where another process holds it, here or on another host, or its storage cannot be reached.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            # Who only looks holds the lock while it fetches, and is waited for.
            with FileLock(self.path / PULLING) if self.remote else nullcontext():
                lock = FileLock(self.path / LOCK).acquire(timeout=0.5)
            with lock, self.remote.held() if self.remote else nullcontext():
                yield
        except Timeout as error:
            raise RunError(f"another process is working on {self}; wait for it or use --out") from error

    def keep(self, place: Path) -> None:
        """Take what a command that does not hold the run wrote into a folder of it to its storage, where it has one."""
        if self.remote and place.is_relative_to(self.path):
            self.remote.push(place.relative_to(self.path).as_posix())

    def manifest(self) -> dict[str, Any]:
        """Return the manifest; a new run has one without stages.

        Raises InputError where the manifest is damaged or not ours, or the folder holds something else.
        """
        path = self.path / "manifest.json"
        if not path.exists():
            if any(entry.name not in OWN_FILES for entry in self.path.iterdir()):
                raise InputError(f"{self} is not empty and not a run folder; give a new folder with --out")
            return {"stages": {}, "seconds": {}}
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); move it away and run again") from error
        if not isinstance(manifest, dict) or not {"stages", "seconds"} <= manifest.keys():
            raise InputError(f"{path} is not the manifest of a run")
        return manifest

    def findings(self) -> dict[str, Any]:
        """Return what the audit found."""
        return self._found(self.findings_path)

    def found_by_gates(self) -> dict[str, Any]:
        """Return what the gates found."""
        return self._found(self.gates_path)

    def _found(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = f"`stillhouse review apply {self.path}` makes it"
            raise InputError(f"{path} is not there, or damaged ({error}); {remedy}") from error
        return found

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest; all that it tells of goes into the storage of the run before it, where there is one."""
        if self.remote:
            self.remote.note_deletions()
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        write_atomically(self.path / "manifest.json", text.encode())
        if self.remote:
            self.remote.push()

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep the resolved recipe, every default included."""
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomically(self.recipe_path, text.encode())
        if self.remote:
            self.remote.push()

    def table_path(self, name: str) -> Path:
        """File of a table."""
        return self.path / f"{name}.parquet"

    def made(self) -> list[str]:
        """Return the tables of the stages that are done; imported pairs fill all tables up to `responses` at once."""
        done, names = self.manifest()["stages"], list(TABLES)
        imported = "responses" in done and load_recipe(self.recipe_path).imported is not None
        first = names[: names.index("responses")] if imported else []
        return [name for name in names if name in done or name in first]

    def write_table(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table whole, in its schema."""
        write_parquet(self.table_path(name), conform(frame, TABLES[name], name))

    def scan_table(self, name: str) -> pl.LazyFrame:
        """Return a table that is read as far as it is used. Raises InputError where it is not there, or damaged."""
        path = self.table_path(name)
        if not path.exists():
            raise InputError(f"{self.path} has no table {name}; `stillhouse run` makes it")
        frame = pl.scan_parquet(path, glob=False)
        with self._readable(name):
            conform(frame.collect_schema().to_frame(), TABLES[name], name)
        return frame

    def read_table(self, name: str) -> pl.DataFrame:
        """Read a table and check that it still has its schema."""
        frame = self.scan_table(name)
        with self._readable(name):
            return conform(frame.collect(), TABLES[name], name)

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except pl.exceptions.PolarsError as error:
            file = self.shown(self.table_path(name))
            raise InputError(f"{file} cannot be read ({error}); delete it and run again") from error
