"""One teacher call, its answer, and the key that makes the two the same thing in every run."""

import hashlib
import json
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
Message = dict[str, str]
JsonSchema = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """Everything that is sent to a teacher for one answer. Where it is sent to is not part of it.

    `prompt` is a string for the completion API and a list of messages for the chat API. `schema` is the JSON Schema
    that the answer is constrained to, or None where decoding is free. `options` are further fields of the request, as
    the API names them: nucleus and top-k, stop strings, arguments of the chat template.
    """

    model: str
    revision: str | None
    api: Literal["completion", "chat"]
    prompt: str | list[Message]
    schema: JsonSchema | None
    temperature: float
    max_tokens: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def call_id(self) -> str:
        """Return the key of the call: 32 hex digits of the hash of all its fields."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:32]

    @cached_property
    def json(self) -> str:
        """Return the canonical JSON form. Keys keep their order: a schema's is the order of writing."""
        return _encode({name: getattr(self, name) for name in FIELDS})


_encode = json.JSONEncoder(separators=(",", ":")).encode
FIELDS = tuple(part.name for part in fields(Call))


@dataclass(frozen=True)
class Answer:
    """What a teacher gave back for one call."""

    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    seconds: float


class UnusableAnswerError(ValueError):
    """An answer that is not what was asked for; the message is the reason that the tables keep."""


def parse_answer(answer: Answer) -> Any:
    """Return the JSON value of an answer, which may follow thoughts and stand in one Markdown code fence.

    Raises UnusableAnswerError where the answer was cut off, is not JSON (NaN is not), says a key twice or holds
    half a character: nothing is guessed.
    """
    if answer.finish_reason != "stop":
        raise UnusableAnswerError(f"truncated: the teacher stopped for `{answer.finish_reason}`")
    text = THOUGHTS.sub("", answer.text, count=1) if answer.text.lstrip().startswith("<think>") else answer.text
    fenced = FENCE.fullmatch(text.strip())
    try:
        value = _DECODER.decode(fenced[1] if fenced else text)
        if not text.isascii() or "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnusableAnswerError:
        raise
    except UnicodeEncodeError as error:
        raise UnusableAnswerError("half a character") from error
    except (ValueError, RecursionError) as error:
        raise UnusableAnswerError("empty answer" if not answer.text.strip() else "not JSON") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnusableAnswerError("key given twice")
    return found


def _refuse(constant: str) -> None:
    raise UnusableAnswerError(f"not JSON: {constant}")


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_object, parse_constant=_refuse)
