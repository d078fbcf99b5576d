"""`stillhouse select` on a million samples with embeddings: seconds and peak memory.

    python benchmarks/recut.py [--samples 1000000]

The run folder is made of random scores and embeddings of 500 instructions, 100,000 texts and 200,000 different
outputs, 384 dimensions each; it is deleted at the end.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curation.vectors import SampleVectors
from stillhouse.recipe import Recipe
from stillhouse.schemas import INSTRUCTIONS, RESPONSES, SCORES, TEXTS
from stillhouse.store import RunFolder

INSTRUCTION_COUNT, TEXT_COUNT, OUTPUT_COUNT = 500, 100_000, 200_000
WAYS = (
    ["--rate", "0.1"],
    ["--rate", "0.1", "--scope", "task"],
    ["--rate", "0.5", "--strategy", "hard", "--controls", "random,top"],
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    count = parser.parse_args().samples
    place = Path(tempfile.mkdtemp())
    try:
        make_run(RunFolder(place / "run"), count)
        for way in WAYS:
            command = [str(Path(sys.executable).with_name("stillhouse")), "select", str(place / "run"), *way, "--json"]
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            seconds = time.perf_counter() - started
            kept = [report["counts"]["kept"] for report in json.loads(done.stdout)]
            print(f"{' '.join(way):55} {seconds:6.1f} s   kept {kept}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(f"{count:,} samples, peak memory of a process {peak:.2f} GB")
    finally:
        shutil.rmtree(place)


def make_run(folder: RunFolder, count: int) -> None:
    """Write the tables that a cut reads."""
    rng = np.random.default_rng(0)
    ids = pl.Series([f"{number:016x}" for number in rng.permutation(count)])
    instructions, texts = rng.integers(0, INSTRUCTION_COUNT, count), rng.integers(0, TEXT_COUNT, count)
    folder.path.mkdir(parents=True)
    recipe = {"name": "million", "texts": {"sources": [{"path": "texts.jsonl"}]}}
    folder.write_recipe(Recipe.model_validate(recipe))
    folder.write_manifest({"stages": {"scores": {}}, "seconds": {}})
    status = pl.Series(rng.choice(["valid", "invalid"], count, p=[0.95, 0.05]))
    valid = (status == "valid").to_numpy()
    _write(folder, "texts", TEXTS, text_id=[f"t{n}" for n in range(TEXT_COUNT)], domain=["a", "b"] * (TEXT_COUNT // 2))
    named = [f"i{n}" for n in range(INSTRUCTION_COUNT)]
    _write(folder, "instructions", INSTRUCTIONS, instruction_id=named, perspective_id=named, task_type=named)
    prompts = pl.repeat("prompt " * 40, count, eager=True)
    _write(
        folder, "responses", RESPONSES, sample_id=ids, status=status, prompt=prompts,
        instruction_id=[f"i{n}" for n in instructions], text_id=[f"t{n}" for n in texts],
    )  # fmt: skip
    ids = ids.filter(pl.Series(valid))
    parts = [(INSTRUCTION_COUNT, instructions[valid]), (TEXT_COUNT, texts[valid]), (OUTPUT_COUNT, None)]
    SampleVectors(ids.to_list(), [_embedded(rng, size, places, len(ids)) for size, places in parts]).save(
        folder.vectors_path, "benchmark"
    )
    near = np.where(rng.random(count) < 0.1, 0.95, np.nan)[valid]
    _write(
        folder, "scores", SCORES, sample_id=ids, difficulty=rng.random(count)[valid],
        nearest_similarity=pl.Series(near).fill_nan(None),
    )  # fmt: skip


def _embedded(rng: np.random.Generator, size: int, places: Any, count: int) -> tuple[Any, Any]:
    vectors = rng.normal(size=(size, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, rng.integers(0, size, count) if places is None else places


def _write(folder: RunFolder, name: str, schema: pl.Schema, **columns: object) -> None:
    given = pl.DataFrame(columns)
    absent = (pl.lit(None, dtype).alias(column) for column, dtype in schema.items() if column not in columns)
    folder.write_table(name, given.with_columns(absent))


if __name__ == "__main__":
    main()
