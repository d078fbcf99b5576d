"""Loss, rank and nucleus size of target tokens under a model's logits: what the scores of a sample are made of.

The probability mass is summed in float64. In float32, a softmax over 262,144 entries sums to 1 only within 6e-5, and
the nucleus comes out one or more tokens too small at 30 to 40 % of positions.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

TOP_P = 0.95
# A nucleus is looked for among the tokens above the first of these probabilities, then above the next.
FLOORS = (1e-3, 1e-4, 1e-5, 1e-6, 0.0)
# Bytes that a position takes per entry of the vocabulary: its float32 logit and, on a GPU, float64 mass and masks.
CPU_BYTES, GPU_BYTES = 4, 15

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenFigures:
    """What is known of each target token; all of shape (positions,).

    `loss` is its negative log likelihood in nats, `rank` the number of tokens before it, `nucleus` the smallest number
    of most likely tokens whose probabilities sum to TOP_P.
    """

    loss: Floats
    rank: Integers
    nucleus: Integers

    def rank_scores(self) -> Floats:
        """Return s = rank / nucleus, or 1 outside the nucleus (CompEffDist, difficulty)."""
        return np.where(self.rank < self.nucleus, self.rank / np.maximum(self.nucleus, 1), 1.0)


def token_figures(logits: torch.Tensor, targets: torch.Tensor) -> TokenFigures:
    """Return the figures of each target.

    `logits` is float32 of shape (positions, vocabulary), `targets` holds token ids, shape (positions,). A token's rank
    counts the tokens with a higher logit, or with an equal one and a lower id.
    """
    if logits.device.type == "cuda":
        return batched_figures(logits, targets)
    return row_figures(logits.cpu().numpy(), targets.cpu().numpy(), torch.get_num_threads())


def row_figures(logits: npt.NDArray[np.float32], targets: Integers, threads: int = 1) -> TokenFigures:
    """Return the figures of each target, row by row: on a CPU, one row of logits fits into the cache, a block not."""
    loss, rank, nucleus = np.empty(len(targets)), np.empty(len(targets), np.int64), np.empty(len(targets), np.int64)

    def work(rows: range) -> None:
        mass = np.empty(logits.shape[1])
        with np.errstate(invalid="ignore", over="ignore"):  # logits that are not finite give a loss that is not
            for number in rows:
                loss[number], rank[number], nucleus[number] = _figures_of_row(logits[number], targets[number], mass)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, (range(first, len(targets), threads) for first in range(threads))))
    return TokenFigures(loss, rank, nucleus)


def _figures_of_row(row: npt.NDArray[np.float32], target: int, mass: Floats) -> tuple[float, int, int]:
    """Return loss, rank and nucleus size; `mass` is overwritten with exp(logit - highest)."""
    top, own = row.max(), row[target]
    np.subtract(row, top, out=mass, dtype=np.float64)
    np.exp(mass, out=mass)
    total = mass.sum()
    rank = np.count_nonzero(row > own) + np.count_nonzero(row[:target] == own)
    return float(np.log(total) - (np.float64(own) - np.float64(top))), int(rank), _nucleus_size(mass, total)


def _nucleus_size(mass: Floats, total: np.float64) -> int:
    """Return the nucleus size of unnormalised probabilities. Only tokens that can matter are sorted."""
    for floor in FLOORS:
        candidates = mass[mass > floor * total]
        if candidates.sum() >= TOP_P * total:
            running = np.cumsum(np.sort(candidates)[::-1])
            return int(np.searchsorted(running, TOP_P * total)) + 1
    return len(mass)  # only where logits are not finite


def batched_figures(logits: torch.Tensor, targets: torch.Tensor) -> TokenFigures:
    """Return the figures of each target by operations on whole blocks: for a GPU. No vocabulary is sorted."""
    own, top = logits.gather(1, targets[:, None]), logits.amax(dim=1, keepdim=True)
    before = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
    rank = (logits > own).sum(dim=1) + ((logits == own) & before).sum(dim=1)
    share = logits.double().sub_(top).exp_()
    total = share.sum(dim=1, keepdim=True)
    loss = total.log() - (own.double() - top.double())
    nucleus = _nucleus_sizes(share.div_(total))
    return TokenFigures(loss[:, 0].cpu().numpy(), rank.cpu().numpy(), nucleus.cpu().numpy())


def _nucleus_sizes(share: torch.Tensor) -> torch.Tensor:
    """Return the nucleus size of each row of float64 probabilities, shape (positions, vocabulary)."""
    count = len(share)
    sizes = torch.full((count,), share.shape[1], device=share.device)  # stays only where logits are not finite
    left = torch.ones(count, dtype=torch.bool, device=share.device)
    for floor in FLOORS:
        mask = (share > floor) & left[:, None]
        rows, values = mask.nonzero()[:, 0], share[mask]
        enough = torch.bincount(rows, weights=values, minlength=count) >= TOP_P
        rows, values = rows[enough[rows]], values[enough[rows]]
        order = values.argsort(descending=True)
        order = order[rows[order].argsort(stable=True)]
        rows, running = rows[order], values[order].cumsum(dim=0)
        many = torch.bincount(rows, minlength=count)
        first = many.cumsum(dim=0) - many  # place of each row's first candidate
        inside = running - torch.cat([running.new_zeros(1), running])[first[rows]]
        sizes = torch.where(enough, torch.bincount(rows[inside < TOP_P], minlength=count) + 1, sizes)
        left &= ~enough
    return sizes
