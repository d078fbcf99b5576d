"""Train the demo student for two steps on a tiny dataset: python -m tests.trained_student FOLDER.

`make vllm` does so and loads what comes of it.
"""

import sys
from pathlib import Path

from stillhouse.progress import Unseen
from stillhouse.sections import OFFLINE_LLM
from tests.tiny_student import published_rows, write_published
from training.settings import Training
from training.sft import train_student

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    dataset = write_published(folder / "moods", train=published_rows(4))
    given = {"dataset": str(dataset), "student": OFFLINE_LLM, "out": str(folder / "student")}
    train_student(Training.model_validate({**given, "max_steps": 2, "batch_size": 1, "lora_rank": 4}), Unseen())
