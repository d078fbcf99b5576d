"""The student as the scores see it: token ids in, hidden states and float32 logits of output positions out."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jinja2 import TemplateError
from threadpoolctl import ThreadpoolController

from curation.kernels import CPU_BYTES, GPU_BYTES, token_figures
from curation.prefixes import Tokens, read_prefix
from stillhouse.errors import RunError
from stillhouse.models import Dtype, load_causal_lm
from stillhouse.series import SERIES, SeriesName

Floats = npt.NDArray[np.float32]

NO_ARGUMENTS: Mapping[str, Any] = {}
# Tokens of one forward pass. On a CPU larger batches leave the cache: 3.9 ms a token at 512, 10.3 at 4,096.
CPU_TOKENS, GPU_TOKENS = 512, 16_384
BLOCK_BYTES = 134_217_728  # of logits, and on a GPU what is made of them
VOCABULARY_PIECE = 8_192  # entries of an output layer in half precision that are widened at a time


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample: the student reads `prompt` and is scored on `output`."""

    prompt: Tokens
    output: Tokens

    def __len__(self) -> int:
        """Return the tokens of both."""
        return len(self.prompt) + len(self.output)


class Student:
    """A causal model of Hugging Face with its tokenizer.

    `template` are arguments of its chat template, where it has one.
    """

    def __init__(self, model: Any, tokenizer: Any, template: Mapping[str, Any] = NO_ARGUMENTS) -> None:
        """Take a loaded model; nothing is computed yet."""
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self._checked = False
        self._shares: bool | None = None
        on_gpu = model.device.type == "cuda"
        self.batch_tokens = GPU_TOKENS if on_gpu else CPU_TOKENS
        self.vocabulary = len(model.get_output_embeddings().weight)
        self.positions = max(1, BLOCK_BYTES // (self.vocabulary * (GPU_BYTES if on_gpu else CPU_BYTES)))

    def encode(self, prompt: str | list[dict[str, str]], output: str, max_length: int) -> Encoded | str:
        """Return the token ids of a sample, or the reason why it cannot be scored.

        `prompt` is a text or the turns of a conversation; a student without a chat template reads their texts. Prompt
        and output are tokenised apart, so that no token spans their boundary. A prompt that is too long loses tokens
        on the left, the output never loses any.
        """
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, **self.template}
            try:
                prompt_ids = self.tokenizer.apply_chat_template(turns, **options)["input_ids"]
            except TemplateError as error:
                return f"the chat template refuses this conversation: {error}"
        else:
            text = prompt if isinstance(prompt, str) else "\n\n".join(turn["content"] for turn in prompt)
            prompt_ids = self.tokenizer(text)["input_ids"]
        output_ids = self.tokenizer(output, add_special_tokens=False)["input_ids"]
        if not output_ids:
            return "empty output"
        length = min(max_length, self.context)
        room = length - len(output_ids)
        if room < 1:
            return (
                f"output of {len(output_ids)} tokens does not fit into {length} (max_length, or the model's own limit)"
            )
        return Encoded(np.array(prompt_ids[-room:] or [self.start_token], np.int64), np.array(output_ids, np.int64))

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

    def remember(self, prefix: Tokens) -> Any:
        """Return a cache of a prefix for `hidden`; None where the model keeps a state that rows cannot share."""
        return read_prefix(self.model.base_model, torch.from_numpy(prefix).to(self.model.device), self.model.config)

    def shares(self, row: Encoded, prefix: int) -> bool:
        """Say whether hidden states after a shared prefix are those of the whole row; tried with one row, once."""
        if self._shares is None:
            with torch.inference_mode():
                cache, whole = self.remember(row.prompt[:prefix]), self.hidden([row])
                apart = self.hidden([row], prefix, cache) if cache else torch.full_like(whole, torch.inf)
            error = (apart - whole).abs().max() / whole.abs().max()
            self._shares = bool(error < (1e-3 if whole.dtype == torch.float32 else 5e-2))
        return self._shares

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits, shape (positions, vocabulary), also of a model in half precision.

        Logits in bfloat16 tie with others at 39 % of positions, and a rank would depend on chance. The buffer is used
        again by the next call; `hidden` has at most `positions` rows.
        """
        layer, logits = self.model.get_output_embeddings(), self._buffer[: len(hidden)]
        if layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu":
            self._multiply(hidden.numpy(), layer.weight.detach().numpy(), logits.numpy())
        elif layer.weight.dtype == torch.float32:
            torch.mm(hidden, layer.weight.T, out=logits)
        elif layer.weight.is_cuda:
            logits.copy_(torch.mm(hidden, layer.weight.T, out_dtype=torch.float32))
        else:
            for start in range(0, self.vocabulary, VOCABULARY_PIECE):
                piece = slice(start, start + VOCABULARY_PIECE)
                logits[:, piece] = hidden.float() @ layer.weight[piece].float().T
        if getattr(layer, "bias", None) is not None:
            logits += layer.bias
        return _finish(logits, self.model.config)

    def _multiply(self, hidden: Floats, weight: Floats, logits: Floats) -> None:
        """Write hidden @ weight.T into pages that are there already: 3.5 ms a position, torch.nn.Linear takes 5.1.

        Each thread takes a part of the vocabulary: threads of OpenBLAS's own would go on spinning afterwards, in the
        way of what comes next.
        """
        edges = np.linspace(0, self.vocabulary, torch.get_num_threads() + 1).astype(int)

        def work(piece: slice) -> None:
            np.matmul(hidden, weight[piece].T, out=logits[:, piece])

        with self._blas.limit(limits=1, user_api="blas"), ThreadPoolExecutor(len(edges) - 1) as pool:
            list(pool.map(work, map(slice, edges[:-1], edges[1:])))

    @cached_property
    def _blas(self) -> ThreadpoolController:
        return ThreadpoolController()

    @cached_property
    def _buffer(self) -> torch.Tensor:
        return torch.empty((self.positions, self.vocabulary), device=self.model.device)

    def check(self, row: Encoded) -> None:
        """Raise RunError where body and output layer, run apart, are not the model itself; tried with one row, once."""
        if self._checked:
            return
        self._checked = True
        with torch.inference_mode():
            ids = torch.from_numpy(np.concatenate([row.prompt, row.output])[None]).to(self.model.device)
            whole = self.model(ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1].float()[: self.positions]
            targets = torch.from_numpy(row.output[: self.positions]).to(self.model.device)
            wanted = token_figures(whole, targets).loss
            found = token_figures(self.logits(self.hidden([row])[: self.positions]), targets).loss
        # A model in half precision rounds its own logits, by up to 0.13 where they are above 16.
        tolerance = 1e-2 if self.model.dtype == torch.float32 else 0.5
        if not np.allclose(wanted, found, atol=tolerance, rtol=tolerance, equal_nan=True):
            raise RunError(
                f"student {type(self.model).__name__} does more after its output layer than is known; use another"
            )


def load_student(reference: str, revision: str | None, device: str, dtype: Dtype, series: SeriesName | None) -> Student:
    """Load a student, with what its series' chat template needs."""
    return Student(*load_causal_lm(reference, revision, device, dtype), SERIES[series].template if series else {})


def _finish(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Do, in place, what some models do after their output layer: scaling (Granite, Cohere), soft-capping (Gemma 2)."""
    text = config.get_text_config()
    scale = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
    if scale != 1.0:
        logits *= scale
    cap = getattr(text, "final_logit_softcapping", None)
    return logits.div_(cap).tanh_().mul_(cap) if cap else logits
