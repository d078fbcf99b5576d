"""Fine-grained tasks: greedy continuations of prompts, by transformers, by vLLM or by a server."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, Protocol

from stillhouse.errors import RunError
from stillhouse.reading import Reader
from training.sentibench.labels import Found, Report

END = "]"
NEXT = "\nSentence:"  # a model that goes on with an example of its own has answered
# Tokens of prompts and answers of one batch; a batch is done when its longest answer is.
CPU_BATCH, GPU_BATCH = 4_096, 65_536
REQUESTS, RETRIES = 32, 6  # at a server
MOST_TOKENS = 16_384  # of prompt and answer; vLLM keeps memory for so many
CHUNK = 512  # prompts that vLLM is given at a time: what is lost at most


class Generator(Protocol):
    """Continues prompts greedily; answers are cut off after the list."""

    def continue_all(self, prompts: Sequence[str], max_new_tokens: int, report: Report) -> Found:
        """Yield the answers by place of their prompt, as they come; tokens are those read and written."""


def cut_answer(text: str) -> str:
    """Return a continuation up to the first "]": as CompEffDist's code does, which asks for one flat list."""
    head, end, _ = text.partition(END)
    return head + end


class TransformersGenerator:
    """Batches of like length, padded on the left, each until all its lists are closed."""

    def __init__(self, reader: Reader) -> None:
        """Take a loaded model."""
        self._reader = reader
        self._tokens = GPU_BATCH if reader.model.device.type == "cuda" else CPU_BATCH

    def continue_all(self, prompts: Sequence[str], max_new_tokens: int, report: Report) -> Found:
        """Yield the answers by place of their prompt, as they come; tokens are those read and written."""
        tokenizer, room = self._reader.tokenizer, self._reader.context - max_new_tokens
        read = tokenizer(list(prompts))["input_ids"]
        report(0, sum(len(ids) > room for ids in read))
        rows = [ids[-room:] for ids in read]
        for numbers in _like_lengths(rows, max_new_tokens, self._tokens):
            written = self._continue([rows[number] for number in numbers], max_new_tokens)
            report(sum(len(rows[number]) for number in numbers) + written.numel(), 0)
            texts = tokenizer.batch_decode(written, skip_special_tokens=True)
            yield {number: cut_answer(text) for number, text in zip(numbers, texts, strict=True)}

    def _continue(self, rows: Sequence[list[int]], max_new_tokens: int) -> Any:
        import torch

        model, tokenizer = self._reader.model, self._reader.tokenizer
        longest = max(map(len, rows))
        pad = next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
        options = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1, "pad_token_id": pad}
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids, attention_mask=mask, stop_strings=[END], tokenizer=tokenizer, **options
            )
        return found[:, longest:]


class VllmGenerator:
    """vLLM in this process."""

    def __init__(self, model: str, revision: str | None, dtype: str) -> None:
        """Load the model."""
        import torch
        from transformers import AutoConfig
        from vllm import LLM

        config = AutoConfig.from_pretrained(model, revision=revision).get_text_config()
        on_gpu = torch.cuda.is_available()
        self._model = LLM(
            model=model,
            revision=revision,
            dtype=dtype,
            max_model_len=min(getattr(config, "max_position_embeddings", None) or MOST_TOKENS, MOST_TOKENS),
            gpu_memory_utilization=0.9 if on_gpu else 0.3,  # of a machine's memory where there is no GPU
            enforce_eager=not on_gpu,  # graphs are of no use without a GPU
            enable_prefix_caching=True,
        )

    def continue_all(self, prompts: Sequence[str], max_new_tokens: int, report: Report) -> Found:
        """Yield the answers by place of their prompt, as they come; tokens are those read and written."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=max_new_tokens, stop=[NEXT])
        for start in range(0, len(prompts), CHUNK):
            numbers = range(start, min(start + CHUNK, len(prompts)))
            answers = self._model.generate([prompts[number] for number in numbers], sampling, use_tqdm=False)
            report(sum(len(one.prompt_token_ids) + len(one.outputs[0].token_ids) for one in answers), 0)
            yield {number: cut_answer(one.outputs[0].text) for number, one in zip(numbers, answers, strict=True)}


class ServerGenerator:
    """An OpenAI-compatible server that continues texts (v1/completions); its key is OPENAI_API_KEY."""

    def __init__(self, base_url: str, model: str) -> None:
        """Ask nothing yet."""
        from openai import OpenAI

        self._key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = OpenAI(base_url=base_url, api_key=self._key, max_retries=RETRIES)
        self._url, self._name = base_url, model

    def continue_all(self, prompts: Sequence[str], max_new_tokens: int, report: Report) -> Found:
        """Yield the answers by place of their prompt, as they come; tokens are those read and written.

        Raises RunError where the server does not answer, after retries; what it answered before is not lost.
        """
        failed: RunError | None = None
        with ThreadPoolExecutor(REQUESTS) as pool:
            asked: dict[Future[Any], int] = {
                pool.submit(self._ask, prompt, max_new_tokens): number for number, prompt in enumerate(prompts)
            }
            for done in as_completed(asked):
                if done.cancelled():
                    continue
                if isinstance(error := done.exception(), RunError):
                    failed = failed or error
                    pool.shutdown(wait=False, cancel_futures=True)  # those that are out are still paid for
                    continue
                answer = done.result()
                report(answer.usage.total_tokens if answer.usage else 0, 0)
                yield {asked[done]: cut_answer(answer.choices[0].text)}
        if failed:
            raise failed

    def _ask(self, prompt: str, max_new_tokens: int) -> Any:
        from openai import OpenAIError

        try:
            return self._client.completions.create(
                model=self._name, prompt=prompt, max_tokens=max_new_tokens, temperature=0.0, stop=[NEXT]
            )
        except OpenAIError as error:
            told = str(error).replace(self._key, "***")[:300]
            raise RunError(
                f"{self._url}: {told}. It must serve {self._name} under v1/completions (a server that only "
                "chats cannot continue a prompt); what it answered so far is kept"
            ) from error


def _like_lengths(rows: Sequence[list[int]], answer: int, most: int) -> Iterator[list[int]]:
    """Yield numbers of rows, longest first, in batches of at most `most` tokens with padding and answers."""
    batch: list[int] = []
    longest = 0
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        longest = longest or len(rows[number])
        if batch and (longest + answer) * (len(batch) + 1) > most:
            yield batch
            batch, longest = [], len(rows[number])
        batch.append(number)
    if batch:
        yield batch
