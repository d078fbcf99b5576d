"""Demonstrations of a task: new texts in the style of real ones, with their outputs (method, step 3, stage 3)."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from pipelines.asking import Question, ask_checked
from pipelines.calls import UnusableAnswerError
from pipelines.definitions import Demo, Draft
from pipelines.engine import Engine
from pipelines.prompting import Asker, load_template, object_schema
from pipelines.validation import echo_of, repeats_itself
from stillhouse.sections import Instructions
from stillhouse.tasks import render

DEMOS_PER_CALL = 2
STYLES = 2  # real texts that a call shows
MAX_TOKENS = 320
SHORTEST_TEXT, MAX_TEXT = 10, 240
TEXT = {"type": "string", "minLength": SHORTEST_TEXT, "maxLength": MAX_TEXT}

Ask = tuple[int, int]  # number of the task, number of the call


def add_demonstrations(
    drafts: Sequence[Draft], texts: pl.Series, settings: Instructions, asker: Asker, engine: Engine
) -> dict[str, int]:
    """Give each task its demonstrations; those that break the task, or copy a real text, are left out.

    Returns how many calls gave no usable one, by reason.
    """
    places, count = range(len(texts)), min(STYLES, len(texts))
    styles = {
        (number, call): [
            texts[place] for place in random.Random(f"{asker.seed} {draft.instruction_id} {call}").sample(places, count)
        ]
        for number, draft in enumerate(drafts)
        for call in range(settings.demo_calls)
    }

    def question(key: Ask) -> Question:
        return _question(drafts[key[0]], styles[key], settings)

    def check(key: Ask, value: Any) -> list[Demo]:
        return _usable(drafts[key[0]], value, styles[key])

    outcomes = ask_checked(styles, question, check, "instructions", asker, engine, "demonstrations")
    for (number, _), outcome in outcomes.items():
        draft = drafts[number]
        draft.calls += outcome.calls
        seen = {demo["text"] for demo in draft.demos}
        draft.demos += [demo for demo in outcome.value or [] if demo["text"] not in seen]
    return Counter(f"no demonstration: {outcome.reason}" for outcome in outcomes.values() if outcome.reason)


def _question(draft: Draft, styles: list[str], settings: Instructions) -> Question:
    prompt = load_template("demos").fill(task=draft.instruction, examples=styles, count=DEMOS_PER_CALL)
    demo = object_schema(text=TEXT, output=draft.task.value_schema)
    demos = {"type": "array", "items": demo, "minItems": 1, "maxItems": DEMOS_PER_CALL}
    return Question(prompt, object_schema(demos=demos), settings.temperature, MAX_TOKENS)


def _usable(draft: Draft, value: Any, styles: list[str]) -> list[Demo]:
    """Return the demonstrations that fit their task. Raises UnusableAnswerError where none does."""
    try:
        pairs = [(" ".join(item["text"].split()), item["output"]) for item in value["demos"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise UnusableAnswerError("not the fields asked for") from error
    found = []
    reason = "not the fields asked for"
    for text, output in pairs:
        fault = draft.task.fault(output, text)
        if len(text) < SHORTEST_TEXT or not text.isprintable():
            fault = "no text"
        elif "reference text" in text.lower():
            fault = "about a reference text"
        elif len(text) >= MAX_TEXT:
            fault = "cut off at the length limit"
        elif repeats_itself(text):
            fault = "repeats itself"
        elif echo_of(text, [("a real text", style) for style in styles]):
            fault = "copy of a real text"
        if fault is None:
            found.append({"text": text, "output": render(output)})
        reason = fault or reason
    if not found:
        raise UnusableAnswerError(reason)
    return found
