"""Prompts that begin alike: which rows share a prefix, and a model's memory of it that all of them read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

Tokens = npt.NDArray[np.int64]

GROUP_TOKENS = 64  # what a group must save to be worth a forward pass of its own


def shared_prefixes(prompts: Sequence[Tokens]) -> list[tuple[int, range]]:
    """Return (tokens in common, rows) of groups of neighbours that cover all prompts, so that most tokens are saved.

    `prompts` are token ids, sorted. A group of k rows with a common prefix of m tokens saves (k - 1) m of them. A
    prefix leaves each prompt its last token, whose hidden state predicts the output. The best cut into groups is found
    by dynamic programming, in O(n^2); a row that shares nothing is in a group of its own, with a prefix of 0.
    """
    count = len(prompts)
    best, cut, prefix = np.zeros(count + 1), np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    common = np.zeros(count, np.int64)  # of all rows from the i-th to the current one
    for stop in range(1, count + 1):
        if stop > 1:
            common[: stop - 1] = np.minimum(common[: stop - 1], _common(prompts[stop - 2], prompts[stop - 1]))
        common[stop - 1] = np.iinfo(np.int64).max // count
        others = np.arange(stop - 1, -1, -1)
        saved = best[:stop] + np.where(others, others * common[:stop] - GROUP_TOKENS, 0)
        cut[stop] = saved.argmax()
        best[stop], prefix[stop] = saved[cut[stop]], common[cut[stop]]
    groups = []
    while count:
        start = int(cut[count])
        groups.append((int(prefix[count]) if count - start > 1 else 0, range(start, count)))
        count = start
    return groups[::-1]


def _common(one: Tokens, other: Tokens) -> int:
    """Return how many tokens two prompts have in common, without the last of the shorter one."""
    length = min(len(one), len(other)) - 1
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


class PrefixLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values of a prefix, read by every row of a batch and changed by none.

    Stands where transformers expects a cache layer; of the batch nothing is kept, so memory does not grow.
    """

    def __init__(self, layer: Any) -> None:
        """Take over a layer that has read the prefix."""
        self._layer = layer
        self.is_sliding = layer.is_sliding
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to be made."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prefix's keys and values followed by the batch's, of shape (batch, heads, tokens, size)."""
        before = (self._layer.keys, self._layer.values)
        joined = [
            torch.cat([old.expand(len(new), -1, -1, -1), new], dim=-2)
            for old, new in zip(before, (keys, values), strict=True)
        ]
        return joined[0], joined[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of what a query of the batch may look at."""
        return tuple(self._layer.get_mask_sizes(query_length))

    def get_seq_length(self) -> int:
        """Return the tokens of the prefix."""
        return int(self._layer.get_seq_length())

    def get_max_length(self) -> int:
        """Return how many tokens the layer can hold."""
        return int(self._layer.get_max_length())


def read_prefix(body: Any, tokens: torch.Tensor, config: Any) -> Any:
    """Return a cache of a prefix, shape (tokens,), for batches of any size; None where the model cannot share one."""
    cache = DynamicCache(config=config)
    if not _is_read_only(cache):
        return None
    body(input_ids=tokens[None], past_key_values=cache, use_cache=True)
    if not (cache.layers and _is_read_only(cache)):  # some models make their layers on the way, or none
        return None
    return Cache(layers=[PrefixLayer(layer) for layer in cache.layers])


def read_in_pieces(body: Any, tokens: torch.Tensor, config: Any, size: int) -> torch.Tensor | None:
    """Return the hidden state after `tokens`, shape (width,), read `size` at a time; None where the model cannot.

    A piece stays in a CPU's cache, which all tokens of a long text together do not.
    """
    cache = DynamicCache(config=config)
    if not _is_read_only(cache):
        return None
    found = None
    for piece in tokens.split(size):
        found = body(input_ids=piece[None], past_key_values=cache, use_cache=True).last_hidden_state[0, -1]
    return found if cache.layers and _is_read_only(cache) else None


def _is_read_only(cache: Any) -> bool:
    """Say whether all layers keep keys and values; recurrent ones keep a state that each row would overwrite."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
