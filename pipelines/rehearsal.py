"""A rehearsal of the teacher stages: the real code, with answers taken from the prompts' own examples.

It makes the same calls as the run will, so their number and their prompts are the real ones; their answers are as long
as those that the prompts show. No teacher is asked. What cannot be known before (invalid answers that are asked for
again, instructions that are dropped, how many perspectives there are) is said in `assumptions`.
"""

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
import polars as pl

from pipelines.attributes import enumerate_attributes
from pipelines.calls import Answer, Call, JsonSchema
from pipelines.engine import Engine, Item
from pipelines.instructions import write_instructions
from pipelines.journal import Usage
from pipelines.prompting import Asker, load_template
from pipelines.responses import answer_samples
from stillhouse.recipe import Recipe
from stillhouse.schemas import PERSPECTIVES, table_of

SAMPLE = 200  # texts and pairs that are rehearsed; more are reckoned from these
SAMPLE_PERSPECTIVES = 24
PAPER_PERSPECTIVES = 180  # CompEffDist: of 20,000 texts
TOKENS_PER_TURN = 5  # that a chat template puts around a message
ROW_BYTES = 600  # of ids, times and keys around a call in the journal and in the tables
SHOT = re.compile(r"^Answer: (.*)$", re.MULTILINE)

Tokens = Callable[[str], int]


@dataclass
class Estimate:
    """What a stage will ask for: calls, tokens, and bytes of journal and tables."""

    calls: float = 0
    prompt_tokens: float = 0
    output_tokens: float = 0
    disk: float = 0

    def scaled(self, factor: float) -> "Estimate":
        """Return the estimate of `factor` times as many calls."""
        figures = (self.calls, self.prompt_tokens, self.output_tokens, self.disk)
        return Estimate(*(figure * factor for figure in figures))


@dataclass
class Plan:
    """Estimates by stage, and what they take for granted."""

    stages: dict[str, Estimate] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)


class Rehearsal(Engine):
    """Stands where the engine stands: counts each call, and answers with an example of its prompt."""

    def __init__(self, tokens: Tokens) -> None:
        """Count with `tokens`, which returns the number of tokens of a text."""
        self._tokens = tokens
        self.found = Estimate()
        self.begin()

    def each(
        self,
        items: Iterable[Item],
        handle: Callable[[Item], Awaitable[bool | None]],
        stage: str,
        total: int,
        label: str | None = None,
    ) -> None:
        """Call `handle` for every item."""

        async def work() -> None:
            for item in items:
                await handle(item)

        asyncio.run(work())

    async def answer(self, call: Call, optional: bool = False) -> Answer | None:
        """Return one of the answers that the prompt shows, the same for the same call."""
        if isinstance(call.prompt, str):
            shown, size = SHOT.findall(call.prompt), self._tokens(call.prompt)
        else:
            shown = [turn["content"] for turn in call.prompt if turn["role"] == "assistant"]
            size = sum(self._tokens(turn["content"]) + TOKENS_PER_TURN for turn in call.prompt)
        value = _fitted(json.loads(random.Random(call.call_id).choice(shown)), call.schema or {})
        text = json.dumps(value, ensure_ascii=False)
        answer = Answer(text, "stop", size + 1, self._tokens(text) + 1, 0.0)
        found = (1, answer.prompt_tokens, answer.output_tokens, len(call.json) + 2 * len(text) + ROW_BYTES)
        before = (self.found.calls, self.found.prompt_tokens, self.found.output_tokens, self.found.disk)
        self.found = Estimate(*(old + new for old, new in zip(before, found, strict=True)))
        return answer

    def take(self) -> Estimate:
        """Return what was counted since the last time."""
        found, self.found, self.usage = self.found, Estimate(), Usage()
        return found


def _fitted(value: Any, schema: JsonSchema) -> Any:
    """Return an example's value with as many items as the schema asks for."""
    if isinstance(value, dict):
        return {name: _fitted(part, schema.get("properties", {}).get(name, {})) for name, part in value.items()}
    if isinstance(value, list) and value:
        count = min(max(len(value), schema.get("minItems", 0)), schema.get("maxItems", len(value)))
        return [_fitted(item, schema.get("items", {})) for item in islice(cycle(value), count)]
    return value


class _Distinct:
    """An encoder under which nothing is like anything else: rehearsed instructions repeat each other."""

    def encode(self, texts: list[str]) -> Any:
        """Return unit vectors."""
        return np.eye(len(texts), dtype=np.float32)


def rehearse(recipe: Recipe, texts: pl.DataFrame, known: dict[str, pl.DataFrame], tokens: Tokens) -> Plan:
    """Return the estimates of the stages that are not done.

    `known` holds those of the tables `attributes`, `perspectives` and `instructions` that the run already has.
    """
    asker = Asker(recipe.teacher.model_copy(update={"corrections": 0, "structured_output": True}), recipe.seed)
    engine, plan = Rehearsal(tokens), Plan()
    sample = texts.sample(min(SAMPLE, len(texts)), seed=recipe.seed)
    plan.assumptions.append("every answer is valid at the first time; a weak teacher is asked again for some")
    if "attributes" not in known:
        enumerate_attributes(sample, recipe.domain, recipe.attributes, asker, engine)
        plan.stages["attributes"] = engine.take().scaled(len(texts) / len(sample))
    instructions = known.get("instructions")
    if instructions is None:
        perspectives, count = _perspectives(recipe, known.get("perspectives"), plan)
        instructions, _ = write_instructions(perspectives, sample, recipe.instructions, asker, engine, _Distinct())
        plan.stages["instructions"] = engine.take().scaled(count / len(perspectives))
        plan.assumptions.append("no instruction is dropped")
    pairs = recipe.responses.model_copy(update={"samples": min(SAMPLE, recipe.responses.samples)})
    table, _ = answer_samples(sample, instructions.filter("kept"), pairs, asker, engine)
    most = len(texts) * instructions.filter("kept").height
    plan.stages["responses"] = engine.take().scaled(min(recipe.responses.samples, most) / len(table))
    return plan


def _perspectives(recipe: Recipe, known: pl.DataFrame | None, plan: Plan) -> tuple[pl.DataFrame, int]:
    """Return some perspectives, of the run or made of the prompt's examples, and how many there will be."""
    settings = recipe.perspectives
    if known is not None:
        return known.head(SAMPLE_PERSPECTIVES), len(known)
    count = settings.max_count or settings.clusters or PAPER_PERSPECTIVES
    source = "max_count" if settings.max_count else "clusters" if settings.clusters else None
    plan.assumptions.append(
        f"{count} perspectives, by perspectives.{source}" if source else f"{count} perspectives, as in the paper"
    )
    examples = [example.model_dump() for example in recipe.domain.examples]
    shown = [attribute for example in examples for attribute in example["attributes"]] or [
        attribute for shot in load_template("attributes").shots for attribute in shot["answer"]["attributes"]
    ]
    rows = []
    for number in range(min(count, SAMPLE_PERSPECTIVES)):
        attribute = shown[number % len(shown)]
        member = {"name": attribute["name"], "description": attribute["description"], "count": 1}
        row = {"perspective_id": f"p{number}", "head": attribute["name"], "members": [member], "mentions": 1}
        rows.append({**row, "share": 0.0, "coherence": 0.0, "x": 0.0, "y": 0.0})
    return table_of(rows, PERSPECTIVES, "perspectives"), count
