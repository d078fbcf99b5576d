"""A decided run for tests of the audit: real texts, one instruction of each type per perspective, made-up answers."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from curation.vectors import SampleVectors
from pipelines.definitions import record_task
from stillhouse.build import fingerprints
from stillhouse.draws import uniform
from stillhouse.recipe import load_recipe
from stillhouse.schemas import ATTRIBUTES, DECISIONS, INSTRUCTIONS, PERSPECTIVES, RESPONSES, SCORES, TEXTS, table_of
from stillhouse.stages import stages_of
from stillhouse.store import RunFolder
from stillhouse.tasks import Task

HEADS = ("tone", "intensity", "humour", "regret", "price", "service", "plot", "thanks")
LABELS = ["negative", "neutral", "positive"]
TASKS = {
    "classification": {"labels": LABELS},
    "scoring": {"scale": [1, 5]},
    "extraction": {"verbatim": True},
    "structured": {"schema": record_task({"tone": LABELS, "evidence": "quote"}).schema, "verbatim": True},
    "analysis": {},
}
KEPT_SHARE = 0.7
FILTERS = ("validity", "near_duplicate", "selection")


def answer_of(task_type: str, text: str, lot: float) -> tuple[str, list[dict[str, int]]]:
    """Return a valid answer and its spans."""
    word = max(text.split()[:8], key=len)
    span = {"start": text.index(word), "end": text.index(word) + len(word)}
    label = LABELS[int(lot * 3)]
    return {
        "classification": (label, []),
        "scoring": (str(1 + int(lot * 5)), []),
        "extraction": (json.dumps([word], ensure_ascii=False), [span]),
        "structured": (json.dumps({"tone": label, "evidence": word}, ensure_ascii=False), [span]),
        "analysis": (f"The text sounds {label}, above all in its first words.", []),
    }[task_type]


def audited_run(path: Path, samples: int, texts: list[str], **review: Any) -> RunFolder:
    """Write a run folder that is done up to its decisions; `review` is the recipe's section."""
    path.mkdir(parents=True)
    source = path.parent / f"{path.name}-texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    written = {
        "name": "audited",
        "texts": {"sources": [{"path": str(source), "licence": "CC0-1.0"}]},
        "publish": {"licence": "CC0-1.0"},
        "review": review,
    }
    (path.parent / f"{path.name}.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    recipe = load_recipe(path.parent / f"{path.name}.yaml")
    folder = RunFolder(path)
    for name, table in _tables(samples, texts).items():
        folder.write_table(name, table)
    prints = fingerprints(stages_of(recipe), recipe, folder)
    stages = {name: {**prints[name], "counts": {}, "seconds": 0.0, "failed": 0} for name in prints}
    done = {name: entry for name, entry in stages.items() if name not in ("audit", "gates", "dataset")}
    folder.write_manifest({"name": recipe.name, "stages": done, "seconds": {}, "versions": {}})
    folder.write_recipe(recipe)
    ids = folder.read_table("responses")["sample_id"].to_list()
    vectors = np.random.default_rng(0).normal(size=(len(ids), 8)).astype(np.float32)
    SampleVectors(ids, [(vectors, np.arange(len(ids)))] * 3).save(folder.vectors_path, "test")
    return folder


def copied(folder: RunFolder, path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(folder.path, path)))


def _tables(samples: int, texts: list[str]) -> dict[str, pl.DataFrame]:
    contents = [
        {"text_id": f"t{number}", "text": text, "domain": f"domain {number % 3}", "source": "test",
         "licence": "CC0-1.0", "language": "en"}
        for number, text in enumerate(texts)
    ]  # fmt: skip
    perspectives = [
        {
            "perspective_id": f"p{place}",
            "head": head,
            "members": [],
            "mentions": 10 + place,
            "x": place / 3,
            "y": place % 3,
        }
        for place, head in enumerate(HEADS)
    ]
    instructions = [
        _instruction(f"p{place}", head, task_type) for place, head in enumerate(HEADS) for task_type in TASKS
    ]
    pairs = [
        (contents[(7 * number) % len(contents)], instructions[number % len(instructions)]) for number in range(samples)
    ]
    responses = [_response(number, text, row) for number, (text, row) in enumerate(pairs)]
    scores = [
        {"sample_id": row["sample_id"], "difficulty": uniform(f"{row['sample_id']} difficulty"), "perplexity": 3.0,
         "ifd": 0.5, "output_tokens": 3, "scored_positions": 2}
        for row in responses
    ]  # fmt: skip
    decisions = [_decision(row, score) for row, score in zip(responses, scores, strict=True)]
    rows = {
        "texts": (contents, TEXTS),
        "attributes": ([], ATTRIBUTES),
        "perspectives": (perspectives, PERSPECTIVES),
        "instructions": (instructions, INSTRUCTIONS),
        "responses": (responses, RESPONSES),
        "scores": (scores, SCORES),
        "decisions": (decisions, DECISIONS),
    }
    return {name: table_of(content, schema, name) for name, (content, schema) in rows.items()}


def _instruction(perspective_id: str, head: str, task_type: str) -> dict[str, Any]:
    typed = TASKS[task_type]
    row = {"task_type": task_type, "labels": [], "scale": [], "schema": None, "verbatim": False, **typed}
    wording = f"Judge the {head} of this text. {Task.from_row(row).output_format}".strip()
    lineage = {"attributes": [head], "calls": [], "edited": False}
    return {
        **{"instruction_id": f"i-{head}-{task_type}", "perspective_id": perspective_id, "name": f"{head} {task_type}"},
        **{"kind": "analysis" if task_type == "analysis" else "task", "instruction": wording},
        **{"lineage": lineage, "kept": True, "examples": [], "demos": []},
        **row,
    }


def _response(number: int, text: dict[str, Any], instruction: dict[str, Any]) -> dict[str, Any]:
    sample_id = "s" + hashlib.sha256(str(number).encode()).hexdigest()[:15]
    output, spans = answer_of(instruction["task_type"], text["text"], uniform(f"{sample_id} answer"))
    invalid = uniform(f"{sample_id} kept") >= KEPT_SHARE and uniform(f"{sample_id} filter") < 1 / len(FILTERS)
    return {
        "sample_id": sample_id,
        "text_id": text["text_id"],
        "instruction_id": instruction["instruction_id"],
        "prompt": f"{instruction['instruction']}\n\nText: {text['text']}\n\nAnswer:\n",
        "output": output,
        "spans": spans,
        "status": "invalid" if invalid else "valid",
        "reason": "label not in the set" if invalid else None,
        "attempts": 1,
    }


def _decision(row: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
    kept = uniform(f"{row['sample_id']} kept") < KEPT_SHARE
    place = int(uniform(f"{row['sample_id']} filter") * len(FILTERS))
    stage = "selection" if kept else FILTERS[place]
    return {"sample_id": row["sample_id"], "kept": kept, "stage": stage, "reason": "selected" if kept else stage,
            "stratum": "x", "difficulty": score["difficulty"], "draw": 0.5, "probability": 0.6}  # fmt: skip
