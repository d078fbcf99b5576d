"""The one client: sends a call to an OpenAI-compatible endpoint and gives back its answer."""

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.calls import Answer, Call, JsonSchema
from stillhouse.errors import InputError, RunError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# llguidance, inside the embedded llama.cpp: no free white space, in which small models wander until they are cut.
TIGHT_JSON = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


@dataclass(frozen=True)
class Endpoint:
    """Where calls are sent. The key itself is never held, only the name of its environment variable."""

    base_url: str
    model: str
    api_key_env: str | None
    timeout: float
    retries: int
    embedded: bool = False

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

    def client(self) -> "AsyncOpenAI":
        """Return a client that retries with backoff and honours Retry-After."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.base_url, api_key=self.api_key(), timeout=self.timeout, max_retries=self.retries
        )


def check_endpoint(endpoint: Endpoint) -> None:
    """Raise a clear error where the endpoint is unreachable, refuses the key or does not serve the model."""
    import openai

    client = openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key(), timeout=15, max_retries=1)
    try:
        served = {model.id for model in client.models.list()}
    except openai.NotFoundError:
        return  # some servers have no model list; the first call will tell
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise InputError(
            f"teacher {endpoint.base_url} refuses the key (HTTP {error.status_code}); "
            f"put a valid one into the environment variable {endpoint.api_key_env}"
        ) from error
    except openai.APIError as error:
        raise RunError(
            f"teacher {endpoint.base_url} cannot be reached: {endpoint.redact(str(error.__cause__ or error))}. "
            "Start the server or mend `teacher.base_url`; nothing was lost, run the same command again"
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"teacher {endpoint.base_url} answers, but is no OpenAI-compatible endpoint; mend `teacher.base_url`"
        ) from error
    if served and endpoint.model not in served:
        raise InputError(
            f"teacher {endpoint.base_url} does not serve `{endpoint.model}`; "
            f"it serves: {', '.join(sorted(served)[:10])}"
        )


async def send(client: "AsyncOpenAI", endpoint: Endpoint, call: Call) -> Answer:
    """Send one call. Raises openai.APIError where it fails for good."""
    started = time.monotonic()
    common: dict[str, Any] = {
        "model": call.model,
        "temperature": call.temperature,
        "max_tokens": call.max_tokens,
        "seed": call.seed,
        "extra_body": _constraint(endpoint, call),
    }
    if call.api == "chat":
        chat = await client.chat.completions.create(messages=call.prompt, **common)
        choice, text, usage = chat.choices[0], chat.choices[0].message.content, chat.usage
        if isinstance(text, list):  # some servers send the content in parts
            text = "".join(part.get("text") or "" for part in text)
    else:
        completion = await client.completions.create(prompt=call.prompt, **common)
        choice, text, usage = completion.choices[0], completion.choices[0].text, completion.usage
    return Answer(
        text=text or "",
        finish_reason=choice.finish_reason or "unknown",
        prompt_tokens=(usage and usage.prompt_tokens) or 0,
        output_tokens=(usage and usage.completion_tokens) or 0,
        seconds=time.monotonic() - started,
    )


def _constraint(endpoint: Endpoint, call: Call) -> dict[str, Any]:
    if call.schema is None:  # a base model would go on with further questions of its own
        return {"stop": ["\n"]} if call.api == "completion" else {}
    if endpoint.embedded:
        return {"json_schema": {**TIGHT_JSON, **call.schema}}
    body = {"response_format": _response_format(call.schema)}
    # llama.cpp's completion API answers 200 and ignores response_format; its own field is `json_schema`.
    return body if call.api == "chat" else {**body, "json_schema": call.schema}


def _response_format(schema: JsonSchema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
