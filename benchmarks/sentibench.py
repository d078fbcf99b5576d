"""Label tasks of SentiBench: ours against a plain left-padded `generate` loop of batch 4, and the same predictions.

    python benchmarks/sentibench.py --data FOLDER [--rows 200] [--model MODEL]

Two sets, long (sc/imdb) and short (sc/sst2) texts, 4 shots. Both ways run one after the other in this process.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from stillhouse.models import load_causal_lm
from stillhouse.reading import Reader
from stillhouse.sections import OFFLINE_LLM
from training.sentibench.labels import LabelReader, first_tokens
from training.sentibench.prompts import make_prompts
from training.sentibench.sets import SETS, load_rows

NAMES = ("sc/imdb", "sc/sst2")


def plain_loop(prompts: Sequence[str], labels: Sequence[str], reader: Reader) -> list[str]:
    """Predict as CompEffDist's code does: batches of 4 in the order of the rows, padded on the left, two new tokens."""
    tokenizer, tokens = reader.tokenizer, first_tokens(reader, labels)
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    found = []
    for start in range(0, len(prompts), 4):
        batch = tokenizer(list(prompts[start : start + 4]), return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = reader.model.generate(
                batch["input_ids"].to(reader.model.device),
                attention_mask=batch["attention_mask"].to(reader.model.device),
                max_new_tokens=2, do_sample=False, output_scores=True, return_dict_in_generate=True,
            )  # fmt: skip
        found += [labels[place] for place in output.scores[0][:, tokens].argmax(dim=-1).tolist()]
    return found


def ours(prompts: Sequence[str], labels: Sequence[str], reader: Reader) -> list[str]:
    """Predict as `stillhouse evaluate` does."""
    found: dict[int, str] = {}
    for batch in LabelReader(reader).predict(prompts, labels, lambda tokens, cut: None):
        found |= batch
    return [found[number] for number in range(len(prompts))]


def main() -> None:
    """Print seconds of both ways, their ratio, and at how many prompts they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--model", default=OFFLINE_LLM)
    options = parser.parse_args()
    reader = Reader(*load_causal_lm(options.model, None, "auto"))
    totals = [0.0, 0.0]
    for name in NAMES:
        test, train = load_rows(options.data, name, "test")[: options.rows], load_rows(options.data, name, "train")
        prompts = make_prompts(SETS[name], test, train, 4, 42, SETS[name].instruction)
        found = []
        for number, way in enumerate((ours, plain_loop)):
            began = time.perf_counter()
            found.append(way(prompts, SETS[name].labels, reader))
            totals[number] += time.perf_counter() - began
            print(f"{name} {way.__name__}: {time.perf_counter() - began:.1f} s for {len(prompts)} rows", flush=True)
        differ = sum(one != other for one, other in zip(*found, strict=True))
        print(f"{name}: {differ} of {len(prompts)} predictions differ", flush=True)
    print(f"both sets: {totals[0]:.1f} s against {totals[1]:.1f} s, {totals[1] / totals[0]:.1f} times faster")


if __name__ == "__main__":
    main()
