"""Published data as token ids to train on; the rest of the project is not known here."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stillhouse.errors import InputError
from stillhouse.reading import encode
from stillhouse.remote import is_url, local_path
from stillhouse.schemas import PUBLISHED

if TYPE_CHECKING:
    import polars as pl
    from datasets import Dataset

IGNORED = -100  # the label of a token that is read and not learnt
ANSWER = "ANSWER"
NO_ROWS = "BatchSize must be greater than 0"  # what `datasets` has of a Parquet file without rows


@dataclass(frozen=True)
class Source:
    """A published dataset as it was found: `revision` is its commit on the Hub, None of a folder.

    `files` are those of config `default`, by split; `facts` is its facts.json, empty where there is none.
    """

    name: str
    revision: str | None
    files: dict[str, list[str]]
    facts: dict[str, Any]


def find_dataset(dataset: str, revision: str | None) -> Source:
    """Pin a published dataset (folder or Hub id): a branch or a tag becomes the commit it stands for now.

    Raises InputError where it cannot be read.
    """
    import fsspec
    from datasets import load_dataset_builder

    if is_url(dataset):
        dataset = str(local_path(dataset))
    if (Path(dataset) / "manifest.json").exists():
        raise InputError(f"{dataset} is a run folder; the dataset it made is {Path(dataset) / 'dataset'}")
    try:
        builder = load_dataset_builder(dataset, "default", revision=revision)
        system, path = fsspec.core.url_to_fs(f"{builder.base_path}/facts.json")
        facts = json.loads(system.cat_file(path)) if system.exists(path) else {}
    except (OSError, ValueError) as error:  # the errors of `datasets` and the Hub's are among these
        raise _unreadable(dataset, "default", error) from error
    if not isinstance(facts, dict):
        raise InputError(f"dataset {dataset}: facts.json is not what a published dataset has")
    root = PurePosixPath(path).parent
    files = {
        split: [str(PurePosixPath(fsspec.core.strip_protocol(str(file))).relative_to(root)) for file in files]
        for split, files in (builder.config.data_files or {}).items()
    }
    return Source(dataset, str(builder.hash) if builder.repo_id else None, files, facts)


def load_examples(source: Source, split: str = "train") -> "Dataset":
    """Return the prompt/completion examples of a published dataset.

    Raises InputError where it cannot be loaded, is empty, or is not a published dataset of this version's schema.
    """
    place, rows = f"dataset {source.name}", _load(source, "default", split)
    missing = [column for column in PUBLISHED if column not in rows.column_names]
    if missing:
        raise InputError(
            f"{place} is not a published dataset of this version: it has no column {', '.join(missing)}. Publish it "
            "anew with this version of stillhouse, or train with the version that published it"
        )
    for column in ("prompt", "completion"):
        if rows.features[column].dtype not in ("string", "large_string"):
            raise InputError(f"{place}: column {column} holds {rows.features[column].dtype}, not text")
    if not len(rows):
        raise InputError(f"{place}: split {split} has no rows")
    return rows.select_columns(["prompt", "completion"])


def load_pool(source: Source) -> "tuple[pl.DataFrame, pl.DataFrame | None]":
    """Return what a published dataset was selected from, and its split `test`, both with the columns of `default`.

    The pool is the kept rows, those that the selection by difficulty left out, and none whose text is in `test`.
    Raises InputError where the dataset cannot be read, has no such rows, or a row has no difficulty.
    """
    import polars as pl

    kept = _load(source, "default", "train").to_polars()
    test = _load(source, "default", "test").to_polars() if "test" in source.files else None
    rejected = (
        _load(source, "rejected", "train").to_polars().filter(pl.col("rejected_by") == "selection").select(kept.columns)
    )
    pool = pl.concat([kept, rejected], how="vertical_relaxed").sort("id")
    if test is not None:
        pool = pool.filter(~pl.col("text").is_in(test["text"].implode()))
    if rejected.is_empty() or pool["difficulty"].null_count():
        why = "some rows have no difficulty" if len(rejected) else "its selection left nothing out"
        raise InputError(
            f"dataset {source.name} is no pool to cut: {why}. Publish one that was scored, with curation.rate below 1"
        )
    return pool, test


def _load(source: Source, config: str, split: str) -> Any:
    """Return a split as `datasets` has it. Raises InputError where it cannot be loaded or is empty."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(source.name, config, split=split, revision=source.revision)
    except (OSError, ValueError, DatasetsError) as error:
        if NO_ROWS in str(error.__cause__):
            raise InputError(f"dataset {source.name}: split {split} has no rows") from error
        raise _unreadable(source.name, f"{config}, split {split}", error.__cause__ or error) from error


@dataclass(frozen=True)
class Examples:
    """Rows as token ids, with columns `input_ids` and `labels` (-100 where nothing is learnt), and those left out.

    `too_long` rows have more tokens than fit; `unusable` counts the others by reason.
    """

    rows: "Dataset"
    too_long: int
    unusable: dict[str, int]


def tokenize(examples: "Dataset", tokenizer: Any, template: Mapping[str, Any], length: int) -> Examples:
    """Return the token ids of prompt/completion rows: those that were scored, and the token that ends an answer.

    The student learns the completion and its end (`encode` of stillhouse.reading; the prompt is context only). A row
    that would lose tokens is left out: it would teach what was not scored.
    """
    from datasets import Dataset

    end = end_of_answer(tokenizer, template)
    start = next((token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None), 0)
    reasons: Counter[str] = Counter()
    too_long = 0
    found: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for prompt, completion in zip(examples["prompt"], examples["completion"], strict=True):
        row = encode(tokenizer, prompt or "", completion or "", sys.maxsize, template, start)
        if isinstance(row, str):
            reasons[row] += 1
        elif len(row) + len(end) > length:
            too_long += 1
        else:
            answer = [*row.output.tolist(), *end]
            found["input_ids"].append([*row.prompt.tolist(), *answer])
            found["labels"].append([IGNORED] * len(row.prompt) + answer)
    return Examples(Dataset.from_dict(found), too_long, dict(reasons))


def end_of_answer(tokenizer: Any, template: Mapping[str, Any]) -> list[int]:
    """Return the tokens that end an answer: what the chat template writes after one, up to its first special token.

    Of a tokenizer without a template, the end of a text.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": ANSWER}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, **template).rpartition(ANSWER)[2]
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        special = [place for place, token in enumerate(tokens) if token in tokenizer.all_special_ids]
        if special:
            return list(tokens[: special[0] + 1])
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]


def _unreadable(dataset: str, config: str, error: BaseException) -> InputError:
    cause = str(error).partition("\n")[0]
    return InputError(
        f"dataset {dataset} (config {config}) cannot be loaded: {cause}. "
        "Give the folder that `stillhouse run` made (runs/NAME/dataset) or a Hub id"
    )
