"""Prompts of SentiBench: the instruction, demonstrations drawn from the training rows, the sentence."""

import json
import random
from collections.abc import Sequence
from typing import Any

from stillhouse.errors import InputError
from training.sentibench.answers import ABSENT, gold_tuples
from training.sentibench.sets import ANSWER_KEYS, OPENER, PSTANCE, SETS, TARGET, BenchmarkSet

Row = dict[str, Any]


def make_prompts(
    benchmark: BenchmarkSet, test: Sequence[Row], train: Sequence[Row], shots: int, seed: int, instruction: str
) -> list[str]:
    """Return the prompt of each test row; its demonstrations are drawn from `train`, anew for each row.

    Raises InputError where there are fewer training rows than `shots`.
    """
    if len(train) < shots:
        raise InputError(f"{benchmark.name}: {shots} shots of {len(train)} training rows; lower --shots")
    draw = random.Random(seed)
    return [_prompt(benchmark, row, draw.sample(train, shots), instruction) for row in test]


def gold_answer(name: str, row: Row) -> str:
    """Return the right answer to a row as a demonstration shows it."""
    if SETS[name].labels:
        label = str(row["label"].lower())
        # Demonstrations are of other targets than the instruction names.
        return f"{label}(opinion towards '{row['target']}')" if name == PSTANCE else label
    tuples = _opinions(row) if name == OPENER else gold_tuples(name, row)
    objects = [dict(zip(ANSWER_KEYS[name], values, strict=True)) for values in tuples]
    return json.dumps(objects, ensure_ascii=False, indent=2)


def _prompt(benchmark: BenchmarkSet, row: Row, demonstrations: Sequence[Row], instruction: str) -> str:
    name, field = benchmark.name, benchmark.field
    # Not str.format: instructions may show JSON.
    asked = instruction.replace(TARGET, row["target"]) if name == PSTANCE else instruction
    shown = (f"Sentence: {one['sentence']}\n{field}: {gold_answer(name, one)}\n" for one in demonstrations)
    return "\n".join([asked, "", *shown, f"Sentence: {row['sentence']}\n{field}:"])


def _opinions(row: Row) -> list[tuple[str, ...]]:
    opinions = [
        (
            *(" AND ".join(opinion[part][0]) or ABSENT for part in ("Source", "Target", "Polar_expression")),
            opinion["Polarity"].lower(),
        )
        for opinion in row["opinions"]
    ]
    return opinions or [(ABSENT,) * len(ANSWER_KEYS[OPENER])]
