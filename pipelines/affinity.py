"""Affinity propagation (Frey & Dueck, 2007) in float32 and in place.

scikit-learn's works in float64 on more arrays of n x n: with it the weighted clustering took twice the time and
memory that benchmarks/perspectives.py --ratio prints. The messages and the assignment are the same.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

BLOCK_ROWS = 128  # temporaries are this many rows high and stay in the processor's cache
SETTLED_ITERATIONS = 15


def propagate(similarities: Floats, preference: float, damping: float, max_iterations: int, seed: int) -> Labels:
    """Return the cluster of each row, shape (n,), or -1 for all where no exemplar is found in `max_iterations`.

    `similarities`, shape (n, n), says how well column k would stand for row i; it need not be symmetric. Its diagonal
    is overwritten with `preference`, and noise of the size of rounding breaks ties. It stops when the exemplars have
    not changed for SETTLED_ITERATIONS iterations. Peak memory is that of two further arrays of the same shape.
    """
    count = len(similarities)
    np.fill_diagonal(similarities, preference)
    noise, tiny = np.random.default_rng(seed), np.finfo(np.float32)
    for rows in _blocks(count):
        block = similarities[rows]
        block += (tiny.eps * block + 100 * tiny.tiny) * noise.standard_normal(block.shape, dtype=np.float32)
    responsibilities, availabilities = np.zeros_like(similarities), np.zeros_like(similarities)
    exemplars, settled = np.zeros(count, dtype=bool), 0
    for _ in range(max_iterations):
        _respond(similarities, responsibilities, availabilities, damping)
        _avail(responsibilities, availabilities, damping)
        found = responsibilities.diagonal() + availabilities.diagonal() > 0
        settled = settled + 1 if np.array_equal(found, exemplars) else 0
        exemplars = found
        if settled >= SETTLED_ITERATIONS and exemplars.any():
            break
    return _assign(similarities, np.flatnonzero(exemplars))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK_ROWS, count)) for start in range(0, count, BLOCK_ROWS))


def _respond(similarities: Floats, responsibilities: Floats, availabilities: Floats, damping: float) -> None:
    """Set r(i, k) = s(i, k) - max over j other than k of (a(i, j) + s(i, j)), damped, in place."""
    for rows in _blocks(len(similarities)):
        block = similarities[rows]
        total = availabilities[rows] + block
        each = np.arange(len(block))
        best = total.argmax(axis=1)
        first = total[each, best]
        total[each, best] = -np.inf
        second = total.max(axis=1)
        np.subtract(block, first[:, None], out=total)
        total[each, best] = block[each, best] - second
        _blend(responsibilities[rows], total, damping)


def _avail(responsibilities: Floats, availabilities: Floats, damping: float) -> None:
    """Set a(i, k) = min(0, r(k, k) + sum over j other than i, k of max(0, r(j, k))), damped, in place.

    a(k, k) is the sum alone, without r(k, k) and without the bound.
    """
    own = responsibilities.diagonal().copy()
    evidence = np.minimum(own, 0).astype(np.float64)
    for rows in _blocks(len(own)):
        evidence += np.maximum(responsibilities[rows], 0).sum(axis=0, dtype=np.float64)
    support = evidence.astype(np.float32)
    for rows in _blocks(len(own)):
        new = np.maximum(responsibilities[rows], 0)
        np.subtract(support, new, out=new)
        np.minimum(new, 0, out=new)
        new[np.arange(len(new)), np.arange(rows.start, rows.stop)] = support[rows] - own[rows]
        _blend(availabilities[rows], new, damping)


def _blend(messages: Floats, new: Floats, damping: float) -> None:
    new *= np.float32(1 - damping)
    messages *= np.float32(damping)
    messages += new


def _assign(similarities: Floats, exemplars: Labels) -> Labels:
    """Count each row under its nearest exemplar, after moving each exemplar to the best place within its cluster."""
    if not len(exemplars):
        return np.full(len(similarities), -1)
    labels = _nearest(similarities, exemplars)
    for number in range(len(exemplars)):
        members = np.flatnonzero(labels == number)
        exemplars[number] = members[similarities[np.ix_(members, members)].sum(axis=0).argmax()]
    return _nearest(similarities, exemplars)


def _nearest(similarities: Floats, exemplars: Labels) -> Labels:
    labels: Labels = similarities[:, exemplars].argmax(axis=1)
    labels[exemplars] = np.arange(len(exemplars))
    return labels
