"""Exact near-duplicates against matrix products and semhash: processor seconds, memory, and the rows kept.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/near_duplicates.py --texts SENTIBENCH [--cache FILE.npy]

SENTIBENCH holds */*/train.json with the key `sentence`; 15,000 of the texts are embedded by the bundled encoder
(minutes; kept in the cache). 20,000 and 100,000 rows are these, mixtures of two of them, and a fifth perturbed copies.
Seconds are those of the process on one thread, so that a busy machine changes them little. semhash is a peer only:
pip install semhash.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.encoder import load_encoder
from stillhouse.near_duplicates import find_near_duplicates
from stillhouse.sections import OFFLINE_ENCODER

THRESHOLD, BLOCK_ROWS = 0.9, 1024
REAL, SMALL, LARGE = 15_000, 20_000, 100_000

Vectors = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "stillhouse-near-duplicates.npy")
    arguments = parser.parse_args()
    if not arguments.cache.exists():
        np.save(arguments.cache, load_encoder(OFFLINE_ENCODER, "cpu").encode(read_sentences(arguments.texts)))
    real = np.load(arguments.cache)
    small, large = extend(real, SMALL), extend(real, LARGE)
    print(f"rows     side                              CPU s   ratio   kept     against ours, cosine >= {THRESHOLD}")
    compare(real, {"exact greedy, double precision": exact_greedy, "blocked products": blocked_products})
    compare(
        small,
        {
            "exact greedy, double precision": exact_greedy,
            "blocked products": blocked_products,
            "blocked products, nearest row": blocked_products_with_nearest,
            "full matrix": full_matrix,
            "semhash, usearch": semhash,
        },
    )
    compare(
        large, {"blocked products": blocked_products, "blocked products, nearest row": blocked_products_with_nearest}
    )
    print(f"memory beyond the input at {LARGE:,} rows: {extra_megabytes(large):.0f} MB (peak of a process of its own)")


def compare(vectors: Vectors, peers: dict[str, Callable[[Vectors], Flags]]) -> None:
    """Print a line for ours, the best of three, and for each peer."""
    seconds, kept = min((timed(ours, vectors) for _ in range(3)), key=lambda result: result[0])
    print(f"{len(vectors):7,}  {'ours':32} {seconds:6.2f}           {kept.sum():6,}")
    for name, peer in peers.items():
        theirs, found = timed(peer, vectors)
        other = np.count_nonzero(found != kept)
        told = f"{other} rows differ" if other else "same rows"
        print(f"{'':7}  {name:32} {theirs:6.2f}  {theirs / seconds:6.1f}   {found.sum():6,}   {told}", flush=True)


def timed(run: Callable[[Vectors], Flags], vectors: Vectors) -> tuple[float, Flags]:
    """Return processor seconds and the kept rows."""
    started = time.process_time()
    kept = run(vectors)
    return time.process_time() - started, kept


def ours(vectors: Vectors) -> Flags:
    """Find the kept rows and each dropped row's nearest."""
    return find_near_duplicates(vectors, THRESHOLD).kept


def blocked_products(vectors: Vectors) -> Flags:
    """Find the kept rows only: a row is dropped at its first match and compared no further."""
    n = len(vectors)
    kept = np.ones(n, np.bool_)
    for start in range(0, n, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, n))
        for other in range(0, start, BLOCK_ROWS):
            before = np.flatnonzero(kept[other : other + BLOCK_ROWS]) + other
            left = rows[kept[rows]]
            kept[left[(vectors[left] @ vectors[before].T >= THRESHOLD).any(axis=1)]] = False
        left = rows[kept[rows]]
        near = vectors[left] @ vectors[left].T >= THRESHOLD
        for number, row in enumerate(left):
            kept[row] = not (near[number, :number] & kept[left[:number]]).any()
    return kept


def blocked_products_with_nearest(vectors: Vectors) -> Flags:
    """Find the kept rows and every row's nearest kept row: what `find_near_duplicates` was before it had bounds."""
    n = len(vectors)
    kept, nearest, similarity = np.zeros(n, np.bool_), np.full(n, -1), np.full(n, -np.inf)
    for start in range(0, n, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, n))
        for other in range(0, start, BLOCK_ROWS):
            before = np.flatnonzero(kept[other : other + BLOCK_ROWS]) + other
            _raise_nearest(vectors[rows] @ vectors[before].T, rows, before, nearest, similarity)
        within = vectors[rows] @ vectors[rows].T
        for row in rows:
            before = np.flatnonzero(kept[start:row]) + start
            _raise_nearest(within[row - start, before - start][None], rows[[row - start]], before, nearest, similarity)
            kept[row] = similarity[row] < THRESHOLD
    return kept


def _raise_nearest(products: Vectors, rows: Any, columns: Any, nearest: Any, similarity: Any) -> None:
    if len(columns):
        best = products.argmax(axis=1)
        values = products[np.arange(len(rows)), best]
        higher = values > similarity[rows]
        nearest[rows[higher]], similarity[rows[higher]] = columns[best[higher]], values[higher]


def full_matrix(vectors: Vectors) -> Flags:
    """Find the kept rows from one matrix of all products."""
    return _greedy(vectors @ vectors.T >= THRESHOLD)


def exact_greedy(vectors: Vectors) -> Flags:
    """Find the kept rows from all cosines in double precision."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return _greedy(np.concatenate([unit[row : row + 1000] @ unit.T >= THRESHOLD for row in range(0, len(unit), 1000)]))


def _greedy(near: Flags) -> Flags:
    kept = np.zeros(len(near), np.bool_)
    for row in range(len(near)):
        kept[row] = not (near[row, :row] & kept[:row]).any()
    return kept


def semhash(vectors: Vectors) -> Flags:
    """Find the rows that semhash keeps."""
    try:
        from semhash import SemHash
    except ImportError as error:
        raise SystemExit("this benchmark compares with semhash; install it: pip install semhash") from error
    index = SemHash.from_embeddings(vectors, [str(row) for row in range(len(vectors))], model=None)
    kept = np.zeros(len(vectors), np.bool_)
    kept[[int(row) for row in index.self_deduplicate(threshold=THRESHOLD).selected]] = True
    return kept


def extra_megabytes(vectors: Vectors) -> float:
    """Return by how much the peak memory of a new process grows while it searches."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "vectors.npy", vectors)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_growth, (str(Path(folder) / "vectors.npy"),))


def _growth(path: str) -> float:
    vectors = np.load(path)
    before = _kilobytes("VmRSS")
    find_near_duplicates(vectors, THRESHOLD)
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(field: str) -> int:
    """Return a figure of this process as Linux keeps it; getrusage would count the parent's peak as well."""
    return int(Path("/proc/self/status").read_text("utf-8").split(f"{field}:")[1].split()[0])


def read_sentences(folder: Path) -> list[str]:
    """Return REAL distinct sentences of the train files under `folder`, in a fixed random order."""
    rows = [row for file in sorted(folder.glob("*/*/train.json")) for row in json.loads(file.read_text("utf-8-sig"))]
    sentences = list(dict.fromkeys(row["sentence"] for row in rows))
    return [sentences[number] for number in np.random.default_rng(0).permutation(len(sentences))[:REAL]]


def extend(real: Vectors, count: int) -> Vectors:
    """Return `count` unit rows in random order: the real ones, mixtures of two, a fifth perturbed copies of these."""
    rng = np.random.default_rng(0)
    originals = round(0.8 * count)
    one, two = real[rng.integers(0, len(real), (2, originals - len(real)))]
    weight = rng.uniform(0.3, 0.7, (len(one), 1)).astype(np.float32)
    rows = _unit(np.concatenate([real, weight * one + (1 - weight) * two]))
    copies = rows[rng.integers(0, originals, count - originals)]
    noise = rng.normal(size=copies.shape) * rng.uniform(0, 0.025, (len(copies), 1))  # cosines of 0.9 to 1
    return np.concatenate([rows, _unit(copies + noise.astype(np.float32))])[rng.permutation(count)]


def _unit(rows: Vectors) -> Vectors:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
