"""Embeddings of samples: each distinct part once, on disk, so that a later cut needs no encoder.

They stay in their file: rows are written as they are embedded, and read when they are compared.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
import polars as pl

from stillhouse.encoder import Encoder
from stillhouse.errors import RunError
from stillhouse.near_duplicates import Rows, Vectors
from stillhouse.places import Chunk
from stillhouse.store import replacing

# Of a sample, what is embedded apart: a long instruction that many share would make all of them look alike.
PARTS = ("instruction", "text", "output")
IMPORTED_PARTS = ("prompt", "output")
ENCODED_AT_ONCE = 256
ROWS_AT_ONCE = 16_384
Numbers = npt.NDArray[np.int64]
Encode = Callable[[Iterable[Chunk]], Iterator[Vectors]]


@dataclass(frozen=True)
class Stored:
    """A matrix of float32 in a file, of which rows are read when they are asked for and nothing is held."""

    path: Path
    offset: int  # in bytes, of the first row
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Vectors:
        """Return rows; the file is mapped for this alone, so that pages once read take none of our memory."""
        mapped = np.memmap(self.path, np.float32, "r", self.offset, self.shape)
        return np.array(mapped[rows])


@dataclass(frozen=True)
class Joined:
    """Samples as rows: the vectors of their parts side by side, of length 1 together."""

    parts: list[tuple[Rows, Numbers]]

    @property
    def shape(self) -> tuple[int, int]:
        """Return samples and dimensions."""
        return len(self), sum(matrix.shape[1] for matrix, _ in self.parts)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.parts[0][1])

    def __getitem__(self, rows: Any) -> Vectors:
        """Return rows of shape (rows, parts x d)."""
        joined: Vectors = np.concatenate([matrix[places[rows]] for matrix, places in self.parts], axis=1)
        return joined / np.float32(np.sqrt(len(self.parts)))


@dataclass(frozen=True)
class SampleVectors:
    """Samples' ids and, per part, the vectors of its distinct values and which of them each sample has."""

    ids: list[str]
    parts: Sequence[tuple[Rows, Numbers]]

    def joined(self, ids: Sequence[str] | pl.Series) -> Joined:
        """Return one unit vector per id, to be read row by row; their cosine is the mean of the cosines of the parts.

        A long instruction that many samples share would otherwise make all of them look alike.
        """
        rows = self._rows(ids)
        return Joined([(matrix, places[rows]) for matrix, places in self.parts])

    def dense(self, ids: Sequence[str]) -> Vectors:
        """Return the vectors of `joined` in memory, shape (ids, parts x d)."""
        return self.joined(ids)[:]

    def part(self, number: int, ids: Sequence[str]) -> Vectors:
        """Return the vector of one part of each id, of shape (ids, d)."""
        matrix, places = self.parts[number]
        return matrix[places[self._rows(ids)]]

    def _rows(self, ids: Sequence[str] | pl.Series) -> Numbers:
        known = pl.DataFrame({"id": self.ids}).with_row_index("row")
        asked = pl.DataFrame({"id": ids}, schema={"id": pl.String})
        return asked.join(known, on="id", how="left", maintain_order="left")["row"].to_numpy()

    def save(self, path: Path, about: str) -> None:
        """Write all, whole or not at all; `about` says what the vectors depend on."""
        pieces = (Part(places, len(matrix), _slices(matrix)) for matrix, places in self.parts)
        write_vectors(path, about, self.ids, pieces)


@dataclass(frozen=True)
class Part:
    """One part of all samples: which of its distinct values each has, their number, and their vectors in pieces."""

    places: Numbers
    count: int
    pieces: Iterator[Vectors]


def write_vectors(path: Path, about: str, ids: Sequence[str], parts: Iterable[Part]) -> None:
    """Write vectors piece by piece into a file in NumPy's format npz, whole or not at all."""
    with replacing(path) as temporary, ZipFile(temporary, "w") as archive:
        for number, part in enumerate(parts):
            with _member(archive, f"vectors_{number}") as file:
                for start, piece in enumerate(part.pieces):
                    if start == 0:
                        _begin(file, (part.count, piece.shape[1]))
                    file.write(np.ascontiguousarray(piece, np.float32).data)
            _add(archive, f"places_{number}", part.places)
        _add(archive, "ids", np.array(ids))
        _add(archive, "about", np.array(about))


def _member(archive: ZipFile, name: str) -> IO[bytes]:
    return archive.open(f"{name}.npy", "w", force_zip64=True)


def _begin(file: IO[bytes], shape: tuple[int, int]) -> None:
    np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _add(archive: ZipFile, name: str, values: npt.NDArray[Any]) -> None:
    with _member(archive, name) as file:
        np.lib.format.write_array(file, values, allow_pickle=False)


def load_vectors(path: Path, about: str | None = None) -> SampleVectors | None:
    """Return saved vectors; None where there are none that can be read, or where they are about something else."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if about is not None and str(arrays["about"]) != about:
                return None
            count = sum(name.startswith("vectors_") for name in arrays.files)
            parts = [(_stored(path, f"vectors_{number}"), arrays[f"places_{number}"]) for number in range(count)]
            return SampleVectors(arrays["ids"].tolist(), parts)
    except (BadZipFile, EOFError, ValueError):  # damaged: they are made anew
        return None


def _stored(path: Path, name: str) -> Stored:
    """Return where a matrix stands in a file. Raises ValueError where it is cut off, or not as we write it."""
    with ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        info = archive.getinfo(f"{name}.npy")
        version = np.lib.format.read_magic(member)
        shape, by_columns, kind = np.lib.format.read_array_header_2_0(member)
        if version != (2, 0) or by_columns or kind != np.float32 or info.compress_type:
            raise ValueError(f"{name} is not stored as rows of float32")
        data = shape[0] * shape[1] * kind.itemsize
        # Behind the data stands what follows the member; before it the header, of a length that both tell.
        with path.open("rb") as file:
            file.seek(info.header_offset + 26)
            name_bytes, extra_bytes = np.frombuffer(file.read(4), "<u2").tolist()
        offset = info.header_offset + 30 + name_bytes + extra_bytes + info.file_size - data
    return Stored(path, offset, shape)


def content_of(samples: pl.LazyFrame, columns: Sequence[str]) -> str:
    """Return a digest of what is embedded: a sample's id does not tell its output."""
    digest = hashlib.sha256()
    for column in ("sample_id", *columns):
        for piece in samples.select(column).collect().iter_slices(ROWS_AT_ONCE):
            digest.update("\0".join(piece.to_series()).encode() + b"\0")
    return digest.hexdigest()


def vectors_of(path: Path) -> Callable[[Sequence[str]], Vectors]:
    """Return what embeds samples by their ids, from saved vectors, which are looked up when they are first asked for.

    Raises RunError then, where there are none.
    """
    loaded = cache(load_vectors)

    def dense(ids: Sequence[str]) -> Vectors:
        known = loaded(path)
        if known is None:
            raise RunError(f"{path} is not there, or damaged; delete scores.parquet beside it and run again")
        return known.dense(ids)

    return dense


def embed_parts(
    samples: pl.LazyFrame, columns: Sequence[str], encode: Encode, report: Callable[[int], None] = lambda done: None
) -> Iterator[Part]:
    """Embed the distinct values of each text column of samples; `report` is told values done.

    Nothing is embedded before its pieces are asked for; they have to be, before the next part.
    """
    before = 0
    for column in columns:
        values = samples.select(column).collect()
        distinct = values.unique(maintain_order=True).with_row_index("place")
        places = values.join(distinct, on=column, how="left", maintain_order="left")["place"].to_numpy()
        yield Part(places.astype(np.int64), len(distinct), _told(encode(_chunks(distinct[column])), report, before))
        before += len(distinct)


def _told(pieces: Iterator[Vectors], report: Callable[[int], None], done: int) -> Iterator[Vectors]:
    for piece in pieces:
        done += len(piece)
        report(done)
        yield piece


def _chunks(values: pl.Series) -> Iterator[Chunk]:
    return (values[start : start + ENCODED_AT_ONCE].to_list() for start in range(0, len(values), ENCODED_AT_ONCE))


def _slices(matrix: Rows) -> Iterator[Vectors]:
    return (matrix[start : start + ROWS_AT_ONCE] for start in range(0, len(matrix), ROWS_AT_ONCE))


def embed_samples(
    samples: pl.DataFrame, columns: Sequence[str], encoder: Encoder, report: Callable[[int], None] = lambda done: None
) -> SampleVectors:
    """Embed the text columns of samples (which also have `sample_id`) in memory; see `embed_parts`."""
    parts = embed_parts(samples.lazy(), columns, lambda chunks: map(encoder.encode, chunks), report)
    return SampleVectors(
        samples["sample_id"].to_list(), [(np.concatenate(list(part.pieces)), part.places) for part in parts]
    )
