"""A backend that is vLLM in this process's children, on the machine's GPUs (or CPUs, with a build for them).

vLLM schedules the requests itself, so all of them are handed over at once.
"""

import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.calls import Answer, Call
from pipelines.teachers.backend import CallFailedError
from stillhouse.errors import InputError, RunError
from stillhouse.models import transformers_source
from stillhouse.sections import Runtime, Teacher

PROMPT_AND_ANSWER_TOKENS = 8192


@dataclass
class InProcessBackend:
    """Hands calls to an engine of vLLM."""

    engine: Any
    tokenizer: Any
    limit: int
    name: str = "vLLM in this process"
    adapts: bool = False

    async def send(self, call: Call) -> Answer:
        """Send a call once; see `Backend`."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        started = time.monotonic()
        try:
            prompt = self._prompt(call)
            # Only the last output is given, which holds all.
            outputs = [
                output async for output in self.engine.generate(prompt, _sampling(call), request_id=uuid.uuid4().hex)
            ]
            (last,) = outputs
        except EngineDeadError as error:
            raise RunError(f"vLLM has stopped ({error}); its own messages say why") from error
        # This prompt is too long, this schema is not understood.
        except (ValueError, TypeError, EngineGenerateError) as error:
            raise CallFailedError(f"{type(error).__name__}: {error}") from error
        return Answer(
            text=last.outputs[0].text,
            finish_reason=str(last.outputs[0].finish_reason),
            prompt_tokens=len(last.prompt_token_ids),
            output_tokens=len(last.outputs[0].token_ids),
            seconds=time.monotonic() - started,
        )

    def stop(self) -> None:
        """Await what is in flight."""

    def _prompt(self, call: Call) -> dict[str, Any]:
        """Return token ids for a chat: a template writes its own first token, and vLLM would put one before it."""
        if call.api == "completion":
            return {"prompt": call.prompt}
        if not self.tokenizer.chat_template:
            raise InputError(f"teacher.model: {call.model} has no chat template; use `api: completion` with it")
        arguments = call.options.get("chat_template_kwargs", {})
        ids = self.tokenizer.apply_chat_template(call.prompt, add_generation_prompt=True, tokenize=False, **arguments)
        return {"prompt_token_ids": self.tokenizer(ids, add_special_tokens=False)["input_ids"]}


@asynccontextmanager
async def open_in_process(teacher: Teacher, runtime: Runtime, limit: int) -> AsyncIterator[InProcessBackend]:
    """Load the model and yield its backend. Raises RunError where vLLM cannot load it."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import torch
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    source = transformers_source(teacher.model)
    arguments = AsyncEngineArgs(
        model=source,
        revision=teacher.revision,
        tensor_parallel_size=runtime.gpus,
        gpu_memory_utilization=runtime.gpu_memory,
        max_num_seqs=limit,
        enforce_eager=not torch.cuda.is_available(),  # graphs are of no use without a GPU
        # In free white space, models wander until they are cut off.
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
        disable_log_stats=True,
    )
    longest = arguments.create_model_config().max_model_len
    arguments.max_model_len = min(longest, PROMPT_AND_ANSWER_TOKENS)
    try:
        engine = AsyncLLM.from_engine_args(arguments)
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(f"teacher.model: vLLM cannot load {source}: {error}") from error
    try:
        yield InProcessBackend(engine, engine.get_tokenizer(), limit)
    finally:
        engine.shutdown()


def _sampling(call: Call) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    constraint = StructuredOutputsParams(json=call.schema) if call.schema else None
    options = {name: value for name, value in call.options.items() if name != "chat_template_kwargs"}
    return SamplingParams(
        temperature=call.temperature,
        max_tokens=call.max_tokens,
        seed=call.seed,
        structured_outputs=constraint,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **options,
    )
