"""Embeddings of samples: each distinct part once, on disk, so that a later cut needs no encoder."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import polars as pl

from stillhouse.encoder import Encoder
from stillhouse.errors import RunError
from stillhouse.near_duplicates import Vectors
from stillhouse.store import replacing

# Of a sample, what is embedded apart: a long instruction that many share would make all of them look alike.
PARTS = ("instruction", "text", "output")
IMPORTED_PARTS = ("prompt", "output")
ENCODED_AT_ONCE = 256


@dataclass(frozen=True)
class SampleVectors:
    """Samples' ids and, per part, the vectors of its distinct values and which of them each sample has."""

    ids: list[str]
    parts: list[tuple[Vectors, npt.NDArray[np.int64]]]

    def dense(self, ids: Sequence[str]) -> Vectors:
        """Return one unit vector per id; their cosine is the mean of the cosines of the parts.

        Shape (ids, parts x d). A long instruction that many samples share would otherwise make all of them look alike.
        """
        rows = self._rows(ids)
        joined: Vectors = np.concatenate([matrix[places[rows]] for matrix, places in self.parts], axis=1)
        return joined / np.float32(np.sqrt(len(self.parts)))

    def part(self, number: int, ids: Sequence[str]) -> Vectors:
        """Return the vector of one part of each id, of shape (ids, d)."""
        matrix, places = self.parts[number]
        vectors: Vectors = matrix[places[self._rows(ids)]]
        return vectors

    def _rows(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        known = pl.DataFrame({"id": self.ids}).with_row_index("row")
        asked = pl.DataFrame({"id": ids}, schema={"id": pl.String})
        return asked.join(known, on="id", how="left", maintain_order="left")["row"].to_numpy()

    def save(self, path: Path, about: str) -> None:
        """Write all, whole or not at all; `about` says what the vectors depend on."""
        arrays: dict[str, npt.NDArray[Any]] = {
            f"vectors_{number}": matrix for number, (matrix, _) in enumerate(self.parts)
        }
        arrays |= {f"places_{number}": places for number, (_, places) in enumerate(self.parts)}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(about), ids=np.array(self.ids), **arrays)


def load_vectors(path: Path, about: str | None = None) -> SampleVectors | None:
    """Return saved vectors; None where there are none that can be read, or where they are about something else."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if about is not None and str(arrays["about"]) != about:
                return None
            count = sum(name.startswith("vectors_") for name in arrays.files)
            parts = [(arrays[f"vectors_{number}"], arrays[f"places_{number}"]) for number in range(count)]
            return SampleVectors(arrays["ids"].tolist(), parts)
    except (BadZipFile, EOFError, ValueError):  # damaged: they are made anew
        return None


def content_of(samples: pl.DataFrame, columns: Sequence[str]) -> str:
    """Return a digest of what is embedded: a sample's id does not tell its output."""
    digest = hashlib.sha256()
    for column in ("sample_id", *columns):
        digest.update("\0".join(samples[column].to_list()).encode())
    return digest.hexdigest()


def vectors_of(path: Path) -> Callable[[Sequence[str]], Vectors]:
    """Return what embeds samples by their ids, from saved vectors, which are read when they are first asked for.

    Raises RunError then, where there are none.
    """
    loaded = cache(load_vectors)

    def dense(ids: Sequence[str]) -> Vectors:
        known = loaded(path)
        if known is None:
            raise RunError(f"{path} is not there, or damaged; delete scores.parquet beside it and run again")
        return known.dense(ids)

    return dense


def embed_samples(
    samples: pl.DataFrame, columns: Sequence[str], encoder: Encoder, report: Callable[[int], None] = lambda done: None
) -> SampleVectors:
    """Embed the distinct values of the text columns of samples (and `sample_id`); `report` is told values done."""
    parts, before = [], 0
    for column in columns:
        distinct = samples[column].unique(maintain_order=True)
        pieces: list[Vectors] = []
        for start in range(0, len(distinct), ENCODED_AT_ONCE):
            pieces.append(encoder.encode(distinct[start : start + ENCODED_AT_ONCE].to_list()))
            report(before + start + len(pieces[-1]))
        before += len(distinct)
        place_of = pl.DataFrame({column: distinct, "place": np.arange(len(distinct))})
        places = samples.select(column).join(place_of, on=column, how="left", maintain_order="left")["place"]
        parts.append((np.concatenate(pieces), places.to_numpy()))
    return SampleVectors(samples["sample_id"].to_list(), parts)
