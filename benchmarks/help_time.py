"""How long `stillhouse --help` takes, against Python's own start.

Run: python benchmarks/help_time.py
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15


def median_seconds(command: list[str]) -> float:
    """Return the median wall time of RUNS runs, after one to warm up."""
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    helped = median_seconds([str(Path(sys.executable).parent / "stillhouse"), "--help"])
    bare = median_seconds([sys.executable, "-c", "pass"])
    print(f"stillhouse --help {helped:.3f} s, bare Python {bare:.3f} s, ratio {helped / bare:.1f} ({RUNS} runs each)")
