"""Instructions of a run against two baselines with the same teacher, and its answers with and without a constraint.

    python benchmarks/instructions.py RUN [--answers 60]

RUN is a run folder with instructions (`stillhouse run RECIPE --until instructions`). Baselines: HAND_WRITTEN, a dozen
prompts such as a team would write, and Self-Instruct (Wang et al., ACL 2023): the teacher writes further ones from
these seeds, near-repeats (ROUGE-L of 0.7 or more) are dropped, until it has written as many output tokens as the
run's instructions cost. Figures of the sets are the mean of 50 random draws of equal size, the smallest set's.
"""

import argparse
import random
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from rapidfuzz.distance import LCSseq
from rich.console import Console
from rich.table import Table
from vendi_score import vendi

from pipelines.asking import Question, ask_checked
from pipelines.definitions import SENTENCE, sentence
from pipelines.engine import Engine
from pipelines.prompting import Asker, Template, object_schema
from pipelines.responses import answer_samples
from stillhouse.display import Display
from stillhouse.encoder import load_encoder
from stillhouse.recipe import Recipe
from stillhouse.sections import Responses
from stillhouse.store import RunFolder
from stillhouse.tasks import Task

HAND_WRITTEN = [
    "Please analyse the sentiment of the text.",
    "Is the text positive or negative? Explain your choice.",
    "Classify the sentiment of the text as positive, negative or neutral.",
    "Rate the sentiment of the text from 1 (very negative) to 5 (very positive).",
    "Which emotion does the author of the text express?",
    "Is the text ironic? Answer yes or no.",
    "List the aspects that the text mentions and the sentiment towards each.",
    "Extract the opinion words from the text.",
    "What does the author of the text like and dislike?",
    "How strong is the sentiment of the text?",
    "Summarise the opinion of the text in one sentence.",
    "Would the author of the text recommend the subject to others?",
]
TYPE_WORDS = {
    "structured": r"\bjson object|\brecord\b|\btable\b|aspects .* and the",
    "extraction": r"\bextract|\blist (the|all)|\bfind (the|all) words|exact words",
    "scoring": r"\brate\b|\bscore\b|\bscale\b|\bfrom \d",
    "classification": r"\bclassify|\bdecide|\blabel|\bone of:|yes or no|positive or negative|\bname the\b",
}
ROUGE_L, SHOTS, ROUND, DRAWS = 0.7, 4, 16, 50
SELF_INSTRUCT = Template("Write a new instruction about one text, unlike the given ones.", "{{ given }}", ())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--answers", type=int, default=60)
    arguments = parser.parse_args()
    folder, console = RunFolder(arguments.run), Console(width=120)
    recipe = Recipe.model_validate(yaml.safe_load(folder.recipe_path.read_text("utf-8")))
    instructions = folder.read_table("instructions").filter("kept")
    budget = folder.manifest()["stages"]["instructions"]["output_tokens"]
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:

        def engine(name: str) -> Engine:
            return stack.enter_context(
                Engine(recipe.teacher, recipe.runtime, Path(place) / f"{name}.sqlite", Display(console))
            )

        asker = Asker(recipe.teacher.model_copy(update={"corrections": 0}), recipe.seed)
        rows = instructions.iter_rows(named=True)
        wordings = [Task.from_row(row).wording_of(row["instruction"]) for row in rows]
        written = self_instruct(asker, engine("self-instruct"), budget)
        sets = {"hand-written": HAND_WRITTEN, "Self-Instruct": written, "stillhouse": wordings}
        full = {**sets, "stillhouse": instructions["instruction"].to_list()}
        encoder = load_encoder(recipe.perspectives.encoder, "cpu")
        console.print(diversity_table({name: (sets[name], full[name]) for name in sets}, encoder))
        console.print(answers_table(folder, recipe, asker, engine, arguments.answers))


def self_instruct(asker: Asker, engine: Engine, budget: int) -> list[str]:
    """Return the instructions that Self-Instruct makes with as many output tokens, without its seeds."""
    pool, fresh = list(HAND_WRITTEN), random.Random(asker.seed)
    rounds = 0
    while engine.usage.output_tokens < budget:
        rounds += 1
        questions = {}
        for number in range(ROUND):
            given = [{"given": f"Instruction {place}:", "answer": {"instruction": text}} for place, text in
                     enumerate(fresh.sample(pool, SHOTS), start=1)]  # fmt: skip
            prompt = SELF_INSTRUCT.fill(given, given=f"Instruction {SHOTS + 1} (no. {rounds}-{number}):")
            questions[number] = Question(prompt, object_schema(instruction=SENTENCE), 0.7, 70)
        outcomes = ask_checked(
            questions,
            questions.__getitem__,
            lambda _, value: sentence(value["instruction"]),
            "instructions",
            asker,
            engine,
        )
        for text in (outcome.value for outcome in outcomes.values() if outcome.value):
            words = [re.findall(r"\w+", other.lower()) for other in pool]
            mine = re.findall(r"\w+", text.lower())
            if max(LCSseq.normalized_similarity(mine, other) for other in words) < ROUGE_L:
                pool.append(text)
    return pool[len(HAND_WRITTEN) :]


def diversity_table(sets: dict[str, tuple[list[str], list[str]]], encoder: Any) -> Table:
    """Return the table of diversity: figures on the wordings, types on the wordings with their output format."""
    size = min(len(wordings) for wordings, _ in sets.values())
    table = Table(title=f"Diversity of {size} instructions (mean of {DRAWS} draws)", title_justify="left", box=None)
    for name in (
        "instructions from",
        "all",
        "cosine distance",
        "Vendi score",
        "distinct-1",
        "distinct-2",
        "task types",
    ):
        table.add_column(name, justify="left" if name.startswith("instr") else "right")
    for name, (wordings, full) in sets.items():
        vectors, rng = encoder.encode(wordings), np.random.default_rng(0)
        figures = np.mean(
            [_figures(wordings, vectors, rng.permutation(len(wordings))[:size]) for _ in range(DRAWS)], axis=0
        )
        types = {_type_of(text) for text in full}
        table.add_row(name, str(len(wordings)), *(f"{figure:.3f}" for figure in figures), str(len(types)))
    return table


def _figures(wordings: list[str], vectors: Any, rows: Any) -> list[float]:
    cosine = vectors[rows] @ vectors[rows].T
    pairs = cosine[np.triu_indices(len(rows), k=1)]
    words = [re.findall(r"\w+", wordings[row].lower()) for row in rows]
    distinct = []
    for n in (1, 2):
        grams = [gram for text in words for gram in zip(*(text[start:] for start in range(n)), strict=False)]
        distinct.append(len(set(grams)) / len(grams))
    return [float(1 - pairs.mean()), float(vendi.score_K(cosine.astype(np.float64))), *distinct]


def _type_of(text: str) -> str:
    return next((name for name, words in TYPE_WORDS.items() if re.search(words, text.lower())), "analysis")


def answers_table(folder: RunFolder, recipe: Recipe, asker: Asker, engine: Any, samples: int) -> Table:
    """Return parse yield and valid share per task type, first answers only, with and without the constraint."""
    texts, instructions = folder.read_table("texts"), folder.read_table("instructions").filter("kept")
    settings = recipe.responses.model_copy(update={"samples": samples})
    free = Asker(asker.teacher.model_copy(update={"structured_output": False}), asker.seed)
    sides = {"constrained": asker, "free": free}
    shares = {name: _shares(texts, instructions, settings, side, engine(name)) for name, side in sides.items()}
    table = Table(title=f"First answers to {samples} samples: parsed / valid", title_justify="left", box=None)
    for name in ("task type", *sides):
        table.add_column(name, justify="left" if name == "task type" else "right")
    for task_type in [*sorted(shares["free"]["task_type"].unique()), "all"]:
        cells = []
        for found in shares.values():
            mine = found if task_type == "all" else found.filter(pl.col("task_type") == task_type)
            cells.append(f"{mine['parsed'].mean():.0%} / {mine['valid'].mean():.0%} of {len(mine)}")
        table.add_row(task_type, *cells)
    return table


def _shares(
    texts: pl.DataFrame, instructions: pl.DataFrame, settings: Responses, asker: Asker, engine: Engine
) -> pl.DataFrame:
    table, _ = answer_samples(texts, instructions, settings, asker, engine)
    unparsed = pl.col("reason").str.contains("JSON|truncated|empty answer|key given twice|half a character")
    return table.join(instructions.select("instruction_id", "task_type"), on="instruction_id").select(
        "task_type", (pl.col("status") == "valid").alias("valid"), (~unparsed.fill_null(value=False)).alias("parsed")
    )


if __name__ == "__main__":
    main()
