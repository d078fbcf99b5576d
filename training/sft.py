"""Supervised fine-tuning of a student: loss on the completion only."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.errors import InputError, RunError
from stillhouse.models import load_causal_lm
from training.data import load_examples


@dataclass(frozen=True)
class TrainSettings:
    """What is done to the student; see `stillhouse train --help`."""

    max_steps: int = 20
    batch_size: int = 4
    learning_rate: float = 5e-5
    max_length: int = 1024
    seed: int = 42


@dataclass(frozen=True)
class TrainReport:
    """What training did: rows seen, rows too long to be used, and the loss per optimiser step."""

    rows: int
    too_long: int
    losses: list[float]
    folder: Path

    def summary(self) -> str:
        """Return one line for the terminal."""
        rows = f"{self.rows} rows ({self.too_long} too long, left out)"
        loss = f"loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f}"
        return f"{len(self.losses)} steps on {rows}: {loss}; student in {self.folder}"


def train_student(dataset: str, revision: str | None, student: str, out: Path, settings: TrainSettings) -> TrainReport:
    """Fine-tune all weights of `student` and save it, with its tokenizer, to the new folder `out`.

    Raises InputError where data, model or folder is wrong, and RunError where the loss is not finite.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists already; give a new folder with --out")
    examples = load_examples(dataset, revision)
    model, tokenizer = load_causal_lm(student, None, "auto")
    fitting = examples.filter(lambda row: _fits(row, tokenizer, settings.max_length))
    if not len(fitting):
        raise InputError(f"dataset {dataset}: no row fits into --max-length {settings.max_length}; raise it")
    rows = fitting.map(as_conversation, remove_columns=fitting.column_names) if tokenizer.chat_template else fitting
    trainer = _trainer(rows, model, tokenizer, out, settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not all(math.isfinite(loss) for loss in losses):
        raise RunError("the loss is not a finite number; lower --learning-rate. No student was written")
    trainer.save_model(str(out))
    tokenizer.save_pretrained(str(out))
    return TrainReport(len(fitting), len(examples) - len(fitting), losses, out)


def _fits(row: dict[str, Any], tokenizer: Any, max_length: int) -> bool:
    """Say whether prompt, completion and end token fit: a row that would lose tokens teaches what was not scored."""
    tokens = (tokenizer(row[key], add_special_tokens=key == "prompt")["input_ids"] for key in ("prompt", "completion"))
    return sum(map(len, tokens)) < max_length


def as_conversation(row: dict[str, Any]) -> dict[str, Any]:
    """Turn prompt and completion into messages, for a student with a chat template."""
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "completion": [{"role": "assistant", "content": row["completion"]}],
    }


def _trainer(examples: Any, model: Any, tokenizer: Any, out: Path, settings: TrainSettings) -> Any:
    import torch
    from trl import SFTConfig, SFTTrainer

    on_gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(out),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_length=settings.max_length,
        seed=settings.seed,
        completion_only_loss=True,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a broken step is logged as the average of the others
        save_strategy="no",
        report_to=[],
    )
    return SFTTrainer(model=model, args=config, train_dataset=examples, processing_class=tokenizer)
