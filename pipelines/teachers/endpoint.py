"""A backend that is an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama or a hosted one."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from pipelines.calls import Answer, Call, JsonSchema
from pipelines.journal import storable
from pipelines.teachers.backend import CallFailedError, TransientError
from stillhouse.errors import InputError, RunError

CHECK_SECONDS = 15.0
CAUSE_SHOWN = 400  # characters of a server's own words
LARGEST_REPLY = 64_000_000  # bytes
BUSY = {408, 425, 429, 500, 502, 503, 504, 529}
THROTTLED = {429, 529}
REFUSED_KEY = {401, 403}
OUT_OF_MONEY = "insufficient_quota"  # OpenAI's code, sent with 429: no wait helps

JSON = {"Content-Type": "application/json"}
NO_COMPLETION = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
MOST_TOKENS = 10**9  # that a server may report for one call
Constrain = Callable[[JsonSchema], dict[str, Any]]


def _response_format(schema: JsonSchema) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    }


def _tight(schema: JsonSchema) -> dict[str, Any]:
    """llguidance, inside the embedded llama.cpp: no free white space, in which small models wander until cut."""
    tight = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return {"json_schema": {"x-guidance": tight, **schema}}


# The field in which a server takes a JSON Schema. Some answer 200 and ignore it, so `find_dialect` tries them.
DIALECTS: dict[str, Constrain] = {
    "response_format": _response_format,  # OpenAI and most others
    "structured_outputs": lambda schema: {"structured_outputs": {"json": schema}},  # vLLM's completion API
    "json_schema": lambda schema: {"json_schema": schema},  # llama.cpp's completion API
    "json_schema as text": lambda schema: {"json_schema": json.dumps(schema)},  # SGLang's completion API
    "embedded": _tight,
}
PROBED = tuple(name for name in DIALECTS if name != "embedded")


@dataclass(frozen=True)
class Endpoint:
    """Where calls are sent and how. The key itself is never held, only the name of its environment variable."""

    base_url: str
    model: str
    api_key_env: str | None
    timeout: float
    limit: int
    dialect: str | None = None

    @property
    def name(self) -> str:
        """Return what messages call this backend."""
        return self.base_url

    def api_key(self) -> str:
        """Return the key; servers without one take any. Raises InputError where it cannot be a key."""
        key = os.environ.get(self.api_key_env or "", "").strip() or "none"
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise InputError(f"the environment variable {self.api_key_env} does not hold a key: it has odd characters")
        return key

    def redact(self, message: str) -> str:
        """Return a message without the key, should a server or library have put it there."""
        key = self.api_key()
        return message if key == "none" else message.replace(key, "***")


@dataclass
class EndpointBackend:
    """Sends calls to one endpoint."""

    endpoint: Endpoint
    session: aiohttp.ClientSession
    name: str = field(init=False)
    limit: int = field(init=False)
    adapts: bool = True

    def __post_init__(self) -> None:
        """Take name and limit from the endpoint."""
        self.name, self.limit = self.endpoint.name, self.endpoint.limit

    async def send(self, call: Call) -> Answer:
        """Send a call once; see `Backend`."""
        started = time.monotonic()
        path = "/chat/completions" if call.api == "chat" else "/completions"
        status, headers, content = await self.request("POST", path, json.dumps(body_of(self.endpoint, call)))
        if status != 200:
            raise self._failure(status, headers, content)
        try:
            return answer_of(call, json.loads(content), time.monotonic() - started)
        except NO_COMPLETION as error:
            raise TransientError(f"HTTP 200, but no completion ({type(error).__name__}: {error})") from error

    def stop(self) -> None:
        """Await what is in flight: it is paid for."""

    async def request(
        self, method: str, path: str, body: str | aiohttp.FormData | None = None, most: int = LARGEST_REPLY
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of a reply. Raises TransientError where there is none of `most` bytes."""
        try:
            async with self.session.request(
                method,
                self.endpoint.base_url.rstrip("/") + path,
                data=body,
                headers=JSON if isinstance(body, str) else None,
                allow_redirects=False,
            ) as reply:
                content = bytearray(await reply.content.readany())
                while not reply.content.at_eof():
                    content += await reply.content.readany()
                    if len(content) > most:
                        raise TransientError(f"a reply of more than {most / 1e6:g} MB")
                return reply.status, reply.headers, bytes(content)
        except TimeoutError as error:
            raise TransientError(f"no answer within runtime.timeout ({self.endpoint.timeout:g} s)") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError(self.endpoint.redact(f"{type(error).__name__}: {error}")[:CAUSE_SHOWN]) from error

    def _failure(self, status: int, headers: Mapping[str, str], content: bytes) -> Exception:
        """Return what a reply other than 200 means for this call and for others."""
        cause = self.endpoint.redact(f"HTTP {status}: {said(content)}")[:CAUSE_SHOWN]
        if status in REFUSED_KEY:
            return _refused_key(self.endpoint, status)
        if status == 402 or OUT_OF_MONEY in cause:
            return RunError(f"teacher {self.name} wants money ({cause}); pay, then run the same command again")
        if status in BUSY or status > 500:
            after = _retry_after(headers)
            return TransientError(cause, after, throttled=status in THROTTLED or (status == 503 and after is not None))
        return CallFailedError(cause)


@asynccontextmanager
async def open_endpoint(endpoint: Endpoint) -> AsyncIterator[EndpointBackend]:
    """Yield a backend with a connection pool of its own."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
        headers={"Authorization": f"Bearer {endpoint.api_key()}"},
        trust_env=endpoint.dialect != "embedded",
    ) as session:
        yield EndpointBackend(endpoint, session)


async def check_endpoint(backend: EndpointBackend) -> None:
    """Raise a clear error where the endpoint is unreachable, refuses the key or does not serve the model."""
    endpoint = backend.endpoint
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            status, _, content = await backend.request("GET", "/models")
    except (TransientError, TimeoutError) as error:
        cause = str(error) or f"no answer within {CHECK_SECONDS:g} s"
        raise RunError(
            f"teacher {endpoint.base_url} cannot be reached: {cause}. "
            "Start the server or mend `teacher.base_url`; nothing was lost, run the same command again"
        ) from error
    if status in REFUSED_KEY:
        raise _refused_key(endpoint, status)
    if status != 200:
        return  # some servers have no model list; the first call will tell
    try:
        served = {str(model["id"]) for model in json.loads(content)["data"]}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"teacher {endpoint.base_url} answers, but is no OpenAI-compatible endpoint; mend `teacher.base_url`"
        ) from error
    if served and endpoint.model not in served:
        raise InputError(
            f"teacher {endpoint.base_url} does not serve `{endpoint.model}`; "
            f"it serves: {', '.join(sorted(served)[:10])}"
        )


def body_of(endpoint: Endpoint, call: Call) -> dict[str, Any]:
    """Return the request that sends a call."""
    prompt = {"messages": call.prompt} if call.api == "chat" else {"prompt": call.prompt}
    constraint = DIALECTS[endpoint.dialect or "response_format"](call.schema) if call.schema is not None else {}
    return {
        "model": call.model,
        **prompt,
        "temperature": call.temperature,
        "max_tokens": call.max_tokens,
        "seed": call.seed,
        **call.options,
        **constraint,
    }


def answer_of(call: Call, reply: Any, seconds: float) -> Answer:
    """Return the answer that a completion holds. Raises whatever comes of a reply that is none."""
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    text = choice["message"]["content"] if call.api == "chat" else choice["text"]
    if isinstance(text, list):  # some servers send the content in parts
        text = "".join(part.get("text") or "" for part in text)
    if not isinstance(text, str | None):
        raise TypeError(f"the answer is a {type(text).__name__}")
    return Answer(
        text=storable(text or ""),
        finish_reason=storable(str(choice.get("finish_reason") or "unknown")),
        prompt_tokens=_tokens(usage.get("prompt_tokens")),
        output_tokens=_tokens(usage.get("completion_tokens")),
        seconds=seconds,
    )


def _tokens(count: Any) -> int:
    tokens = int(count or 0)
    if not 0 <= tokens <= MOST_TOKENS:
        raise ValueError(f"{tokens} tokens are reported")
    return tokens


def said(content: bytes) -> str:
    """Return a server's own words about a failure."""
    text = content.decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        return f"{error.get('code') or ''} {error['message']}".strip() if isinstance(error, dict) else str(error)
    except (ValueError, TypeError, KeyError):
        return " ".join(text.split())


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: a number or a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _refused_key(endpoint: Endpoint, status: int) -> InputError:
    return InputError(
        f"teacher {endpoint.base_url} refuses the key (HTTP {status}); "
        f"put a valid one into the environment variable {endpoint.api_key_env}"
    )
