"""Somebody else's prompts and completions as the tables of a run, so that they are curated as a teacher's are."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from stillhouse.pairs import Pairs, Prompt, read_pairs
from stillhouse.recipe import Imported, TextSource
from stillhouse.schemas import ATTRIBUTES, INSTRUCTIONS, PERSPECTIVES, RESPONSES, TEXTS, table_of
from stillhouse.texts import text_id

UNKNOWN = "unknown"
SCORED = ("sample_id", "difficulty", "perplexity", "ifd", "output_tokens")
Tables = dict[str, pl.DataFrame]


def import_pairs(sources: Sequence[TextSource], settings: Imported) -> tuple[Tables, dict[str, int]]:
    """Return the tables up to `responses`, and the counts `valid` and `invalid`.

    A row's id is that of its prompt and completion, with the number of its repetition. The texts are the rows' own,
    where they have a column `text`, else their prompts. Raises InputError as `read_pairs` does.
    """
    rows: list[dict[str, object]] = []
    texts: dict[str, dict[str, object]] = {}
    tasks: dict[str, dict[str, str | None]] = {}
    seen: Counter[str] = Counter()
    for source in sources:
        pairs = read_pairs(source, settings.prompt, settings.completion)
        for given, prompt, completion in zip(_given(pairs), pairs.prompts, pairs.completions, strict=True):
            row = _response(given, prompt, completion)
            texts.setdefault(str(row["text_id"]), _text(given.get("text") or str(row["prompt"]), given, source))
            tasks.setdefault(str(row["instruction_id"]), given)
            sample_id = str(row["sample_id"])
            seen[sample_id] += 1
            rows.append(row if seen[sample_id] == 1 else {**row, "sample_id": f"{sample_id}-{seen[sample_id]}"})
    invalid = sum(row["status"] == "invalid" for row in rows)
    return _tables(rows, texts, tasks), {"valid": len(rows) - invalid, "invalid": invalid}


def _response(given: dict[str, str | None], prompt: Prompt, completion: str) -> dict[str, object]:
    """Return a row of `responses`."""
    shown = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    task = "|".join((given.get("perspective") or "all", given.get("task_type") or UNKNOWN))
    reason = _fault(prompt, completion)
    return {
        "sample_id": hashlib.sha256(json.dumps([shown, completion]).encode()).hexdigest()[:16],
        "text_id": text_id(given.get("text") or shown),
        "instruction_id": given.get("instruction_id") or task,
        "prompt": shown,
        "output": completion,
        "status": "invalid" if reason else "valid",
        "reason": reason,
        "attempts": 1,
    }


def kept_rows(
    sources: Sequence[TextSource], settings: Imported | None, decisions: pl.DataFrame, scores: pl.DataFrame
) -> pl.DataFrame:
    """Return the kept rows as they were given, and those scores whose names are not taken by columns of theirs."""
    given = settings or Imported.model_validate({})
    rows = pl.concat(
        [read_pairs(source, given.prompt, given.completion).rows for source in sources], how="diagonal_relaxed"
    )
    figures = decisions.select("sample_id", "kept").join(scores, on="sample_id", how="left", maintain_order="left")
    fresh = figures.select(name for name in SCORED if name not in rows.columns)
    return rows.hstack(fresh).filter(figures["kept"])


def _given(pairs: Pairs) -> list[dict[str, str | None]]:
    """Return what the rows say of themselves."""
    known = [
        name for name in ("text", "instruction_id", "task_type", "perspective", "domain") if name in pairs.rows.columns
    ]
    if not known:
        return [{}] * len(pairs.rows)
    return pairs.rows.select(pl.col(known).cast(pl.String, strict=False)).to_dicts()


def _fault(prompt: Prompt, completion: str) -> str | None:
    if not isinstance(prompt, str):
        return f"a conversation of {len(prompt)} turns; only one question and its answer are curated"
    if not completion.strip():
        return "empty completion"
    return None if prompt.strip() else "empty prompt"


def _text(text: str, given: dict[str, str | None], source: TextSource) -> dict[str, object]:
    return {
        "text_id": text_id(text),
        "text": text,
        "domain": given.get("domain") or source.domain,
        "source": source.dataset or Path(source.path or "").name,
        "licence": source.licence,
        "language": source.language,
    }


def _tables(
    rows: list[dict[str, object]], texts: dict[str, dict[str, object]], tasks: dict[str, dict[str, str | None]]
) -> Tables:
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
        "texts": table_of(list(texts.values()), TEXTS, "texts"),
        "attributes": table_of([], ATTRIBUTES, "attributes"),
        "perspectives": table_of(perspectives, PERSPECTIVES, "perspectives"),
        "instructions": table_of(instructions, INSTRUCTIONS, "instructions"),
        "responses": table_of(rows, RESPONSES, "responses"),
    }
