"""Prompts: YAML files of an instruction, a question template and shots, rendered for either kind of teacher API."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from pipelines.calls import Call, JsonSchema, Message
from stillhouse.recipe import Teacher

_TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)


@dataclass(frozen=True)
class Prompt:
    """An instruction, shots as (question, answer), and the question to be answered."""

    instruction: str
    shots: tuple[tuple[str, str], ...]
    question: str

    def messages(self) -> list[Message]:
        """Render for the chat API: shots become earlier turns."""
        turns = [{"role": "system", "content": self.instruction}]
        for question, answer in self.shots:
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return [*turns, {"role": "user", "content": self.question}]

    def completion(self) -> str:
        """Render for the completion API, as a base model continues it."""
        shots = "".join(f"{question}\nAnswer: {answer}\n\n" for question, answer in self.shots)
        return f"{self.instruction}\n\n{shots}{self.question}\nAnswer:"


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
        """Return the call that sends `prompt` under `schema`."""
        api = self.teacher.api or "completion"
        return Call(
            backend=self.teacher.backend,
            model=self.teacher.model,
            revision=self.teacher.revision,
            api=api,
            prompt=prompt.messages() if api == "chat" else prompt.completion(),
            schema=schema,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=self.seed,
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
    return _compiled(template).render(**fields)


def _compact(answer: object) -> str:
    return json.dumps(answer, ensure_ascii=False)
