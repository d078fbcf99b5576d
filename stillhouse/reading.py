"""A causal model as a reader: token ids in, hidden states where they are wanted out; shared prefixes are read once."""

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError

from stillhouse.prefixes import Tokens, read_in_pieces, read_prefix, shared_prefixes

NO_ARGUMENTS: Mapping[str, Any] = {}
# Tokens of one forward pass. On a CPU larger batches leave the cache: 3.9 ms a token at 512, 10.3 at 4,096.
CPU_TOKENS, GPU_TOKENS = 512, 16_384


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample: the student reads `prompt` and is scored, or trained, on `output`."""

    prompt: Tokens
    output: Tokens

    def __len__(self) -> int:
        """Return the tokens of both."""
        return len(self.prompt) + len(self.output)


@dataclass(frozen=True)
class Batch:
    """Rows that are read together, by number: the first `prefix` tokens of each are in `cache`.

    `tokens` is how many are read for it, with those of a prefix that is new.
    """

    numbers: list[int]
    prefix: int
    cache: Any
    tokens: int


def encode(
    tokenizer: Any,
    prompt: str | list[dict[str, str]],
    output: str,
    length: int,
    template: Mapping[str, Any] = NO_ARGUMENTS,
    start: int = 0,
) -> Encoded | str:
    """Return the token ids of a sample, or the reason why there are none.

    `prompt` is a text or the turns of a conversation; a tokenizer without a chat template reads their texts, `template`
    are arguments of one. Prompt and output are tokenised apart, so that no token spans their boundary. A prompt that
    does not fit into `length` loses tokens on the left, the output never loses any; `start` stands for an empty prompt.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, **template}
        try:
            prompt_ids = tokenizer.apply_chat_template(turns, **options)["input_ids"]
        except TemplateError as error:
            return f"the chat template refuses this conversation: {error}"
    else:
        text = prompt if isinstance(prompt, str) else "\n\n".join(turn["content"] for turn in prompt)
        prompt_ids = tokenizer(text)["input_ids"]
    output_ids = tokenizer(output, add_special_tokens=False)["input_ids"]
    if not output_ids:
        return "empty output"
    room = length - len(output_ids)
    if room < 1:
        return f"output of {len(output_ids)} tokens does not fit into {length} (max_length, or the model's own limit)"
    return Encoded(np.array(prompt_ids[-room:] or [start], np.int64), np.array(output_ids, np.int64))


class Reader:
    """A causal model of Hugging Face with its tokenizer.

    `template` are arguments of its chat template, where it has one.
    """

    def __init__(self, model: Any, tokenizer: Any, template: Mapping[str, Any] = NO_ARGUMENTS) -> None:
        """Take a loaded model; nothing is computed yet."""
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self._shares: bool | None = None
        self._pieces: bool | None = None
        self.batch_tokens = GPU_TOKENS if model.device.type == "cuda" else CPU_TOKENS

    def encode(self, prompt: str | list[dict[str, str]], output: str, max_length: int) -> Encoded | str:
        """Return the token ids of a sample as `encode` does, within the model's own context."""
        return encode(self.tokenizer, prompt, output, min(max_length, self.context), self.template, self.start_token)

    @property
    def context(self) -> int:
        """Tokens that the model can read at most; some models say of no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize

    @cached_property
    def start_token(self) -> int:
        """What stands before an output without a prompt."""
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0)
        return int(next(token for token in known if token is not None))

    def hidden(self, rows: Sequence[Encoded], prefix: int = 0, cache: Any = None) -> torch.Tensor:
        """Return the hidden states that predict the rows' output tokens, shape (output tokens of all, width).

        The batch is padded on the right and has no mask: attention is causal, so padding changes nothing before it.
        The first `prefix` tokens of every row are not read, `cache` holds them.
        """
        ids = np.zeros((len(rows), max(map(len, rows)) - prefix), np.int64)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row) - prefix] = np.concatenate([row.prompt, row.output])[prefix:]
        where = np.repeat(np.arange(len(rows)), [len(row.output) for row in rows])
        when = np.concatenate([np.arange(len(row.prompt), len(row)) for row in rows]) - 1 - prefix
        device = self.model.device
        found = self.model.base_model(
            input_ids=torch.from_numpy(ids).to(device), past_key_values=cache, use_cache=cache is not None
        )
        return found.last_hidden_state[torch.from_numpy(where).to(device), torch.from_numpy(when).to(device)]

    def after(self, prompts: Sequence[Tokens]) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Yield all prompts in batches, with the hidden state after each one, shape (prompts of the batch, width)."""
        rows = [Encoded(prompt, prompt[:1]) for prompt in prompts]  # an output stands for what follows
        for batch in self.batches(rows):
            found = self._in_pieces(rows[batch.numbers[0]]) if len(batch.numbers) == 1 else None
            if found is None:
                found = self.hidden([rows[number] for number in batch.numbers], batch.prefix, batch.cache)
            yield batch, found

    def _in_pieces(self, row: Encoded) -> torch.Tensor | None:
        """Return the hidden state after a long prompt, shape (1, width), read in pieces; None where that is no gain.

        Whether the model reads pieces as it reads the whole is tried with one row, once.
        """
        if self._pieces is False or self.model.device.type != "cpu" or len(row.prompt) <= self.batch_tokens:
            return None
        ids = torch.from_numpy(row.prompt)
        found = read_in_pieces(self.model.base_model, ids, self.model.config, self.batch_tokens)
        if self._pieces is None:
            self._pieces = found is not None and _are_close(found, self.hidden([row])[0])
        return found[None] if found is not None and self._pieces else None

    def in_half(self) -> "Reader | None":
        """Return a reader in bfloat16, several times faster; None where it would not be, or this one is in half."""
        known = torch.cpu.get_capabilities()
        is_fast = known.get("avx512_bf16") or known.get("amx_bf16")
        if self.model.device.type != "cpu" or self.model.dtype != torch.float32 or not is_fast:
            return None
        half = copy.deepcopy(self.model).to(torch.bfloat16)
        half.set_attn_implementation("eager")  # on short pieces a fifth faster than sdpa, which is made for long texts
        return Reader(half, self.tokenizer, self.template)

    def remember(self, prefix: Tokens) -> Any:
        """Return a cache of a prefix for `hidden`; None where the model keeps a state that rows cannot share."""
        return read_prefix(self.model.base_model, torch.from_numpy(prefix).to(self.model.device), self.model.config)

    def shares(self, row: Encoded, prefix: int) -> bool:
        """Say whether hidden states after a shared prefix are those of the whole row; tried with one row, once."""
        if self._shares is None:
            with torch.inference_mode():
                cache, whole = self.remember(row.prompt[:prefix]), self.hidden([row])
                apart = self.hidden([row], prefix, cache) if cache else torch.full_like(whole, torch.inf)
            self._shares = _are_close(apart, whole)
        return self._shares

    def batches(self, rows: Sequence[Encoded]) -> Iterator[Batch]:
        """Yield all rows in batches of like length, those whose prompts begin alike with that read before, once."""
        for prefix, numbers in self._groups(rows):
            cache = self.remember(rows[numbers[0]].prompt[:prefix]) if prefix else None
            fresh = prefix
            for batch in _by_length(numbers, rows, prefix, self.batch_tokens):
                yield Batch(batch, prefix, cache, fresh + sum(len(rows[number]) - prefix for number in batch))
                fresh = 0

    def _groups(self, rows: Sequence[Encoded]) -> list[tuple[int, list[int]]]:
        """Return (tokens in common, row numbers) of the groups that are read with a shared prefix, and of the rest."""
        order = sorted(range(len(rows)), key=lambda number: rows[number].prompt.tolist())
        groups = [
            (prefix, [order[place] for place in places])
            for prefix, places in shared_prefixes([rows[number].prompt for number in order])
        ]
        shared = [group for group in groups if group[0]]
        if shared and not self.shares(rows[shared[0][1][0]], shared[0][0]):
            return [(0, order)]
        rest = [number for prefix, numbers in groups if not prefix for number in numbers]
        return [*shared, (0, rest)] if rest else shared


def _are_close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    error = (found - wanted).abs().max() / wanted.abs().max()
    return bool(error < (1e-3 if wanted.dtype == torch.float32 else 5e-2))


def _by_length(numbers: Sequence[int], rows: Sequence[Encoded], prefix: int, most: int) -> Iterator[list[int]]:
    """Yield batches of row numbers of like length, of at most `most` tokens after padding."""
    batch: list[int] = []
    for number in sorted(numbers, key=lambda number: len(rows[number])):
        if batch and (len(rows[number]) - prefix) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
