"""Instructions: analysis prompts and typed tasks, written by the teacher from perspectives (method, step 3).

A task is made in three stages: ideas for each perspective and type, a definition with examples for each idea, and
demonstrations in the style of real texts for each definition.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import polars as pl

from pipelines.asking import Question, ask_checked
from pipelines.definitions import (
    Demo,
    Draft,
    analysis_schema,
    definition_schema,
    ideas_schema,
    read_analyses,
    read_definition,
    read_ideas,
)
from pipelines.demonstrations import add_demonstrations
from pipelines.engine import Engine
from pipelines.prompting import Asker, Template, load_template
from stillhouse.encoder import Encoder
from stillhouse.near_duplicates import find_near_duplicates
from stillhouse.progress import Counts
from stillhouse.schemas import INSTRUCTIONS, table_of
from stillhouse.sections import Instructions
from stillhouse.tasks import Task

ATTRIBUTES_SHOWN = 5
SENTENCE_TOKENS = 70
EXAMPLE_TOKENS = 110


def write_instructions(
    perspectives: pl.DataFrame,
    texts: pl.DataFrame,
    settings: Instructions,
    asker: Asker,
    engine: Engine,
    encoder: Encoder,
) -> tuple[pl.DataFrame, Counts]:
    """Let the teacher write the instructions of every perspective.

    Returns the `instructions` table, in which a dropped instruction has its reason, and the counts written, dropped
    by reason and kept, of demonstrations and of calls for demonstrations without a usable one, by reason.
    """
    rows = perspectives.to_dicts()
    domains = texts["domain"].unique().sort().to_list()
    drafts = _analyses(rows, domains, settings, asker, engine) if settings.analysis_per_perspective else []
    ideas = _ideas(rows, settings, asker, engine)
    _define([draft for draft in ideas if not draft.reason], domains, settings, asker, engine)
    drafts += ideas
    _drop_repeated(drafts, settings.similarity, encoder)
    kept = [draft for draft in drafts if not draft.reason]
    dropped = Counter(f"dropped: {draft.reason}" for draft in drafts if draft.reason)
    tasks = [draft for draft in kept if draft.task.task_type != "analysis"]
    unusable = add_demonstrations(tasks, texts["text"], settings, asker, engine)
    table = table_of([_row(draft, asker) for draft in drafts], INSTRUCTIONS, "instructions")
    demos = sum(len(draft.demos) for draft in kept)
    return table, {"written": len(drafts), **dropped, "kept": len(kept), "demonstrations": demos, **unusable}


def _analyses(
    rows: list[dict[str, Any]], domains: Collection[str], settings: Instructions, asker: Asker, engine: Engine
) -> list[Draft]:
    template = load_template("analysis")
    count = settings.analysis_per_perspective
    questions = {
        number: Question(
            template.fill(perspective=row["head"], members=_described(row), count=count),
            analysis_schema(settings),
            settings.temperature,
            SENTENCE_TOKENS * count,
        )
        for number, row in enumerate(rows)
    }
    outcomes = ask_checked(
        questions,
        questions.__getitem__,
        lambda _, value: read_analyses(value, settings, domains),
        "instructions",
        asker,
        engine,
        "prompts",
    )
    drafts = []
    for number, outcome in outcomes.items():
        name, calls = f"{rows[number]['head']} analysis", list(outcome.calls)
        prompts: list[str | None] = [*outcome.value] if outcome.value else [None]
        drafts += [
            Draft(rows[number], f"{name} {place}", prompt, Task("analysis"), calls, reason=outcome.reason)
            for place, prompt in enumerate(prompts, start=1)
        ]
    return drafts


def _ideas(rows: list[dict[str, Any]], settings: Instructions, asker: Asker, engine: Engine) -> list[Draft]:
    """Return drafts of tasks that have a name and, for the time being, their description as instruction (stage 1)."""
    template = load_template("ideas")
    questions = {
        (number, task_type): Question(
            template.fill(
                _of_type(template, task_type),
                perspective=row["head"],
                description=row["members"][0]["description"],
                task_type=task_type,
                count=settings.tasks_per_type,
            ),
            ideas_schema(settings),
            settings.temperature,
            SENTENCE_TOKENS * settings.tasks_per_type,
        )
        for number, row in enumerate(rows)
        for task_type in settings.task_types
    }
    outcomes = ask_checked(
        questions,
        questions.__getitem__,
        lambda _, value: read_ideas(value, settings),
        "instructions",
        asker,
        engine,
        "task ideas",
    )
    drafts = []
    for (number, task_type), outcome in outcomes.items():
        found: list[tuple[str, str | None, str | None]] = [*(outcome.value or [])]
        drafts += [
            Draft(rows[number], name, description, Task(task_type), list(outcome.calls), reason=fault)
            for name, description, fault in found or [(f"{rows[number]['head']} {task_type}", None, outcome.reason)]
        ]
    return drafts


def _define(
    drafts: list[Draft], domains: Collection[str], settings: Instructions, asker: Asker, engine: Engine
) -> None:
    """Turn ideas into definitions, in place (stage 2)."""
    questions = {
        number: Question(
            load_template(draft.task.task_type).fill(
                name=draft.name, description=draft.instruction, count=settings.examples
            ),
            definition_schema(draft.task.task_type, settings),
            settings.temperature,
            2 * SENTENCE_TOKENS + EXAMPLE_TOKENS * settings.examples,
        )
        for number, draft in enumerate(drafts)
    }

    def check(number: int, value: Any) -> tuple[str, Task, list[Demo]]:
        return read_definition(drafts[number].task.task_type, value, settings, domains)

    outcomes = ask_checked(questions, questions.__getitem__, check, "instructions", asker, engine, "definitions")
    for number, outcome in outcomes.items():
        draft = drafts[number]
        draft.calls += outcome.calls
        draft.reason = outcome.reason
        if outcome.value:
            draft.instruction, draft.task, draft.examples = outcome.value


def _drop_repeated(drafts: list[Draft], similarity: float, encoder: Encoder) -> None:
    """Drop instructions that a kept one of the same type before them says already, by cosine of their embeddings."""
    for task_type in dict.fromkeys(draft.task.task_type for draft in drafts):
        first: dict[str, Draft] = {}
        for draft in (one for one in drafts if one.task.task_type == task_type and not one.reason):
            if first.setdefault(draft.instruction_id, draft) is not draft:
                draft.reason = "repeated instruction"
        same = list(first.values())
        if not same:
            continue
        vectors = encoder.encode([draft.task.wording_of(str(draft.instruction)) for draft in same])
        for number in np.flatnonzero(~find_near_duplicates(vectors, similarity).kept):
            same[number].reason = "near-duplicate instruction"


def _of_type(template: Template, task_type: str) -> list[dict[str, Any]]:
    return [shot for shot in template.shots if shot["task_type"] == task_type]


def _described(row: dict[str, Any]) -> str:
    return ", ".join(f"{item['name']} ({item['description']})" for item in row["members"][:ATTRIBUTES_SHOWN])


def _row(draft: Draft, asker: Asker) -> dict[str, object]:
    task = draft.task
    return {
        "instruction_id": draft.instruction_id,
        "perspective_id": draft.perspective["perspective_id"],
        "kind": "analysis" if task.task_type == "analysis" else "task",
        "task_type": task.task_type,
        "name": draft.name,
        "instruction": draft.instruction,
        "labels": list(task.labels),
        "scale": list(task.scale),
        "schema": task.schema,
        "verbatim": task.verbatim,
        "examples": draft.examples,
        "demos": draft.demos,
        "lineage": {
            "attributes": [member["name"] for member in draft.perspective["members"][:ATTRIBUTES_SHOWN]],
            "calls": draft.calls,
            "model": asker.teacher.model,
            "revision": asker.teacher.revision,
            "seed": asker.seed,
            "edited": False,
        },
        "kept": draft.reason is None,
        "reason": draft.reason,
    }
