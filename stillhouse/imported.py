"""Somebody else's prompts and completions as the tables of a run, so that they are curated as a teacher's are."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import polars as pl

from stillhouse.errors import InputError
from stillhouse.pairs import Pairs, Prompt, read_pairs
from stillhouse.schemas import ATTRIBUTES, INSTRUCTIONS, PERSPECTIVES, RESPONSES, TEXTS, Rows, table_of
from stillhouse.sections import UNKNOWN, Imported, TextSource

ROW_ID = "stillhouse_id"
SCORED = ("difficulty", "perplexity", "ifd", "output_tokens")
Tables = dict[str, pl.DataFrame]


def import_pairs(sources: Sequence[TextSource], settings: Imported) -> tuple[Tables, pl.DataFrame, dict[str, int]]:
    """Return the tables up to `responses`, the rows as they were given, and the counts `valid` and `invalid`.

    A row's id is that of its prompt and completion, with the number of its repetition; the given rows have it as
    ROW_ID. The texts are the rows' own, where they have a column `text`, else their prompts. Raises InputError as
    `read_pairs` does.
    """
    responses, texts = Rows(RESPONSES, "responses"), Rows(TEXTS, "texts")
    tasks: dict[str, dict[str, str | None]] = {}
    frames: list[pl.DataFrame] = []
    seen: Counter[str] = Counter()
    known: set[str] = set()
    for source in sources:
        pairs = read_pairs(source, settings.prompt, settings.completion)
        frames.append(pairs.rows)
        for given, (prompt, completion) in zip(_given(pairs), pairs, strict=True):
            row = _response(given, prompt, completion)
            if row["text_id"] not in known:
                known.add(str(row["text_id"]))
                texts.add(0, _text(given.get("text") or str(row["prompt"]), given, source))
            tasks.setdefault(str(row["instruction_id"]), given)
            sample_id = str(row["sample_id"])
            seen[sample_id] += 1
            responses.add(0, row if seen[sample_id] == 1 else {**row, "sample_id": f"{sample_id}-{seen[sample_id]}"})
    answers = responses.table()
    as_given = pl.concat(frames, how="diagonal_relaxed").with_columns(answers["sample_id"].alias(ROW_ID))
    invalid = answers.filter(pl.col("status") == "invalid").height
    tables = {"texts": texts.table(), **_tasks(tasks), "responses": answers}
    return tables, as_given, {"valid": len(answers) - invalid, "invalid": invalid}


def _response(given: dict[str, str | None], prompt: Prompt, completion: str) -> dict[str, object]:
    """Return a row of `responses`."""
    shown = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    task = "|".join((given.get("perspective") or "all", given.get("task_type") or UNKNOWN))
    reason = _fault(prompt, completion)
    return {
        "sample_id": _digest([shown, completion]),
        "text_id": _digest(given.get("text") or shown),
        "instruction_id": given.get("instruction_id") or task,
        "prompt": shown,
        "output": completion,
        "status": "invalid" if reason else "valid",
        "reason": reason,
        "attempts": 1,
    }


def _digest(value: object) -> str:
    """Return an id. Texts are told apart to the letter: indentation and case matter in prompts."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def kept_rows(given: pl.DataFrame, decisions: pl.DataFrame, scores: pl.DataFrame, audit: pl.DataFrame) -> pl.DataFrame:
    """Return the kept rows as they were given, those scores whose names are not taken, and what people said.

    That is `stillhouse_audit` (accepted, corrected or null) and `stillhouse_corrected`, their answer.
    """
    outcome = pl.col("outcome").cast(pl.String)
    verdicts = audit.select("sample_id", stillhouse_audit=outcome, stillhouse_corrected="completion")
    kept = decisions.filter("kept").select("sample_id").join(scores, on="sample_id")
    kept = kept.join(verdicts, on="sample_id", how="left")
    kept = kept.filter(pl.col("stillhouse_audit").ne_missing("rejected"))
    names = [name for name in SCORED if name not in given.columns]
    fresh = kept.select(pl.col("sample_id").alias(ROW_ID), *names, "stillhouse_audit", "stillhouse_corrected")
    return given.join(fresh, on=ROW_ID, maintain_order="left")


def _given(pairs: Pairs) -> Iterator[dict[str, str | None]]:
    """Yield what each row says of itself. Raises InputError where a column is no text."""
    names = ("text", "instruction_id", "task_type", "perspective", "domain")
    known = [name for name in names if name in pairs.rows.columns]
    for name in known:
        if pairs.rows.schema[name].is_nested() or pairs.rows.schema[name] in (pl.Binary, pl.Object):
            raise InputError(f"column `{name}` holds {pairs.rows.schema[name]}, not text; rename or drop it")
    yield from (
        pairs.rows.select(pl.col(known).cast(pl.String)).iter_rows(named=True)
        if known
        else repeat(dict[str, str | None](), len(pairs.rows))
    )


def _fault(prompt: Prompt, completion: str) -> str | None:
    if not isinstance(prompt, str):
        return f"a conversation of {len(prompt)} turns; only one question and its answer are curated"
    if not completion.strip():
        return "empty completion"
    return None if prompt.strip() else "empty prompt"


def _text(text: str, given: dict[str, str | None], source: TextSource) -> dict[str, object]:
    return {
        "text_id": _digest(text),
        "text": text,
        "domain": given.get("domain") or source.domain,
        "source": source.dataset or Path(source.path or "").name,
        "licence": source.licence,
        "language": source.language,
    }


def _tasks(tasks: dict[str, dict[str, str | None]]) -> Tables:
    """Return the tables that stand for what the tasks were made of."""
    instructions = [
        {
            "instruction_id": task,
            "perspective_id": given.get("perspective") or "all",
            "kind": "task",
            "task_type": given.get("task_type") or UNKNOWN,
            "name": task,
            "instruction": "",
            "kept": True,
            "lineage": {"attributes": [], "calls": [], "edited": False},
        }
        for task, given in tasks.items()
    ]
    heads = sorted({str(row["perspective_id"]) for row in instructions})
    perspectives = [{"perspective_id": head, "head": head, "members": [], "mentions": 0} for head in heads]
    return {
        "attributes": table_of([], ATTRIBUTES, "attributes"),
        "perspectives": table_of(perspectives, PERSPECTIVES, "perspectives"),
        "instructions": table_of(instructions, INSTRUCTIONS, "instructions"),
    }
