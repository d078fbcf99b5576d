"""Make a pool for `stillhouse experiment` of SentiBench's train files: our task types, gold answers for a teacher's.

    python benchmarks/sentibench_pool.py --data SENTIBENCH --out pool.jsonl [--rows 3000]
    stillhouse curate pool.jsonl --student MODEL --rate 0.3 --out runs/pool
    stillhouse experiment runs/pool/dataset --student MODEL --data SENTIBENCH --rates 0.1,0.3,1

Label sets become classifications; of the fine-grained sets, terms, categories, opinions and expressions are extracted.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.responses import student_prompt
from stillhouse.tasks import Task, render
from training.sentibench.answers import ABSENT, gold_tuples
from training.sentibench.sets import ACSA, ASQP, ATSA, OPENER, PSTANCE, SETS, load_rows

ASKED = {
    "sc/imdb": "Decide whether the review is for or against the film.",
    "sc/yelp2": "Decide whether the review is for or against the place.",
    "sc/sst2": "Decide how the sentence judges the film.",
    "sc/twitter": "Decide which sentiment the tweet expresses.",
    "multifaced/irony18": "Decide whether the tweet is ironic.",
    "multifaced/tweeteval": "Decide which emotion the tweet expresses.",
    PSTANCE: "Decide which stance the tweet takes towards {target}.",
    "multifaced/intimacy": "Decide how intimate the text is.",
    ATSA: "Extract the aspects that the sentence gives an opinion on.",
    ACSA: "Name the categories of what the sentence gives an opinion on.",
    ASQP: "Extract the words that express an opinion.",
    OPENER: "Extract the expressions of sentiment.",
}


def pairs_of(name: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return prompts and completions of the rows whose gold answer is a valid answer to the task."""
    labels = SETS[name].labels
    task = Task("classification", labels) if labels else Task("extraction", verbatim=name != ACSA)
    pairs = []
    for row in rows:
        text, value = row["sentence"], row["label"].lower() if labels else _items(name, row)
        if task.fault(value, text) is None:
            asked = f"{ASKED[name].replace('{target}', row.get('target', ''))} {task.output_format}"
            pair = {"prompt": student_prompt(asked, text), "completion": render(value)}
            pairs.append({**pair, "instruction_id": name})
    return pairs


def _items(name: str, row: dict[str, Any]) -> list[str]:
    """Return what is to be extracted, each once."""
    if name == OPENER:
        found = [part for opinion in row["opinions"] for part in opinion["Polar_expression"][0]]
    else:
        found = [values[2 if name == ASQP else 0].strip() for values in gold_tuples(name, row)]
    return list(dict.fromkeys(item for item in found if item != ABSENT))


def main() -> None:
    """Write about as many pairs of each set, by lot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=3000)
    options = parser.parse_args()
    names = [name for name in SETS if (options.data / name / "train.json").exists()]
    lot, pairs = random.Random(0), []
    for name in names:
        found = pairs_of(name, load_rows(options.data, name, "train"))
        pairs += lot.sample(found, min(len(found), options.rows // len(names)))
    lot.shuffle(pairs)
    options.out.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
    print(f"{len(pairs)} pairs of {len(names)} sets in {options.out}")


if __name__ == "__main__":
    main()
