"""What benchmarks/paper_plan.py reckons with: rates of one machine, measured and kept in benchmarks/rates.json.

Stages run as in benchmarks/scale.py, with models that cost nothing; models and comparisons on one thread. Seconds are
those of the processor where the clock's are more, so that what else this machine does counts less.
"""

import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.sections import OFFLINE_ENCODER, OFFLINE_LLM

ROOT = Path(__file__).parent.parent
RATES = ROOT / "benchmarks" / "rates.json"
COMMAND = "python benchmarks/paper_plan.py --measure"
STAGES = ("texts", "attributes", "responses", "scores", "decisions", "audit", "gates", "dataset")
RATE, MEMORY, DISK = "rows/s", "GB at its peak", "bytes/row"
WRITTEN = {  # by a stage, where it is not its table alone; the vectors are counted one by one
    "attributes": ("attributes.parquet", "journal.sqlite"),
    "responses": ("responses.parquet", "journal.sqlite"),
    "scores": ("scores.parquet", "difficulty.jsonl"),
    "dataset": ("dataset",),
}
EMBEDDED, SCORED, COMPARED = 1_500, 64, (16_384, 65_536)
INSTRUCTIONS_COMPARED = 500  # that the compared samples have


@dataclass(frozen=True)
class Rate:
    """A measured figure: what of, in which unit, and on what: rows, model and threads."""

    name: str
    value: float
    unit: str
    rows: int
    model: str
    threads: int
    command: str = COMMAND


@dataclass(frozen=True)
class Rates:
    """Measured figures, of one machine."""

    machine: str
    cores: int
    rates: Sequence[Rate]

    def value(self, name: str, unit: str) -> float:
        """Return a figure, that of the most rows it was measured on. Raises KeyError where there is none."""
        return max(self._all(name, unit), key=lambda rate: rate.rows).value

    def memory(self, stage: str, rows: int) -> float:
        """Return gigabytes of a stage of so many rows, on the line through the least and the most that were measured.

        Never less than was measured.
        """
        found = sorted(self._all(stage, MEMORY), key=lambda rate: rate.rows)
        least, most = found[0], found[-1]
        slope = (most.value - least.value) / max(1, most.rows - least.rows)
        return most.value + max(0.0, slope) * max(0, rows - most.rows)

    def disk(self, stage: str) -> float:
        """Return the bytes that a stage writes for a row, into all files."""
        files = {rate.name for rate in self.rates if rate.unit == DISK and rate.name.startswith(f"{stage}: ")}
        return sum(self.value(name, DISK) for name in files)

    def _all(self, name: str, unit: str) -> list[Rate]:
        found = [rate for rate in self.rates if (rate.name, rate.unit) == (name, unit)]
        if not found:
            raise KeyError(f"{name} in {unit}")
        return found


def read_rates() -> Rates:
    """Return what stands in benchmarks/rates.json."""
    data = json.loads(RATES.read_text(encoding="utf-8"))
    return Rates(data["machine"], data["cores"], [Rate(**rate) for rate in data["rates"]])


def rendered(rates: Rates) -> str:
    """Return what stands in benchmarks/rates.json: a line for each."""
    lines = ",\n".join("  " + json.dumps(asdict(rate), ensure_ascii=False) for rate in rates.rates)
    return f'{{"machine": {json.dumps(rates.machine)}, "cores": {rates.cores}, "rates": [\n{lines}\n]}}\n'


def measure(sizes: Sequence[int]) -> Rates:
    """Return all rates of this machine; stages at runs of `sizes` samples and as many texts."""
    from threadpoolctl import threadpool_limits

    with tempfile.TemporaryDirectory() as place:
        found = [rate for count in sizes for rate in stages(Path(place) / str(count) / "run", count)]
        import torch

        torch.set_num_threads(1)
        with threadpool_limits(1):
            found += models(Path(place) / str(max(sizes)) / "run")
        found += tokens(Path(place) / "plan")
    return Rates(_processor(), os.cpu_count() or 1, found)


def stages(run: Path, count: int) -> Iterator[Rate]:
    """Yield rows per second, peak memory, and bytes of each file of each stage."""
    from benchmarks.scale import measure as run_stages

    threads, before = os.cpu_count() or 1, Counter[str]()
    for found in run_stages(run, count, STAGES):
        about = (count, "none", threads)
        yield Rate(found.step, round(count / min(found.seconds, found.busy), 1), RATE, *about)
        yield Rate(found.step, round(found.memory, 3), MEMORY, *about)
        for name in WRITTEN.get(found.step, (f"{found.step}.parquet",)):
            size = sum(file.stat().st_size for file in (run / name, *(run / name).rglob("*")) if file.is_file())
            yield Rate(f"{found.step}: {name}", round((size - before[name]) / count, 1), DISK, *about)
            before[name] = size


def models(run: Path) -> Iterator[Rate]:
    """Yield the rates of the encoder, the student and the comparison, on one thread."""
    import numpy as np
    import polars as pl

    from stillhouse.encoder import load_encoder

    texts = pl.read_parquet(run / "texts.parquet")["text"].head(EMBEDDED).to_list()
    encoder = load_encoder(OFFLINE_ENCODER, "cpu")
    encoder.encode(texts[:8])  # what happens once
    seconds, vectors = _timed(lambda: encoder.encode(texts))
    about = (len(texts), OFFLINE_ENCODER, 1)
    yield Rate("embedding", round(len(texts) / seconds, 1), "texts/s per core", *about)
    yield Rate("embedding", round(float(np.mean([len(text.encode()) for text in texts])), 1), "bytes/text", *about)
    yield Rate("embedding", vectors.shape[1], "dimensions", *about)
    yield _stored(run)
    yield from _scoring(run)
    for rows in COMPARED:
        yield _comparing(vectors, rows)


def _stored(run: Path) -> Rate:
    """Return the bytes that a vector takes on disk, and its share of ids and places."""
    from curation.vectors import load_vectors

    found = load_vectors(run / "vectors.npz")
    if found is None:
        raise SystemExit(f"{run} has no vectors")
    count = sum(len(matrix) for matrix, _ in found.parts)
    size = (run / "vectors.npz").stat().st_size
    return Rate("vectors.npz", round(size / count, 1), "bytes/vector", count, "none", 1)


def _scoring(run: Path) -> Iterator[Rate]:
    """Score neighbours in the order of prompts, as a chunk of a run has them."""
    from curation.difficulty import load_scorer, score_chunk
    from curation.scoring import valid_samples
    from stillhouse.places import unheard
    from stillhouse.sections import Curation
    from stillhouse.store import RunFolder

    folder = RunFolder(run)
    valid = valid_samples(*(folder.scan_table(name) for name in ("responses", "texts", "instructions")))
    rows = valid.select("prompt", "output").sort("prompt").collect()
    chunk = rows.slice(len(rows) // 2, SCORED).rows()
    scorer = load_scorer(Curation.model_validate({}), "cpu")
    score_chunk(chunk[:2], scorer.student, scorer.max_length, unheard)
    seconds, (_, read) = _timed(lambda: score_chunk(chunk, scorer.student, scorer.max_length, unheard))
    about = (len(chunk), OFFLINE_LLM, 1)
    yield Rate("scoring", round(len(chunk) / seconds, 3), "samples/s per core", *about)
    yield Rate("scoring", round(read / seconds, 1), "tokens/s per core", *about)
    size = sum(len(json.dumps(pair)) for pair in chunk) / len(chunk)
    yield Rate("scoring", round(size, 1), "bytes/sample", *about)


def _comparing(real: Any, rows: int) -> Rate:
    """Compare samples of three parts with all before them: mixtures of real vectors, a fifth of them copies."""
    import numpy as np

    from benchmarks.near_duplicates import extend
    from curation.vectors import Joined
    from stillhouse.near_duplicates import find_near_duplicates
    from stillhouse.sections import Curation

    numbers = np.arange(rows)
    mixed = extend(real, rows)
    samples = Joined([(real, numbers % INSTRUCTIONS_COMPARED), (mixed, numbers), (mixed, np.roll(numbers, rows // 3))])
    seconds, _ = _timed(lambda: find_near_duplicates(samples, Curation.model_validate({}).similarity))
    return Rate("near-duplicates", round(rows**2 / 2 / seconds), "pairs/s per core", rows, OFFLINE_ENCODER, 1)


def tokens(run: Path) -> Iterator[Rate]:
    """Yield the teacher's tokens for a text, a sample and all instructions of a real recipe, from its rehearsal."""
    from stillhouse.planning import make_plan
    from stillhouse.progress import Unseen
    from stillhouse.recipe import Recipe, load_recipe
    from stillhouse.store import RunFolder

    known = load_recipe(ROOT / "recipes" / "sentiment.yaml").model_dump(mode="json", exclude_unset=True)
    known["texts"]["sources"][0]["path"] = str(ROOT / "recipes" / "demo_texts.jsonl")
    del known["perspectives"]["max_count"]  # as many as the paper has
    recipe = Recipe.model_validate(known)
    report = make_plan(recipe, RunFolder(run), Unseen())
    counts = {"attributes": report["texts"], "responses": recipe.responses.samples, "instructions": 1}
    for stage, count in counts.items():
        found = report["stages"][stage]
        for kind in ("prompt", "output"):
            value = round(found[f"{kind}_tokens"] / count, 1)
            yield Rate(stage, value, f"{kind} tokens", count, "recipes/sentiment.yaml, rehearsed", 1)
        yield Rate(stage, found["calls"], "calls", count, "recipes/sentiment.yaml, rehearsed", 1)


def _timed(step: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor's seconds of a step, and what comes of it."""
    started = time.process_time()
    found = step()
    return time.process_time() - started, found


def _processor() -> str:
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
