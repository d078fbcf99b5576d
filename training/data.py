"""Published data as training examples; the rest of the project is not known here."""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from stillhouse.errors import InputError
from stillhouse.schemas import PUBLISHED

if TYPE_CHECKING:
    from datasets import Dataset


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

    try:
        builder = load_dataset_builder(dataset, "default", revision=revision)
        root = str(builder.base_path)
        system, path = fsspec.core.url_to_fs(f"{root}/facts.json")
        facts = json.loads(system.cat_file(path)) if system.exists(path) else {}
    except (OSError, ValueError) as error:  # the errors of `datasets` and the Hub's are among these
        raise _unreadable(dataset, "default", error) from error
    if not isinstance(facts, dict):
        raise InputError(f"dataset {dataset}: facts.json is not what a published dataset has")
    files = {
        split: [str(PurePosixPath(str(file)).relative_to(root)) for file in files]
        for split, files in (builder.config.data_files or {}).items()
    }
    return Source(dataset, str(builder.hash) if builder.repo_id else None, files, facts)


def load_examples(dataset: str, revision: str | None, split: str = "train") -> "Dataset":
    """Return the prompt/completion examples of a published dataset (folder or Hub id).

    Raises InputError where it cannot be loaded, is empty, or is not a published dataset.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(dataset, "default", split=split, revision=revision)
    except (OSError, ValueError) as error:
        raise _unreadable(dataset, f"default, split {split}", error) from error
    missing = [column for column in PUBLISHED if column not in rows.column_names]
    if missing:
        raise InputError(f"dataset {dataset} is not a published dataset: it has no column {', '.join(missing)}")
    if not len(rows):
        raise InputError(f"dataset {dataset}: split {split} has no rows")
    return rows.select_columns(["prompt", "completion"])


def _unreadable(dataset: str, config: str, error: Exception) -> InputError:
    return InputError(
        f"dataset {dataset} (config {config}) cannot be loaded: {error}. "
        "Give the folder that `stillhouse run` made (runs/NAME/dataset) or a Hub id"
    )
