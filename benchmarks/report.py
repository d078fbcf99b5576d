"""How long the report of a large run takes to write, how large it is, and how soon a browser can use it.

Run: python benchmarks/report.py runs/demo --samples 50000
The samples of a finished run are repeated under other ids until there are enough. The browser is headless Chromium;
usable is the page when its script has filled the browsers, and a search of all samples has been answered.
"""

import argparse
import math
import shutil
import tempfile
import time
from pathlib import Path

import polars as pl

from stillhouse.reporting import report_run
from stillhouse.schemas import TABLES
from stillhouse.store import RunFolder
from tests.conftest import chromium

BY_SAMPLE = ("responses", "scores", "decisions")
LOADS = 5


def enlarge(source: RunFolder, target: RunFolder, samples: int) -> int:
    """Write the tables of a run with its samples repeated; return their number."""
    shutil.copytree(source.path, target.path)
    times = math.ceil(samples / len(source.read_table("responses")))
    for name in BY_SAMPLE:
        table = source.read_table(name)
        copies = [table.with_columns(pl.format("{}-{}", "sample_id", pl.lit(number))) for number in range(times)]
        target.write_table(name, pl.concat(copies).select(TABLES[name].names()))
    return len(target.read_table("responses"))


def seconds_until_usable(page: Path) -> list[float]:
    """Return for some loads the seconds until the page has answered a search."""
    found = []
    with chromium() as browser:
        for _ in range(LOADS):
            context = browser.new_context()
            tab = context.new_page()
            started = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready]")
            tab.fill("#samples [name=words]", "the")
            tab.wait_for_function("document.getElementById('samples-found').textContent.includes('of')")
            found.append(time.perf_counter() - started)
            context.close()
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=50_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        count = enlarge(RunFolder(options.run), folder, options.samples)
        started = time.perf_counter()
        page = report_run(folder.path)
        written = time.perf_counter() - started
        loads = sorted(seconds_until_usable(page))
        size = page.stat().st_size / 1e6
        print(f"{count:,} samples: written in {written:.1f} s, {size:.1f} MB, usable after {loads[LOADS // 2]:.2f} s "
              f"(median of {LOADS} loads; the slowest {loads[-1]:.2f} s)")  # fmt: skip


if __name__ == "__main__":
    main()
