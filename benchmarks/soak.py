"""A long run against a faulty endpoint: is memory flat, are descriptors flat, is an answer lost or asked for twice?

    python benchmarks/soak.py [--minutes 30] [--at FOLDER]

`stillhouse run` answers a made-up recipe (benchmarks/scale_run.py) by an endpoint in another process, which takes 50 to
500 ms and fails in eleven ways (benchmarks/soak_server.py). After the minutes it gets Ctrl-C, finishes what is in
flight, and its journal is compared with what the endpoint says it delivered. Samples, log and curves are left in
FOLDER. The exit code is 1 where a verdict is no.

Memory is what the process has for itself (USS). A stage holds its rows until their table is written, and 64 bits of
each answer's key: what they take is measured in a run that gets the same answers, where nothing fails and nobody waits
(benchmarks/soak_replay.py). It is told, and taken off before the rest is called flat.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from benchmarks.scale_run import make_run
from benchmarks.soak_replay import replay
from benchmarks.soak_server import FaultyEndpoint, counts_of, faulty_endpoint
from pipelines.journal import Journal
from stillhouse.job import quiet_libraries
from stillhouse.plotting import INK, PALE, new_figure, plain_words, save_figure
from stillhouse.store import RunFolder
from tests.teacher_server import MODEL, requests_on_disk

TEXTS = 4_000
CONCURRENCY, TIMEOUT = 16, 5.0  # requests, seconds
MOST_ROWS_PER_SECOND = 120  # so that the rows last
EVERY = 5.0  # seconds between two samples
WARM_UP = 0.15  # of the time: imports, pools and caches fill up
LINES = 10
ENDS_WITHIN = 60.0  # seconds after Ctrl-C

# Tolerances. Memory comes in arenas of 1 MB and a growing set doubles, so half an hour cannot tell 10 MB an hour from
# none; connections come and go with the limit of requests, which gives descriptors a spread of a few. At these
# figures a run of eight hours would end with 80 MB and 32 descriptors more than it began with, of 1,024 allowed.
MB_PER_HOUR, DESCRIPTORS_PER_HOUR, SLOWER = 10.0, 4.0, 0.1


@dataclass(frozen=True)
class Verdict:
    """A figure, what it may be, and whether it is."""

    name: str
    figure: str
    allowed: str
    holds: bool


@dataclass(frozen=True)
class Exactness:
    """How the journal and the endpoint differ, in requests, and how often an answered one was asked for again."""

    delivered: int
    lost: int
    unknown: int
    asked_again: int


def main() -> None:
    """Run, print the table and the verdicts, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--at", type=Path)
    given = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as spare:
        verdicts = soak(given.at or Path(spare), given.minutes * 60)
    sys.exit(0 if all(verdict.holds for verdict in verdicts) else 1)


def soak(place: Path, seconds: float) -> list[Verdict]:
    """Run for some seconds in a folder, print what was seen, and return the verdicts."""
    run = place / "run"
    with faulty_endpoint() as endpoint:
        prepare(run, endpoint, round(seconds * MOST_ROWS_PER_SECOND))
        _, samples = watch(run, endpoint, seconds)
        exact = exactness(run, endpoint)
        given, delivered = endpoint.found()
    samples = with_by_design(samples, replay(run))
    samples.write_csv(place / "samples.csv", float_precision=3)
    draw(samples, place / "soak.svg")
    print_samples(samples)
    print_faults(counts_of(given, delivered))
    print_ends(run, given, delivered)
    verdicts = [_lasted(samples, seconds), *flatness(samples), *_exact(exact)]
    print_verdicts(verdicts)
    return verdicts


def prepare(run: Path, endpoint: FaultyEndpoint, rows: int) -> None:
    """Write a run folder in which so many rows are to be answered by the endpoint."""
    make_run(
        RunFolder(run),
        min(TEXTS, rows),
        teacher={"backend": "endpoint", "base_url": endpoint.base_url, "model": MODEL, "api": "chat"},
        runtime={"concurrency": CONCURRENCY, "timeout": TIMEOUT},
        responses={"samples": rows},
    )


def watch(run: Path, endpoint: FaultyEndpoint, seconds: float, every: float = EVERY) -> tuple[int, pl.DataFrame]:
    """Run up to the responses, with Ctrl-C after some seconds of answers; return the exit code and the samples."""
    command = [str(Path(sys.executable).with_name("stillhouse")), "run", str(RunFolder(run).recipe_path)]
    samples: list[dict[str, float]] = []
    before, started = endpoint.figures()["rows"], 0.0
    with (run.parent / "run.log").open("ab") as log, ExitStack() as at_end:
        process = subprocess.Popen([*command, "--out", run, "--until", "responses"], stdout=log, stderr=log)  # noqa: S603
        at_end.callback(process.kill)
        watched = psutil.Process(process.pid)
        while not _has_ended(process, every):
            figures = endpoint.figures()
            if figures["rows"] == before:
                continue
            started = started or time.monotonic()
            with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it has just ended
                samples.append(_sample(time.monotonic() - started, watched, run, endpoint, figures))
            if time.monotonic() - started >= seconds:
                process.send_signal(signal.SIGINT)
                process.wait(ENDS_WITHIN)
    while endpoint.figures()["in_flight"]:
        time.sleep(0.1)
    return process.returncode, pl.DataFrame(samples)


def _has_ended(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _sample(
    seconds: float, watched: psutil.Process, run: Path, endpoint: FaultyEndpoint, figures: dict[str, int]
) -> dict[str, float]:
    memory, files = watched.memory_full_info(), run.glob("journal.sqlite*")
    return {
        "seconds": seconds,
        "uss_mb": memory.uss / 1e6,
        "rss_mb": memory.rss / 1e6,
        "descriptors": watched.num_fds(),
        "sockets": len(watched.net_connections("tcp")),
        "threads": watched.num_threads(),
        "journal_mb": sum(file.stat().st_size for file in files) / 1e6,
        "cpu_seconds": sum(watched.cpu_times()[:2]),
        "server_cpu_seconds": sum(endpoint.process.cpu_times()[:2]),
        **figures,
    }


def exactness(run: Path, endpoint: FaultyEndpoint) -> Exactness:
    """Compare the journal with what the endpoint delivered whole."""
    delivered, kept = endpoint.found()[1], requests_on_disk(run, endpoint.base_url)
    return Exactness(len(delivered), len(delivered - kept), len(kept - delivered), endpoint.figures()["asked_again"])


def with_by_design(samples: pl.DataFrame, curve: pl.DataFrame) -> pl.DataFrame:
    """Return the samples with `by_design_mb`: what a run without faults has more at so many rows than at the first."""
    curve = curve.group_by("rows").agg(pl.col("uss_mb").median()).sort("rows")
    memory = np.interp(samples["rows"], curve["rows"], curve["uss_mb"])
    return samples.with_columns(by_design_mb=memory - memory[0])


def flatness(samples: pl.DataFrame) -> list[Verdict]:
    """Return the verdicts on memory, descriptors and speed after the warm-up.

    Slopes are Theil and Sen's: the median of the slopes of all pairs of samples, which a few high ones do not move.
    """
    from scipy.stats import theilslopes

    warm = _warm(samples)
    hours = warm["seconds"] / 3600
    own = theilslopes(warm["uss_mb"] - warm["by_design_mb"], hours)
    descriptors = theilslopes(warm["descriptors"], hours)
    first, last = _rows_per_second(samples, 0, 1), _rows_per_second(samples, 2, 3)
    return [
        _slope("memory, besides the rows", own, "MB", MB_PER_HOUR),
        _slope("descriptors", descriptors, "", DESCRIPTORS_PER_HOUR),
        Verdict(
            "rows per second",
            f"{first:.1f} in the first third, {last:.1f} in the last",
            f"at most {SLOWER:.0%} less",
            last >= (1 - SLOWER) * first,
        ),
    ]


def _warm(samples: pl.DataFrame) -> pl.DataFrame:
    return samples.filter(pl.col("seconds") >= WARM_UP * samples["seconds"][-1])


def _lasted(samples: pl.DataFrame, seconds: float) -> Verdict:
    lasted = samples["seconds"][-1]
    return Verdict("minutes until Ctrl-C", f"{lasted / 60:.1f}", f"{seconds / 60:g}", lasted >= seconds)


def _slope(name: str, found: Any, unit: str, most: float) -> Verdict:
    told = f"{found.slope:+.2f} {unit} an hour (95 %: {found.low_slope:+.2f} to {found.high_slope:+.2f})"
    return Verdict(name, told.replace("  ", " "), f"at most {most:g}", found.high_slope <= most)


def _rows_per_second(samples: pl.DataFrame, first: int, last: int) -> float:
    end = samples["seconds"][-1] / 3
    part = samples.filter(pl.col("seconds").is_between(first * end, last * end))
    return float((part["rows"][-1] - part["rows"][0]) / (part["seconds"][-1] - part["seconds"][0]))


def _exact(found: Exactness) -> list[Verdict]:
    told = f"of {found.delivered:,} delivered whole"
    return [
        Verdict("answers that are not in the journal", f"{found.lost} {told}", "0", found.lost == 0),
        Verdict("answers of the journal that nobody gave", str(found.unknown), "0", found.unknown == 0),
        Verdict("asked for again after an answer", str(found.asked_again), "0", found.asked_again == 0),
    ]


def print_samples(samples: pl.DataFrame) -> None:
    """Print the last sample of each tenth of the time, and how busy the processors were."""
    names = (
        "rows",
        "answers",
        "uss_mb",
        "by_design_mb",
        "rss_mb",
        "descriptors",
        "sockets",
        "threads",
        "server_open",
        "journal_mb",
    )
    print(f"{'minute':>7}" + "".join(f"{name:>13}" for name in names))
    tenth = (pl.col("seconds") / samples["seconds"][-1] * LINES).ceil().clip(1)
    for row in samples.group_by(tenth.alias("tenth"), maintain_order=True).last().iter_rows(named=True):
        told = (f"{row[name]:13,.1f}" if name.endswith("_mb") else f"{row[name]:13,}" for name in names)
        print(f"{row['seconds'] / 60:7.1f}" + "".join(told))
    last, first = samples.row(-1, named=True), samples.row(0, named=True)
    shares = ((last[name] - first[name]) / (last["seconds"] - first["seconds"]) for name in CPU)
    print("of one core: " + ", ".join(f"{name} {share:.0%}" for name, share in zip(CPU.values(), shares, strict=True)))


CPU = {"cpu_seconds": "the run", "server_cpu_seconds": "the endpoint"}


def print_faults(counts: dict[str, tuple[int, int]]) -> None:
    """Print how many requests got what, and how many of those are of calls that were answered in the end."""
    total = sum(requests for requests, _ in counts.values())
    print(f"\n{'the endpoint gave':24}{'requests':>10}{'share':>8}{'answered in the end':>21}")
    for kind, (requests, ended) in counts.items():
        print(f"{kind:24}{requests:10,}{requests / total:8.1%}{ended:21,}")


def print_ends(run: Path, given: dict[str, list[str]], delivered: set[str]) -> None:
    """Print what became of the calls without an answer."""
    with Journal(run / "journal.sqlite") as journal:
        failed = len({call_id for _, call_id, _, _, is_answered in journal.failures() if not is_answered})
    told = {"answered": len(delivered), "failed for good": failed, "left over": len(given) - len(delivered) - failed}
    print(f"{len(given):,} calls: " + ", ".join(f"{count:,} {name}" for name, count in told.items()))


def print_verdicts(verdicts: list[Verdict]) -> None:
    """Print a line for each."""
    print()
    for verdict in verdicts:
        print(f"{'yes' if verdict.holds else 'NO':4}{verdict.name}: {verdict.figure} ({verdict.allowed})")


def draw(samples: pl.DataFrame, path: Path) -> None:
    """Draw memory, descriptors and rows per second against time."""
    minutes = samples["seconds"] / 60
    speed = samples["rows"].diff() / samples["seconds"].diff()
    memory = samples["uss_mb"]
    curves = {
        "memory of its own, MB; pale: of a run where nothing fails": memory,
        "open descriptors": samples["descriptors"],
        "rows per second, over a minute": speed.rolling_mean(round(60 / EVERY), min_samples=1),
    }
    with plain_words():
        figure, axes = new_figure(7, 5, nrows=len(curves), sharex=True)
        for one, (name, values) in zip(axes, curves.items(), strict=True):
            one.plot(minutes, values, color=INK, linewidth=1)
            one.set_ylim(0, 1.15 * values.max())
            one.set_title(name, loc="left", fontsize=10)
        axes[0].plot(minutes, memory[0] + samples["by_design_mb"], color=PALE, linewidth=3, zorder=0)
        axes[-1].set_xlabel("minutes")
        save_figure(figure, path)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
