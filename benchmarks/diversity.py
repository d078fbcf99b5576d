"""Diversity selections against their plain versions: seconds, gain evaluations, same picks; time and memory at 100,000.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python benchmarks/diversity.py

Rows are mixtures of the bundled encoder's vectors of 1,786 attribute names, 384 dimensions; a tenth of them is chosen.
Seconds are of the processor. The plain versions read the same rounded rows: one matrix-vector product per pick for
k-center, all gains anew per pick for facility location. Memory is the growth of the peak (Linux).
"""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from curation.diversity import (
    DENSE_ROWS,
    NEIGHBOURS,
    STEP,
    all_covers,
    facility_location,
    k_center,
    lazy_greedy,
    nearest_covers,
)
from stillhouse.encoder import load_encoder
from stillhouse.sections import OFFLINE_ENCODER

NAMES = Path(__file__).parent.parent / "tests" / "data" / "attribute_names.csv"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
WEIGHT = 0.5


def main() -> None:
    """Print the figures."""
    with NAMES.open(encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    named = load_encoder(OFFLINE_ENCODER, "cpu").encode(names)
    compare_k_center(mixtures(named, 20_000))
    compare_facility_location(mixtures(named, DENSE_ROWS))
    measure_large(mixtures(named, 100_000))


def mixtures(named: np.ndarray, count: int) -> np.ndarray:
    """Return `count` unit vectors: one name, half of another, and some noise; the same ones each time."""
    rng = np.random.default_rng(0)
    mixed = named[rng.integers(0, len(named), count)]
    mixed += named[rng.integers(0, len(named), count)] / 2
    mixed += 0.02 * rng.standard_normal(mixed.shape, dtype=np.float32)
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    return mixed


def compare_k_center(vectors: np.ndarray) -> None:
    """Print k-center beside one matrix-vector product per pick."""
    budget = len(vectors) // 10
    found, fast = timed(lambda: k_center(vectors, budget))
    plain, slow = timed(lambda: plain_k_center(rounded(vectors), budget, found[0]))
    print(f"k-center, {budget:,} of {len(vectors):,}")
    print(f"  one product per pick   {slow:8.2f} s")
    print(f"  k_center               {fast:8.2f} s    {slow / fast:.1f} times faster, {same(found, plain)}")


def compare_facility_location(vectors: np.ndarray) -> None:
    """Print facility location on all similarities, lazy and with all gains anew per pick."""
    n, values = len(vectors), values_of(vectors)
    found, fast = timed(lambda: facility_location(vectors, values, n // 10, WEIGHT))
    plain, slow = timed(lambda: plain_facility_location(rounded(vectors), values, n // 10))
    gains = evaluations(all_covers(rounded(vectors)), values)
    print(f"facility location, {n // 10:,} of {n:,}, all similarities")
    print(f"  all gains per pick     {slow:8.2f} s    {n * (n // 10):>13,} gains")
    print(f"  facility_location      {fast:8.2f} s    {gains:>13,} gains, {slow / fast:.0f} times faster, ", end="")
    print(same(found, plain))


def measure_large(vectors: np.ndarray) -> None:
    """Print seconds and memory of both selections, and an estimate of what all gains per pick would take."""
    n, values = len(vectors), values_of(vectors)
    CLEAR.write_text("5")  # the peak starts anew
    before = peak()
    _, centre = timed(lambda: k_center(vectors, n // 10))
    between = peak()
    CLEAR.write_text("5")
    covers, graph = timed(lambda: nearest_covers(rounded(vectors), NEIGHBOURS))
    _, greedy = timed(lambda: lazy_greedy(covers, values, n // 10, WEIGHT))
    after, gains = peak(), evaluations(covers, values)
    naive = greedy / gains * n * (n // 10)
    print(f"{n // 10:,} of {n:,}")
    print(f"  k_center               {centre:8.1f} s    {between - before:.0f} MB")
    print(f"  {NEIGHBOURS} nearest rows        {graph:8.1f} s")
    print(
        f"  lazy greedy on them    {greedy:8.1f} s    {gains:>13,} gains; {after - before:.0f} MB with the nearest rows"
    )
    print(f"  all gains per pick     {naive:8.0f} s    {n * (n // 10):>13,} gains; extrapolated, not run")


def plain_k_center(vectors: np.ndarray, budget: int, start: int) -> list[int]:
    """Return the farthest-first traversal from `start`."""
    chosen, nearest = [start], vectors @ vectors[start]
    nearest[start] = np.inf
    while len(chosen) < budget:
        chosen.append(int(nearest.argmin()))
        np.maximum(nearest, vectors @ vectors[chosen[-1]], out=nearest)
        nearest[chosen[-1]] = np.inf
    return chosen


def plain_facility_location(vectors: np.ndarray, values: np.ndarray, budget: int) -> list[int]:
    """Return the greedy choice, from all gains at each pick."""
    n, chosen = len(vectors), []
    similarity = np.maximum(vectors @ vectors.T, 0)
    worth = (1 - WEIGHT) * values / np.sort(values)[n - budget :].sum()
    cover = np.zeros(n, dtype=np.float32)
    for _ in range(budget):
        gains = worth + WEIGHT * np.maximum(similarity - cover, 0).sum(axis=1, dtype=np.float64) / n
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        cover = np.maximum(cover, similarity[chosen[-1]])
    return chosen


def evaluations(covers: Any, values: np.ndarray) -> int:
    """Return how many gains the lazy greedy evaluates."""

    class Counted(list):
        reads = 0

        def __getitem__(self, row: Any) -> Any:
            self.reads += 1
            return super().__getitem__(row)

    counted, budget = Counted(covers), len(covers) // 10
    lazy_greedy(counted, values, budget, WEIGHT)
    return counted.reads - budget  # a chosen row is read once more


def rounded(vectors: np.ndarray) -> np.ndarray:
    """Return the rows as the selections read them."""
    return np.rint(vectors / STEP) * STEP


def values_of(vectors: np.ndarray) -> np.ndarray:
    """Return a uniform value for each row."""
    return np.random.default_rng(1).uniform(size=len(vectors))


def same(found: Any, plain: list[int]) -> str:
    """Return whether both chose the same rows in the same order, in words."""
    return "same picks" if found.tolist() == plain else f"{np.sum(found != plain)} picks differ"


def peak() -> float:
    """Return the peak of the memory in MB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` returns, and its processor seconds."""
    started = time.process_time()
    found = work()
    return found, time.process_time() - started


if __name__ == "__main__":
    main()
