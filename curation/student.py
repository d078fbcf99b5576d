"""The student as the scores see it: a reader with the float32 logits of output positions."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController

from curation.kernels import CPU_BYTES, GPU_BYTES, token_figures
from stillhouse.errors import RunError
from stillhouse.models import Dtype, load_causal_lm
from stillhouse.reading import NO_ARGUMENTS, Encoded, Reader
from stillhouse.series import SERIES, SeriesName

Floats = npt.NDArray[np.float32]

BLOCK_BYTES = 134_217_728  # of logits, and on a GPU what is made of them
VOCABULARY_PIECE = 8_192  # entries of an output layer in half precision that are widened at a time


class Student(Reader):
    """A causal model whose output layer is run apart from its body, on the positions that are scored."""

    def __init__(self, model: Any, tokenizer: Any, template: Mapping[str, Any] = NO_ARGUMENTS) -> None:
        """Take a loaded model; nothing is computed yet."""
        super().__init__(model, tokenizer, template)
        self._checked = False
        self.vocabulary = len(model.get_output_embeddings().weight)
        token_bytes = GPU_BYTES if model.device.type == "cuda" else CPU_BYTES
        self.positions = max(1, BLOCK_BYTES // (self.vocabulary * token_bytes))

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
