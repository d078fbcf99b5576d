"""Label tasks of SentiBench: ours against a plain left-padded `generate` loop of batch 4, and the same predictions.

    python benchmarks/sentibench.py --data FOLDER [--rows 200] [--model MODEL]

Two sets, long (sc/imdb) and short (sc/sst2) texts, 4 shots; of each, both ways in this process.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from stillhouse.models import load_causal_lm
from stillhouse.reading import Reader
from stillhouse.sections import OFFLINE_LLM
from training.sentibench.labels import LabelReader, first_tokens
from training.sentibench.prompts import make_prompts
from training.sentibench.sets import SETS, load_rows

NAMES = ("sc/imdb", "sc/sst2")
Way = Callable[[Sequence[str], Sequence[str], Reader], list[str]]


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
    for batch in _label_reader(reader).predict(prompts, labels, lambda tokens, cut: None):
        found |= batch
    return [found[number] for number in range(len(prompts))]


WAYS: tuple[Way, ...] = (ours, plain_loop)


def main() -> None:
    """Print seconds of both ways, their ratio, and at how many prompts they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--model", default=OFFLINE_LLM)
    options = parser.parse_args()
    reader = Reader(*load_causal_lm(options.model, None, "auto"))
    totals = dict.fromkeys(WAYS, 0.0)
    for name in NAMES:
        test, train = load_rows(options.data, name, "test")[: options.rows], load_rows(options.data, name, "train")
        prompts = make_prompts(SETS[name], test, train, 4, 42, SETS[name].instruction)
        seconds, found = compare(prompts, SETS[name].labels, reader)
        differ = sum(one != other for one, other in zip(*found.values(), strict=True))
        told = ", ".join(f"{way.__name__} {seconds[way]:.1f} s" for way in WAYS)
        print(f"{name}, {len(prompts)} rows: {told}; {differ} predictions differ", flush=True)
        totals = {way: totals[way] + seconds[way] for way in WAYS}
    print(f"both sets: {totals[plain_loop] / totals[ours]:.1f} times faster")


@cache
def _label_reader(reader: Reader) -> LabelReader:
    return LabelReader(reader)  # an evaluation makes one


def compare(
    prompts: Sequence[str], labels: Sequence[str], reader: Reader
) -> tuple[dict[Way, float], dict[Way, list[str]]]:
    """Return seconds and predictions of each way, one after the other."""
    seconds, found = {}, {}
    for way in WAYS:
        began = time.perf_counter()
        found[way] = way(prompts, labels, reader)
        seconds[way] = time.perf_counter() - began
    return seconds, found


if __name__ == "__main__":
    main()
