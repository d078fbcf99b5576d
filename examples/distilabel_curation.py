"""Curate in a pipeline of distilabel: near-duplicates found exactly, difficulty under the student.

python examples/distilabel_curation.py      # needs: pip install 'stillhouse[distilabel,curate]'
"""

from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts

from stillhouse.in_distilabel import FindNearDuplicates, ScoreDifficulty
from stillhouse.sections import OFFLINE_LLM

ROWS = [
    {"instruction": "Is this positive or negative? I love it.\n", "generation": "positive"},
    {"instruction": "Is this positive or negative? I love it!\n", "generation": "positive"},
    {"instruction": "Is this positive or negative? Never again.\n", "generation": "negative"},
    {"instruction": "Is this positive or negative? Too loud.\n", "generation": ""},
]


def main() -> None:
    """Print what each step adds."""
    with Pipeline(name="curation") as pipeline:
        rows = LoadDataFromDicts(data=ROWS)
        near = FindNearDuplicates(columns=["instruction", "generation"], similarity=0.95)
        rows >> near >> ScoreDifficulty(student=OFFLINE_LLM)
    for row in pipeline.run(use_cache=False)["default"]["train"]:
        print({name: value for name, value in row.items() if name != "instruction"})


if __name__ == "__main__":
    main()
