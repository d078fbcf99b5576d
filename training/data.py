"""Published data as training examples; the rest of the project is not known here."""

from typing import TYPE_CHECKING

from stillhouse.errors import InputError
from stillhouse.schemas import PUBLISHED

if TYPE_CHECKING:
    from datasets import Dataset


def load_examples(dataset: str, revision: str | None, split: str = "train") -> "Dataset":
    """Return the prompt/completion examples of a published dataset (folder or Hub id).

    Raises InputError where it cannot be loaded, is empty, or is not a published dataset.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(dataset, "default", split=split, revision=revision)
    except (OSError, ValueError) as error:  # the errors of `datasets` and the Hub's are among these
        raise InputError(
            f"dataset {dataset} (config default, split {split}) cannot be loaded: {error}. "
            "Give the folder that `stillhouse run` made (runs/NAME/dataset) or a Hub id"
        ) from error
    missing = [column for column in PUBLISHED if column not in rows.column_names]
    if missing:
        raise InputError(f"dataset {dataset} is not a published dataset: it has no column {', '.join(missing)}")
    if not len(rows):
        raise InputError(f"dataset {dataset}: split {split} has no rows")
    return rows.select_columns(["prompt", "completion"])
