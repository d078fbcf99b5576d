"""Scoring difficulty: against the method's row-by-row way, and against a bare forward pass, on the same rows and model.

    taskset -c 0 env OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/difficulty.py
    python benchmarks/difficulty.py --student MODEL --device cuda --dtype bfloat16   # on a GPU

The row-by-row way is that of CompEffDist's code: all logits of one sample, then per output token a softmax, a sort of
the whole vocabulary and a cumulative sum. The bare forward pass is what no score can do without: hidden states of all
tokens, and the output layer at the positions that predict an output token, in the same batches and by the same matrix
product. Peak memory is that beyond the loaded model, with weights and activations of one pass of the body touched.
"""

import argparse
import itertools
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from curation.difficulty import score_chunk, sequence_figures
from curation.kernels import TOP_P, batched_figures, row_figures
from curation.student import Student
from stillhouse.models import load_causal_lm
from stillhouse.reading import Encoded
from stillhouse.sections import OFFLINE_LLM

TEXTS = Path(__file__).parent.parent / "recipes" / "demo_texts.jsonl"
QUESTION = "Is the author of this text content with what it is about? Answer with one word."
SHOTS = 6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default=OFFLINE_LLM)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument(
        "--rows", type=int, default=48, help="short rows; a sixth as many long ones, half as many shared"
    )
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    model, tokenizer = load_causal_lm(arguments.student, None, arguments.device)
    student = Student(model.to(getattr(torch, arguments.dtype)), tokenizer)
    print(f"{arguments.student}, {arguments.dtype} on {arguments.device}, vocabulary {student.vocabulary:,}")
    every = []
    for name, pairs in _samples(arguments.texts, arguments.rows).items():
        rows = [row for pair in pairs if isinstance(row := student.encode(*pair, 1024), Encoded)]
        compare(name, pairs, rows, student, arguments.rounds)
        every += rows
    check_agreement(every, student)


def _samples(path: Path, count: int) -> dict[str, list[tuple[str, str]]]:
    """Return (prompt, output) pairs: short ones, long outputs, and labels after a long prefix that all share."""
    texts = pl.read_ndjson(path)["text"].to_list()
    labels = itertools.cycle(["content", "not content", "undecided"])
    short = [(f"Text: {text[:140]}\nAnswer:\n", next(labels)) for text in texts[:count]]
    long = [
        (f"Text: {text[:60]}\nGoes on:\n", " ".join(texts[n : n + 3])[:450])
        for n, text in enumerate(texts[: count // 6])
    ]
    shots = "\n\n".join(f"Text: {text[:120]}\nAnswer: {next(labels)}" for text in texts[-SHOTS:])
    shared = [(f"{QUESTION}\n\n{shots}\n\n{prompt}", label) for prompt, label in short[: count // 2]]
    return {"labels": short, "long outputs": long, "shared prefix": shared}


def compare(name: str, pairs: list[tuple[str, str]], rows: list[Encoded], student: Student, rounds: int) -> None:
    """Print milliseconds per row of each way, the fastest of `rounds`, taken in turn."""
    with torch.inference_mode():
        student.hidden([max(rows, key=len)])
        student.model.get_output_embeddings().weight.sum()
    before = _peak()
    sequence_figures(rows, student)
    grown = _peak() - before
    ways: dict[str, Callable[[], Any]] = {
        "bare forward": lambda: bare_forward(rows, student),
        "rank score": lambda: sequence_figures(rows, student),
        "all scores": lambda: score_chunk(pairs, student, 1024, lambda share, read: None),
    }
    seconds = {way: [] for way in [*ways, "row by row"]}  # type: ignore[var-annotated]
    for way in list(ways) * rounds:
        seconds[way].append(_timed(ways[way], student))
    seconds["row by row"].append(_timed(lambda: [row_by_row(row, student) for row in rows], student))
    best = {way: min(times) / len(rows) * 1000 for way, times in seconds.items()}
    prompt, output = (sum(len(getattr(row, part)) for row in rows) for part in ("prompt", "output"))
    print(f"\n{name}: {len(rows)} rows, {prompt:,} prompt and {output:,} output tokens, ms per row")
    for way, milliseconds in best.items():
        print(f"  {way:13} {milliseconds:9.2f}   {best['row by row'] / milliseconds:6.2f} x row by row")
    print(f"  rank score over the bare forward: {best['rank score'] / best['bare forward'] - 1:+.1%}")
    print(f"  peak memory grown by {grown:.0f} MB")


def row_by_row(row: Encoded, student: Student) -> float:
    """Return the difficulty as the method's code computes it."""
    ids = torch.from_numpy(np.concatenate([row.prompt, row.output])[None]).to(student.model.device)
    with torch.inference_mode():
        logits = student.model(ids).logits[0].float()
    scores = []
    for place, target in enumerate(row.output.tolist(), start=len(row.prompt) - 1):
        shares, order = torch.sort(torch.softmax(logits[place], dim=-1), descending=True)
        size = int((torch.cumsum(shares, dim=-1) < TOP_P).sum().item()) + 1
        rank = int((order == target).nonzero().item())
        scores += [rank / size if rank < size else 1.0] * (rank > 0)
    return float(np.mean(scores)) if scores else 0.0


def bare_forward(rows: Sequence[Encoded], student: Student) -> None:
    """Compute hidden states and logits in the same batches, and nothing else."""
    with torch.inference_mode():
        pool = torch.empty(0)
        for batch in student.batches(rows):
            hidden = student.hidden([rows[number] for number in batch.numbers], batch.prefix, batch.cache)
            pool = torch.cat([pool, hidden]) if len(pool) else hidden
            while len(pool) >= student.positions:
                student.logits(pool[: student.positions])
                pool = pool[student.positions :]
        if len(pool):
            student.logits(pool)


def check_agreement(rows: Sequence[Encoded], student: Student) -> None:
    """Print at how many positions the kernels differ from a float64 softmax and full sort of the same logits."""
    differ, float32, count = {"rows": 0, "blocks": 0}, 0, 0
    for row in rows:
        with torch.inference_mode():
            logits = student.logits(student.hidden([row])[: student.positions])
        targets = torch.from_numpy(row.output).to(logits.device)
        found = {"rows": row_figures(logits.cpu().numpy(), row.output), "blocks": batched_figures(logits, targets)}
        for place, target in enumerate(row.output.tolist()):
            (rank, size), (_, rounded) = (
                _by_sorting(logits[place].to(kind), target) for kind in (torch.float64, torch.float32)
            )
            for kernel, figures in found.items():
                differ[kernel] += (int(figures.rank[place]), int(figures.nucleus[place])) != (rank, size)
            float32, count = float32 + (rounded != size), count + 1
    print(f"\nother rank or nucleus size than float64 at {differ['rows']} (by rows) and {differ['blocks']} (by blocks) "
          f"of {count} positions; a float32 softmax has another nucleus size at {float32}")  # fmt: skip


def _by_sorting(logits: torch.Tensor, target: int) -> tuple[int, int]:
    shares, order = torch.sort(torch.softmax(logits, dim=-1), descending=True, stable=True)
    size = int((torch.cumsum(shares, dim=-1) < TOP_P).sum()) + 1
    return int((order == target).nonzero()), size


def _timed(work: Callable[[], Any], student: Student) -> float:
    started = time.perf_counter()
    work()
    if student.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _peak() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
