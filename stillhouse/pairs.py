"""Prompts and completions that somebody else made: from prompt and completion columns, or from messages."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from stillhouse.errors import InputError
from stillhouse.files import read_source, require_columns
from stillhouse.sections import TextSource

Turn = dict[str, str]
Prompt = str | list[Turn]  # a conversation of several turns is rendered by the student's chat template


@dataclass(frozen=True)
class Pairs:
    """The rows as they were given. Iterating yields prompt and completion of each; '' where there is none."""

    rows: pl.DataFrame
    place: str
    columns: tuple[str, ...]
    apart: Callable[..., tuple[Any, Any]]  # what makes a question and an answer of the columns' values

    def __iter__(self) -> Iterator[tuple[Prompt, str]]:
        """Yield pairs; a few rows at a time are Python objects. Raises InputError naming a row that is no pair."""
        for number, values in enumerate(self.rows.select(self.columns).iter_rows(), start=1):
            yield _pair(*self.apart(*values), f"{self.place}, row {number}")


def read_pairs(source: TextSource, prompt: str = "prompt", completion: str = "completion") -> Pairs:
    """Read a file, a folder or a dataset. Columns `prompt` and `completion` go before `messages`.

    Either column may hold text, or turns ({"role": ..., "content": ...}), as TRL has them. Raises InputError naming
    the file and the columns, or the row, that cannot be read so.
    """
    frames = [frame for _, frame in read_source(source)]
    try:
        rows = pl.concat(frames, how="diagonal_relaxed").head(source.limit or sum(map(len, frames)))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{source.path}: its files do not have the same columns: {error}") from error
    place = str(source.dataset or source.path)
    if rows.is_empty():
        raise InputError(f"{place} has no rows")
    if {prompt, completion} <= set(rows.columns) or "messages" not in rows.columns:
        require_columns([prompt, completion], rows.columns, f"{place} (which has no `messages` either)")
        pairs = Pairs(rows, place, (prompt, completion), lambda question, answer: (question, answer))
    elif not isinstance(rows.schema["messages"], pl.List):
        raise InputError(f"{place}: column `messages` holds {rows.schema['messages']}, not lists of turns")
    else:
        pairs = Pairs(rows, place, ("messages",), lambda turns: _cut_off_answer(turns or []))
    deque(pairs, maxlen=0)  # a row that is no pair is named before anything is loaded or spent
    return pairs


def _cut_off_answer(turns: Any) -> tuple[Any, Any]:
    """Return the turns before the last, and the last; a conversation that does not end with an answer has none."""
    answered = isinstance(turns, list) and bool(turns) and isinstance(turns[-1], dict)
    return (turns[:-1], turns[-1:]) if answered and turns[-1].get("role") == "assistant" else (turns, [])


def _pair(question: Any, answer: Any, place: str) -> tuple[Prompt, str]:
    """Return prompt and completion; one question, with or without a system turn, is no conversation but a text."""
    answer_turns = _turns(answer, place)
    text = "\n\n".join(turn["content"] for turn in answer_turns) if isinstance(answer_turns, list) else answer_turns
    turns = _turns(question, place)
    if isinstance(turns, list) and [turn["role"] for turn in turns] in (["user"], ["system", "user"]):
        turns = "\n\n".join(turn["content"] for turn in turns)
    return turns or "", text


def _turns(value: Any, place: str) -> str | list[Turn]:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str | None)
        for turn in value
    ):
        raise InputError(f"{place}: a prompt, completion or message is neither text nor turns of role and content")
    return [{"role": turn["role"], "content": turn.get("content") or ""} for turn in value]
