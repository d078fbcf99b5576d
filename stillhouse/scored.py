"""`stillhouse score`: difficulty, perplexity, IFD and length of anyone's prompts and completions."""

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from stillhouse import __version__
from stillhouse.checkpoint import Checkpoint
from stillhouse.errors import InputError
from stillhouse.files import READABLE
from stillhouse.models import check_causal_lm, content_digest
from stillhouse.pairs import read_pairs
from stillhouse.progress import Progress
from stillhouse.recipe import Recipe, anchor_paths, from_options
from stillhouse.remote import is_url
from stillhouse.schemas import SCORES
from stillhouse.sections import UNKNOWN, Curation, Imported, Runtime, TextSource, is_path
from stillhouse.store import write_atomically, write_parquet

FIGURES = {
    name: SCORES[name]
    for name in ("difficulty", "perplexity", "ifd", "output_tokens", "scored_positions", "unscored_reason")
}
SUFFIXES = (".parquet", ".jsonl")


def score_file(
    source: TextSource, columns: Imported, settings: Curation, device: str, out: Path, progress: Progress
) -> pl.DataFrame:
    """Write the rows of a source with the scores of each beside them; return them.

    What is scored so far lies beside `out` until all is, so that a run that was stopped goes on. Raises InputError
    where rows, model or `out` are not usable.
    """
    from curation.difficulty import score_samples
    from curation.student import load_student

    if out.suffix not in SUFFIXES:
        raise InputError(f"--out {out}: its suffix must be one of {', '.join(SUFFIXES)}")
    if out.exists():
        raise InputError(f"{out} exists; give another file with --out, or delete it first")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    check_causal_lm(settings.scorer[0])
    pairs = read_pairs(source, columns.prompt, columns.completion)
    taken = FIGURES.keys() & set(pairs.rows.columns)
    if taken:
        raise InputError(f"the rows already have columns {', '.join(sorted(taken))}; rename or drop them first")
    if out.suffix == ".jsonl" and {pl.Binary, pl.Object} & set(pairs.rows.dtypes):
        raise InputError(f"--out {out}: JSON lines cannot hold the rows' binary columns; give a .parquet file")
    progress.start("loading", total=1)
    student = load_student(*settings.scorer, device, settings.dtype, settings.series)
    about = [settings.model_dump(mode="json"), content_digest(settings.scorer[0]), __version__]
    checkpoint = Checkpoint(
        out.with_name(f".{out.name}.partial"), hashlib.sha256(json.dumps(about).encode()).hexdigest()
    )
    progress.start("scores", total=len(pairs.rows))
    scores = score_samples(pairs, student, settings.max_length, checkpoint, progress.update)
    table = pairs.rows.hstack(pl.DataFrame([asdict(score) for score in scores], schema=FIGURES))
    if out.suffix == ".parquet":
        write_parquet(out, table)
    else:
        write_atomically(out, table.write_ndjson().encode())
    checkpoint.remove()
    return table


def source_of(data: str, split: str, revision: str | None, limit: int | None) -> TextSource:
    """Return where to read from: a file or folder if there is one or it looks like one, else a dataset of the Hub."""
    if Path(data).exists() or Path(data).suffix.lower() in READABLE or is_path(data) or is_url(data):
        return from_options(TextSource, {"path": data, "limit": limit})
    return from_options(TextSource, {"dataset": data, "split": split, "revision": revision, "limit": limit})


def import_recipe(
    source: TextSource, imported: dict[str, str], curation: dict[str, Any], seed: int, device: str
) -> Recipe:
    """Return the recipe that curates a source, named after it. Raises InputError naming the option that is wrong."""
    stem = Path(source.path).stem if source.path else str(source.dataset).rpartition("/")[2]
    sections = {
        "name": re.sub(r"[^A-Za-z0-9._-]|^[._-]", "-", stem).lstrip("-")[:80] or "imported",
        "seed": seed,
        "texts": {"sources": [source.model_copy(update={"language": UNKNOWN})]},
        "imported": from_options(Imported, imported),
        "curation": from_options(Curation, curation),
        "runtime": from_options(Runtime, {"device": device}),
    }
    return anchor_paths(from_options(Recipe, sections), Path.cwd())


def summary_of(table: pl.DataFrame) -> dict[str, Any]:
    """Return how many rows are scored, why others are not, and the quartiles of each score."""
    scored = table.filter(pl.col("difficulty").is_not_null())
    quartiles = {
        name: [scored[name].quantile(q, "linear") for q in (0.0, 0.25, 0.5, 0.75, 1.0)]
        for name in ("difficulty", "perplexity", "ifd", "output_tokens")
    }
    reasons = table["unscored_reason"].drop_nulls().value_counts(sort=True)
    return {"rows": len(table), "scored": len(scored), "unscored": dict(reasons.iter_rows()), "quartiles": quartiles}
