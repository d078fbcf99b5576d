"""Make the hashes of SentiBench's test sets that come along: python -m hub_cards.sentibench_hashes FOLDER.

FOLDER holds CATEGORY/SET/test.json. Nothing of their wording is kept: of each text the number of words and hashes of
64 bits. Where n grams are looked up, a gram that is in no test text is taken for one with probability
n * 412,000 / 2^64: about one in three million for 1,000,000 texts of 25 words.
"""

import sys
from pathlib import Path

from hub_cards.evaluation import SENTIBENCH, load_evaluation
from stillhouse.sections import Leaks


def write_hashes(folder: Path, target: Path) -> None:
    """Write the table EVALUATION of all sets of a folder in SentiBench's layout. Raises InputError."""
    settings = Leaks.model_validate({"sentibench": False, "evaluation": [{"path": str(folder)}]})
    # Hashes do not compress, but repeated ones do: two sets share their texts.
    load_evaluation(settings).hashed.write_parquet(target, compression="zstd", compression_level=19, statistics=False)


if __name__ == "__main__":
    write_hashes(Path(sys.argv[1]), SENTIBENCH)
