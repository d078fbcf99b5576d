"""Every stage and the commands that look at a run, at growing sizes: seconds, rows per second and peak memory.

    python benchmarks/scale.py [--samples 10000,100000,1000000] [--steps texts,responses] [--at FOLDER]

As many texts as samples, of realistic lengths, from Parquet and JSON lines; a teacher and an encoder in this process
that cost nothing, and scores by lot (benchmarks/scale_run.py). Each step runs in a process of its own, and
its peak memory is that of the process. The seconds of a command count its start; those of a stage do not. The runs are
deleted at the end, unless FOLDER is given: there they stay, and steps are run again on what is there. The scores of a
real student of two layers take an hour for a million samples, so they are made where they are asked for only:

    python benchmarks/scale.py --steps "texts,attributes,responses,scores by a student"
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from stillhouse.store import RunFolder

STAGES = ("texts", "attributes", "responses", "scores", "decisions", "audit", "gates", "dataset")
SLOW = "scores by a student"
COMMANDS = {
    "status": ["status", "{run}"],
    "select": ["select", "{run}", "--rate", "0.2"],
    "select with two controls": ["select", "{run}", "--rate", "0.3", "--controls", "random,top"],
    "inspect counts": ["inspect", "{run}", "decisions", "--by", "reason"],
    "inspect some rows": ["inspect", "{run}", "responses", "--where", "status = 'invalid'", "--limit", "3"],
    "inspect one sample": ["inspect", "{run}", "--id", "{sample}"],
    "report": ["report", "{run}"],
}


def main() -> None:
    """Print the table; or, in a process of its own, run one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", default="10000,100000,1000000")
    parser.add_argument("--steps")
    parser.add_argument("--at", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "make":
        from benchmarks.scale_run import make_run

        make_run(RunFolder(given.at), int(given.samples))
        return
    if given.step:
        STEPS[given.step](RunFolder(given.at))
        return
    place = given.at or Path(tempfile.mkdtemp())
    steps = given.steps.split(",") if given.steps else [step for step in (*STEPS, *COMMANDS) if step != SLOW]
    print(f"{'step':26}{'rows':>10}{'seconds':>10}{'rows/s':>12}{'peak GB':>9}")
    try:
        for count in map(int, given.samples.split(",")):
            for found in measure(place / str(count) / "run", count, steps):
                print(
                    f"{found.step:26}{count:10,}{found.seconds:10.2f}{count / found.seconds:12,.0f}{found.memory:9.2f}",
                    flush=True,
                )
    finally:
        if not given.at:
            shutil.rmtree(place)


@dataclass(frozen=True)
class Figure:
    """What a step took: seconds, those of the processor, and gigabytes of memory at its peak."""

    step: str
    seconds: float
    busy: float
    memory: float


def measure(run: Path, count: int, steps: Sequence[str]) -> Iterator[Figure]:
    """Make a run where there is none; yield what each step takes, as soon as it is done."""
    if not run.exists():
        _in_process([*_own("make", run), "--samples", str(count)])
    for step in steps:
        yield Figure(step, *_in_process(_command(step, run)))


def _command(step: str, run: Path) -> list[str]:
    if step not in COMMANDS:
        return _own(step, run)
    sample = ""
    if "{sample}" in COMMANDS[step]:
        sample = pl.scan_parquet(run / "responses.parquet").select("sample_id").last().collect().item()
    words = [word.format(run=run, sample=sample) for word in COMMANDS[step]]
    return [str(Path(sys.executable).with_name("stillhouse")), *words]


def _own(step: str, run: Path) -> list[str]:
    return [sys.executable, __file__, "--step", step, "--at", str(run)]


def _in_process(command: list[str]) -> tuple[float, float, float]:
    """Return seconds and the processor's, which the process names last or else its own, and its peak memory in GB."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as fault:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=fault)  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
        seconds, busy = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
        out.seek(0), fault.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{out.read()}{fault.read()}")
        if command[0] == sys.executable:
            told = out.read().split()
            seconds, busy = map(float, told[-2:]) if told else (seconds, busy)
    return seconds, busy, usage.ru_maxrss / 1e6


def _stage(name: str, student: bool = False) -> Callable[[RunFolder], None]:
    """Return what runs a stage, with models that cost nothing, or with the student of two layers."""

    def run(folder: RunFolder) -> None:
        from benchmarks.scale_run import InstantEncoder, load_instant_scorer, open_instant
        from curation import difficulty
        from pipelines.engine import Engine
        from stillhouse import stages
        from stillhouse.progress import Unseen
        from stillhouse.recipe import load_recipe

        recipe, manifest = load_recipe(folder.recipe_path), folder.manifest()
        manifest["stages"].pop(name, None)
        folder.difficulty_path.unlink(missing_ok=True)
        folder.write_manifest(manifest)
        encoder = InstantEncoder()
        stages.load_encoder = lambda *_: encoder
        stages.load_embedding = lambda *_: lambda chunk, tell: encoder.encode(chunk)
        if not student:
            difficulty.load_scorer = load_instant_scorer  # type: ignore[assignment]
        build = stages.build_of(recipe, folder, Unseen())
        build.stages = [replace(stage, run=_timed(stage.run)) for stage in build.stages]
        with Engine(recipe.teacher, recipe.runtime, folder.journal_path, Unseen(), open_instant) as build.engine:
            build.run(name)

    return run


def _timed(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(about: Any) -> Any:
        started, busy = time.perf_counter(), time.process_time()
        found = step(about)
        print(time.perf_counter() - started, time.process_time() - busy)
        return found

    return run


def _from_lines(folder: RunFolder) -> None:
    from stillhouse.sections import TextSource
    from stillhouse.texts import read_texts

    read_texts([TextSource(path=str(folder.path.parent / "texts.jsonl"), domain_column="domain")])


def _pairs(folder: RunFolder) -> None:
    from pipelines.pairing import Cell, pair_evenly

    texts = folder.read_table("texts").select("text_id", "domain").rows()
    cells = folder.read_table("instructions").select("instruction_id", "perspective_id", "task_type").iter_rows()
    pair_evenly(texts, [Cell(*cell) for cell in cells], len(texts), 42)


STEPS: dict[str, Callable[[RunFolder], None]] = {
    "texts from JSON lines": _timed(_from_lines),
    "texts": _stage("texts"),
    "attributes": _stage("attributes"),
    "pairs alone": _timed(_pairs),
    **{name: _stage(name) for name in STAGES[2:]},
    SLOW: _stage("scores", student=True),
}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
