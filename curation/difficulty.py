"""Difficulty of samples for a student: rank score, perplexity, IFD and length, in one pass over the samples.

The rank score (CompEffDist, difficulty): at each output token p = softmax(logits), n = the smallest number of top
tokens whose cumulative p reaches 0.95, x = the token's rank from 0, s = x/n if x < n, else 1. The difficulty is the
mean of the s above 0, and 0 where there is none. Perplexity is that of the output after the prompt; IFD (Li et al.,
2024) divides it by the perplexity of the output alone.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import torch

from curation.kernels import TokenFigures, token_figures
from curation.student import Student, load_student
from stillhouse.checkpoint import Checkpoint
from stillhouse.near_duplicates import Numbers
from stillhouse.places import Chunk, Here, Place, Tell, Work, unheard
from stillhouse.reading import Encoded
from stillhouse.sections import Curation

Sample = tuple[str | list[dict[str, str]], str]
# Samples that are scored together, and lost at most where a run is killed: some minutes of a small model on a CPU.
CHUNK, CHUNK_BYTES = 1024, 400_000
READ_AT_ONCE = 16_384


@dataclass(frozen=True)
class Score:
    """Scores of one sample; `unscored_reason` says why there are none."""

    difficulty: float | None = None
    perplexity: float | None = None
    ifd: float | None = None
    output_tokens: int = 0
    scored_positions: int = 0
    unscored_reason: str | None = None


@dataclass(frozen=True)
class Scorer:
    """Scores chunks of samples, each given as JSON; returns the scores and the tokens that were read for them."""

    student: Student
    max_length: int

    def __call__(self, chunk: Chunk, tell: Tell) -> tuple[list[Score], int]:
        """Score a chunk: what comes of it depends on the chunk alone."""
        return score_chunk([json.loads(text) for text in chunk], self.student, self.max_length, tell)


def load_scorer(settings: Curation, device: str) -> Scorer:
    """Load the student of a recipe, or its proxy."""
    return Scorer(load_student(*settings.scorer, device, settings.dtype, settings.series), settings.max_length)


def score_samples(
    samples: Iterable[Sample], student: Student, max_length: int, checkpoint: Checkpoint, report: Tell = unheard
) -> list[Score]:
    """Score pairs of a prompt (a text, or the turns of a conversation) and an output, in their order.

    See `score_all`.
    """
    return score_few(samples, Scorer(student, max_length), checkpoint, report)


def score_few(
    samples: Iterable[Sample], scorer: Work[tuple[list[Score], int]], checkpoint: Checkpoint, report: Tell = unheard
) -> list[Score]:
    """Score samples in this process with a `Scorer` that is loaded; for as many as memory holds."""
    keys = score_all(samples, lambda: scorer, checkpoint, Here(), report)
    return [Score(*checkpoint.get(key)) for key in keys]


def score_all(
    samples: Iterable[Sample],
    make: Callable[[], Work[tuple[list[Score], int]]],
    checkpoint: Checkpoint,
    place: Place,
    report: Tell = unheard,
) -> list[str]:
    """Put the scores of samples, field by field, into `checkpoint`; return each sample's key there, in their order.

    Distinct pairs are worked off sorted by prompt, so that neighbours share what they begin with, a chunk at a time: a
    score does not depend on the order of the samples, on whether the run was interrupted, nor on the place of the
    `Scorer` that `make` returns. Samples whose scores `checkpoint` holds are left out. `report` is told samples done,
    repeated ones at first, and tokens read so far.

    Raises RunError where the model's logits are not those of its output layer.
    """
    texts = _as_json(samples)
    keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    order = texts.arg_sort().to_numpy()
    order = order[texts.is_first_distinct().to_numpy()[order]]
    known = np.fromiter((checkpoint.get(key) is not None for key in keys), np.bool_, len(keys))
    fresh = [chunk[~known[chunk]] for chunk in _chunks(order, texts.str.len_bytes().to_numpy())]
    fresh = [chunk for chunk in fresh if len(chunk)]
    done, tokens = len(keys) - sum(map(len, fresh)), 0
    report(done, tokens)

    def told(more: int, read: int) -> None:
        report(done + more, tokens + read)

    found = place.each(make, (texts.gather(chunk).to_list() for chunk in fresh), told)
    for chunk, (scores, read) in zip(fresh, found, strict=True):
        checkpoint.put({keys[number]: astuple(score) for number, score in zip(chunk, scores, strict=True)})
        done, tokens = done + len(chunk), tokens + read
        report(done, tokens)
    return keys


def _as_json(samples: Iterable[Sample]) -> pl.Series:
    """Return samples as JSON texts, of which no more than READ_AT_ONCE are Python objects at a time."""
    rest = iter(samples)
    pieces = iter(lambda: [json.dumps(sample) for sample in islice(rest, READ_AT_ONCE)], [])
    return pl.concat([pl.Series([], dtype=pl.String), *map(pl.Series, pieces)])


def _chunks(order: Numbers, sizes: Numbers) -> Iterator[Numbers]:
    start = size = 0
    for end, number in enumerate(order, start=1):
        size += sizes[number]
        if end - start == CHUNK or size > CHUNK_BYTES:
            yield order[start:end]
            start, size = end, 0
    if start < len(order):
        yield order[start:]


def score_chunk(pairs: Sequence[Sample], student: Student, max_length: int, report: Tell) -> tuple[list[Score], int]:
    """Score (prompt, output) pairs together; return the scores and the number of tokens that the student read.

    What occurs more than once (a label alone, a repeated pair) is read once.
    """
    encoded = [student.encode(prompt, output, max_length) for prompt, output in pairs]
    rows: dict[bytes, tuple[int, Encoded]] = {}

    def place_of(row: Encoded) -> int:
        key = row.prompt.tobytes() + b"|" + row.output.tobytes()
        return rows.setdefault(key, (len(rows), row))[0]

    start = np.array([student.start_token])
    places = [
        None if isinstance(row, str) else (place_of(row), place_of(Encoded(start, row.output))) for row in encoded
    ]
    share = len(pairs) / max(len(rows), 1)
    found, read = sequence_figures(
        [row for _, row in rows.values()], student, lambda done, read: report(int(done * share), read)
    )
    scores = [
        Score(unscored_reason=str(row)) if place is None else _score(found[place[0]], found[place[1]])
        for row, place in zip(encoded, places, strict=True)
    ]
    return scores, read


def sequence_figures(
    rows: Sequence[Encoded], student: Student, report: Tell = unheard
) -> tuple[list[TokenFigures], int]:
    """Return the figures of each row's output tokens, and the number of tokens that were read for all.

    One forward pass of the model's body over batches of like length, prompts' shared prefixes read once; only hidden
    states that predict an output token go through the output layer, a full block at a time.
    """
    if not rows:
        return [], 0
    student.check(min(rows, key=len))
    ends = np.cumsum([len(row.output) for row in rows])
    pool, read, done = _Pool(student, np.concatenate([row.output for row in rows])), 0, 0
    with torch.inference_mode():
        for batch in student.batches(rows):
            numbers = batch.numbers
            hidden = student.hidden([rows[number] for number in numbers], batch.prefix, batch.cache)
            pool.add(hidden, [np.arange(ends[number] - len(rows[number].output), ends[number]) for number in numbers])
            read += batch.tokens
            done += len(numbers)
            report(done, read)
        figures = pool.close()
    cuts = [slice(end - len(row.output), end) for row, end in zip(rows, ends, strict=True)]
    return [TokenFigures(figures.loss[cut], figures.rank[cut], figures.nucleus[cut]) for cut in cuts], read


class _Pool:
    """Gathers hidden states of several batches, so that the output layer works on full blocks."""

    def __init__(self, student: Student, targets: "np.ndarray[Any, np.dtype[np.int64]]") -> None:
        self.student, self.targets = student, targets
        count = len(targets)
        self.figures = TokenFigures(np.empty(count), np.empty(count, np.int64), np.empty(count, np.int64))
        self.hidden: list[Any] = []
        self.places: list[Any] = []
        self.waiting = 0

    def add(self, hidden: Any, places: Sequence[Any]) -> None:
        """Take hidden states, and which target each predicts; work off what fills a block."""
        self.hidden.append(hidden)
        self.places.extend(places)
        self.waiting += len(hidden)
        while self.waiting >= self.student.positions:
            self._work_off()

    def close(self) -> TokenFigures:
        """Work off the rest; return the figures of all targets."""
        while self.waiting:
            self._work_off()
        return self.figures

    def _work_off(self) -> None:
        size = self.student.positions
        hidden, places = torch.cat(self.hidden), np.concatenate(self.places)
        block, here = hidden[:size], places[:size]
        found = token_figures(self.student.logits(block), torch.from_numpy(self.targets[here]).to(block.device))
        self.figures.loss[here], self.figures.rank[here] = found.loss, found.rank
        self.figures.nucleus[here] = found.nucleus
        self.hidden, self.places = [hidden[size:]], [places[size:]]
        self.waiting -= len(here)


def _score(found: TokenFigures, alone: TokenFigures) -> Score:
    if not (np.isfinite(found.loss).all() and np.isfinite(alone.loss).all()):
        return Score(output_tokens=len(found.loss), unscored_reason="the student's logits are not finite")
    ranks = found.rank_scores()
    above = ranks[ranks > 0]
    return Score(
        difficulty=float(above.mean()) if len(above) else 0.0,
        perplexity=float(np.exp(found.loss.mean())),
        ifd=float(np.exp(found.loss.mean() - alone.loss.mean())),
        output_tokens=len(found.loss),
        scored_positions=len(above),
    )
