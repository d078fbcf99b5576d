"""Prompts: YAML files of an instruction, a question template and shots, rendered for either kind of teacher API."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from pipelines.calls import Call, JsonSchema, Message
from stillhouse.sections import Teacher

FRAME = re.compile(r"\s*\n\s*(answer|text|example text|instruction|task|description|attributes?)\s*:", re.IGNORECASE)
REFUSED_SHOWN = 400  # characters of an invalid answer that are shown to the teacher again
_TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)


@dataclass(frozen=True)
class Prompt:
    """An instruction, shots as (question, answer), the question to be answered, and answers refused so far.

    `refused` holds (answer, complaint) of each attempt that was invalid.
    """

    instruction: str
    shots: tuple[tuple[str, str], ...]
    question: str
    refused: tuple[tuple[str, str], ...] = ()

    def corrected(self, answer: str, fault: str) -> "Prompt":
        """Return the prompt that asks again, with the invalid answer (its beginning) and its fault."""
        shown = "".join(character for character in answer if character.isprintable())[:REFUSED_SHOWN]
        complaint = f"This answer is not valid: {fault}. Give another answer, in the form that was asked for."
        return replace(self, refused=(*self.refused, (shown, complaint)))

    def messages(self) -> list[Message]:
        """Render for the chat API: shots become earlier turns."""
        turns = [{"role": "system", "content": self.instruction}]
        for question, answer in self.shots:
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        turns.append({"role": "user", "content": self.question})
        for answer, complaint in self.refused:
            turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": complaint}]
        return turns

    def completion(self) -> str:
        """Render for the completion API, as a base model continues it."""
        shots = "".join(f"{question}\nAnswer: {answer}\n\n" for question, answer in self.shots)
        refused = "".join(f" {answer}\n\n{complaint}\nAnswer:" for answer, complaint in self.refused)
        return f"{self.instruction}\n\n{shots}{self.question}\nAnswer:{refused}"


@dataclass(frozen=True)
class Template:
    """A prompt file: `question` is rendered for each shot's fields and for the row's."""

    instruction: str
    question: str
    shots: tuple[dict[str, Any], ...]

    def fill(self, shots: Sequence[dict[str, Any]] | None = None, **fields: object) -> Prompt:
        """Render the prompt for one row; `shots` replaces the file's own."""
        chosen = self.shots if shots is None else shots
        return Prompt(
            _render(self.instruction, fields).strip(),
            tuple((_render(self.question, {**fields, **shot}), _compact(shot["answer"])) for shot in chosen),
            _render(self.question, fields),
        )


@cache
def load_template(name: str) -> Template:
    """Read `prompts/NAME.yaml`."""
    content = yaml.safe_load(files("pipelines").joinpath("prompts", f"{name}.yaml").read_text(encoding="utf-8"))
    return Template(content["instruction"], content["question"], tuple(content["shots"]))


def sample_shots(template: Template, count: int, number: int) -> list[dict[str, Any]]:
    """Return draw `number` of `count` shots: small teachers copy a shot that always stands last."""
    return random.Random(number).sample(template.shots, min(count, len(template.shots)))


@dataclass(frozen=True)
class Asker:
    """Turns prompts into calls to one teacher with one seed."""

    teacher: Teacher
    seed: int

    def call(self, prompt: Prompt, schema: JsonSchema, temperature: float, max_tokens: int) -> Call:
        """Return the call that sends `prompt`, under `schema` where the teacher's decoding is constrained."""
        api = self.teacher.api or "completion"
        if self.teacher.system_prompt:
            prompt = replace(prompt, instruction=f"{self.teacher.system_prompt.strip()}\n\n{prompt.instruction}")
        is_free_completion = api == "completion" and not self.teacher.structured_output
        return Call(
            model=self.teacher.model,
            revision=self.teacher.revision,
            api=api,
            prompt=prompt.messages() if api == "chat" else prompt.completion(),
            schema=schema if self.teacher.structured_output else None,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=self.seed,
            # A base model would go on with further questions of its own.
            options={**self.teacher.options(), **({"stop": ["\n"]} if is_free_completion else {})},
        )


def object_schema(**properties: JsonSchema) -> JsonSchema:
    """Return the JSON Schema of an object with exactly these properties, all required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_compiled = cache(_TEMPLATES.from_string)


def _render(template: str, fields: dict[str, object]) -> str:
    return _compiled(template).render(**{name: _unframed(value) for name, value in fields.items()})


def _unframed(value: object) -> object:
    """Return a text that cannot pose as a part of the prompt: a line of its own that looks like one is joined."""
    if isinstance(value, list):
        return [_unframed(item) for item in value]
    return FRAME.sub(r" \1:", value) if isinstance(value, str) else value


def _compact(answer: object) -> str:
    return json.dumps(answer, ensure_ascii=False)
