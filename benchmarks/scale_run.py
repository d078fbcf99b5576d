"""A made-up run of any size for benchmarks/scale.py: sources of realistic texts, tasks, and models that cost nothing.

Texts are one to twelve real sentences each, of the demo's; their lengths are spread as those of reviews are.
"""

import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curation.difficulty import Score
from pipelines.calls import Answer, Call
from pipelines.definitions import record_task
from pipelines.journal import Journal
from pipelines.teachers import Backend
from stillhouse.build import fingerprints
from stillhouse.places import Work
from stillhouse.recipe import Recipe
from stillhouse.schemas import ATTRIBUTES, INSTRUCTIONS, PERSPECTIVES, table_of
from stillhouse.sections import Curation, Runtime, Teacher
from stillhouse.stages import stages_of
from stillhouse.store import RunFolder
from stillhouse.tasks import EXACT_WORDS, Task, render

DEMO_TEXTS = Path(__file__).parent.parent / "recipes" / "demo_texts.jsonl"
DOMAINS = ("film", "hotel", "food", "app", "book")
MOST_SENTENCES, MEAN_SENTENCES = 12, 4
WRITTEN_AT_ONCE = 100_000
HEADS = 100
ENTRIES = 4000  # of the student's vocabulary, so that texts have as many tokens as with a real one
LABELS = ["negative", "neutral", "positive"]
TASKS: dict[str, dict[str, Any]] = {
    "classification": {"labels": LABELS},
    "scoring": {"scale": [1, 5]},
    "extraction": {"verbatim": True},
    "structured": {"schema": record_task({"tone": LABELS, "evidence": "quote"}).schema, "verbatim": True},
    "analysis": {},
}
SHOTS = ("The soup was cold and nobody cared.", "We loved every minute of it.", "It is what it is, I suppose.")
DIMENSIONS, KINDS = 384, 2_000


def make_run(folder: RunFolder, count: int, **changed: Any) -> None:
    """Write sources of `count` texts, the recipe for as many samples, and its perspectives and instructions.

    The attributes count as asked for, and there are none. `changed` are sections in the place of the recipe's own.
    """
    from tests.tiny_student import write_student

    folder.path.mkdir(parents=True)
    place = folder.path.parent
    write_sources(place, count)
    student = write_student(place / "student", corpus=pl.read_ndjson(DEMO_TEXTS)["text"].to_list(), entries=ENTRIES)
    sections = {
        "name": "scale",
        "texts": {"sources": [{"path": str(place / "texts.parquet"), "domain_column": "domain", "licence": "CC0-1.0"}]},
        "teacher": {"backend": "endpoint", "base_url": "http://localhost:1/v1", "model": "instant", "api": "chat"},
        "responses": {"samples": count},
        "curation": {"student": str(student), "duplicates": "instruction"},
        "publish": {"licence": "CC0-1.0"},
        **changed,
    }
    recipe = Recipe.model_validate(sections)
    folder.write_recipe(recipe)
    folder.write_table("attributes", table_of([], ATTRIBUTES, "attributes"))
    perspectives = [
        {"perspective_id": f"p{n}", "head": f"trait {n}", "members": [], "mentions": HEADS - n, "x": n / 9, "y": n % 9}
        for n in range(HEADS)
    ]
    folder.write_table("perspectives", table_of(perspectives, PERSPECTIVES, "perspectives"))
    instructions = [_instruction(row, task_type) for row in perspectives for task_type in TASKS]
    folder.write_table("instructions", table_of(instructions, INSTRUCTIONS, "instructions"))
    prints = fingerprints(stages_of(recipe), recipe, folder)
    made = {
        name: {**prints[name], "counts": {}, "seconds": 0.0, "failed": 0}
        for name in ("attributes", "perspectives", "instructions")
    }
    folder.write_manifest({"name": recipe.name, "stages": made, "seconds": {}})


def write_sources(place: Path, count: int) -> None:
    """Write the texts as Parquet and as JSON lines."""
    known = pl.read_ndjson(DEMO_TEXTS)["text"]
    sentences = known.str.extract_all(r"[^.!?]{20,}[.!?]+").explode().drop_nulls().str.strip_chars().unique().sort()
    rng = np.random.default_rng(0)
    frames = [_texts(rng, sentences, min(WRITTEN_AT_ONCE, count - start)) for start in range(0, count, WRITTEN_AT_ONCE)]
    texts = pl.concat(frames)
    texts.write_parquet(place / "texts.parquet")
    texts.write_ndjson(place / "texts.jsonl")


def _texts(rng: np.random.Generator, sentences: pl.Series, count: int) -> pl.DataFrame:
    lengths = rng.geometric(1 / MEAN_SENTENCES, count).clip(1, MOST_SENTENCES)
    drawn = [sentences.gather(rng.integers(0, len(sentences), count)) for _ in range(MOST_SENTENCES)]
    frame = pl.DataFrame({str(place): part for place, part in enumerate(drawn)}).with_columns(length=pl.Series(lengths))
    parts = [pl.when(pl.col("length") > place).then(str(place)) for place in range(MOST_SENTENCES)]
    lot, number = pl.Series(rng.random(count)), pl.Series(rng.integers(0, 10**6, (2, count)).T).arr.to_struct()
    numbers = [number.struct[place].cast(pl.String) for place in range(2)]
    told = pl.when(lot < 0.95).then(pl.format("Seen {} of {} times.", *numbers))  # no two texts are alike, but for some
    private = pl.when(lot < 0.002).then(pl.format("Write to ann{}@mail.org!", numbers[0]))
    text = pl.concat_str(*parts, told, private, separator=" ", ignore_nulls=True).alias("text")
    domain = pl.Series("domain", np.array(DOMAINS)[rng.integers(0, len(DOMAINS), count)])
    return frame.select(text, domain)


def _instruction(perspective: dict[str, Any], task_type: str) -> dict[str, Any]:
    row = {"task_type": task_type, "labels": [], "scale": [], "schema": None, "verbatim": False, **TASKS[task_type]}
    task, head = Task.from_row(row), perspective["head"]
    shots = [{"text": text, "output": render(_value(task.value_schema, text, 7))} for text in SHOTS]
    return {
        **{"instruction_id": f"i-{head}-{task_type}".replace(" ", "-"), "name": f"{head} {task_type}", "kept": True},
        **{"perspective_id": perspective["perspective_id"], "kind": "analysis" if not TASKS[task_type] else "task"},
        **{"instruction": f"Say what the text tells of {head}. {task.output_format}".strip()},
        **{"lineage": {"attributes": [head], "calls": [], "edited": False}, "examples": shots, "demos": shots},
        **row,
    }


class InstantTeacher:
    """A backend whose answers cost nothing, are drawn by the question, and are valid but for one in twenty."""

    name, limit, adapts = "instant", 256, False

    async def send(self, call: Call) -> Answer:
        """Answer a call."""
        question = str(call.prompt[-1]["content"]) if isinstance(call.prompt, list) else call.prompt
        lot, asked = zlib.crc32(question.encode()), (call.schema or {})["properties"]
        words = question.rpartition("Text: ")[2]
        value = {"answer": _value(asked["answer"], words, lot)} if "answer" in asked else _attributes(words, lot)
        return Answer("I had rather not." if lot % 20 == 0 else json.dumps(value), "stop", 300, 12, 0.0)

    def stop(self) -> None:
        """Wait for nothing."""


@asynccontextmanager
async def open_instant(teacher: Teacher, runtime: Runtime, journal: Journal) -> AsyncIterator[list[Backend]]:
    """Yield the teacher as `pipelines.teachers.open_teacher` does."""
    yield [InstantTeacher()]


def _attributes(text: str, lot: int) -> dict[str, Any]:
    named = (f"trait {chr(97 + lot % 26)}{chr(97 + lot // 26 % 26)}", f"mood {chr(97 + lot // 676 % 26)}")
    about = {"description": "what the text lets one feel", "value": text[:60]}
    return {"attributes": [{"name": name, **about} for name in named]}


def _value(schema: dict[str, Any], text: str, lot: int) -> Any:
    """Return a value that fits a schema and the text."""
    word = text.split()[lot % len(text.split())]
    if "enum" in schema:
        return schema["enum"][lot // 7 % len(schema["enum"])]
    if schema["type"] == "array":
        return [word]
    if schema["type"] == "object":
        return {name: _value(part, text, lot) for name, part in schema["properties"].items()}
    if schema.get("description") == EXACT_WORDS:
        return word
    return f"The author dwells on {word!r} and sounds {LABELS[lot % 3]} about it, {text.split()[-1]} above all."


class InstantEncoder:
    """Vectors that cost nothing: a text is one of KINDS, and a little of its own."""

    def __init__(self) -> None:
        """Draw the directions."""
        rng = np.random.default_rng(0)
        self._kinds, self._own = (_unit(rng.normal(size=(KINDS, DIMENSIONS))) for _ in range(2))

    def encode(self, sentences: list[str]) -> npt.NDArray[np.float32]:
        """Return one unit vector per sentence."""
        lots = np.array([zlib.crc32(sentence.encode()) for sentence in sentences])
        return _unit(self._kinds[lots % KINDS] + 0.5 * self._own[lots // KINDS % KINDS])


def _unit(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def load_instant_scorer(settings: Curation, device: str) -> Work[tuple[list[Score], int]]:
    """Return what scores samples by lot, in the place of `curation.difficulty.load_scorer`."""
    rng = np.random.default_rng(0)
    return lambda chunk, tell: ([Score(lot, 1 + 9 * lot, lot, 12, 6) for lot in rng.random(len(chunk)).tolist()], 0)
