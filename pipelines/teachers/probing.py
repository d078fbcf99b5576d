"""Structured output is verified, not assumed: a schema with one possible answer is sent, and the answer looked at."""

import json
import secrets
from dataclasses import replace

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pipelines.calls import Answer, Call
from pipelines.teachers.backend import CallFailedError, TransientError
from pipelines.teachers.endpoint import PROBED, EndpointBackend
from stillhouse.errors import InputError
from stillhouse.sections import Teacher

PROBE_TOKENS = 64
ATTEMPTS, LONGEST_WAIT = 5, 20.0  # of a request, seconds between two


_patient = AsyncRetrying(
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_random_exponential(max=LONGEST_WAIT),
    retry=retry_if_exception_type(TransientError),
    reraise=True,
)


async def find_dialect(backend: EndpointBackend, teacher: Teacher) -> str:
    """Return the first dialect that the server obeys: asked for one word that it cannot guess, it says it.

    Raises InputError where it obeys none, and TransientError where it does not answer.
    """
    tried = []
    for dialect in PROBED:
        word = secrets.token_hex(4)
        call = _probe(teacher, word)
        trial = EndpointBackend(replace(backend.endpoint, dialect=dialect), backend.session)
        try:
            if _says(await _patient(trial.send, call), word):
                return dialect
            tried.append(f"`{dialect}`: ignored")
        except CallFailedError as error:
            tried.append(f"`{dialect}`: {error}")
    raise InputError(
        f"teacher {backend.name} does not keep to a JSON Schema ({'; '.join(tried)}). "
        "Use a server that does, or set `teacher.structured_output: false`: answers are checked either way"
    )


def _probe(teacher: Teacher, word: str) -> Call:
    schema = {
        "type": "object",
        "properties": {"word": {"type": "string", "enum": [word]}},
        "required": ["word"],
        "additionalProperties": False,
    }
    question = "Say a word, as a JSON object with the key `word`."
    api = teacher.api or "completion"
    prompt = [{"role": "user", "content": question}] if api == "chat" else f"{question}\nAnswer:"
    return Call(teacher.model, teacher.revision, api, prompt, schema, 0.0, PROBE_TOKENS, 0, teacher.options())


def _says(answer: Answer, word: str) -> bool:
    try:
        return bool(json.loads(answer.text) == {"word": word})
    except ValueError:
        return False
