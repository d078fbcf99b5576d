"""Supervised fine-tuning of a student: loss on the completion only."""

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
    """What training did: rows seen, and the loss per optimiser step."""

    rows: int
    losses: list[float]
    folder: Path

    def summary(self) -> str:
        """Return one line for the terminal."""
        return (
            f"{len(self.losses)} steps on {self.rows} rows: loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f}; "
            f"student in {self.folder}"
        )


def train_student(dataset: str, revision: str | None, student: str, out: Path, settings: TrainSettings) -> TrainReport:
    """Fine-tune all weights of `student` and save it, with its tokenizer, to the new folder `out`.

    Raises InputError where data, model or folder is wrong, and RunError where the loss is not finite.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists already; give a new folder with --out")
    examples = load_examples(dataset, revision)
    model, tokenizer = load_causal_lm(student, None, "auto")
    if tokenizer.chat_template:
        examples = examples.map(as_conversation)
    trainer = _trainer(examples, model, tokenizer, out, settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not all(loss == loss for loss in losses):  # NaN is not equal to itself
        raise RunError("the loss is not a number; lower --learning-rate. No student was written")
    trainer.save_model(str(out))
    tokenizer.save_pretrained(str(out))
    return TrainReport(len(examples), losses, out)


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
        save_strategy="no",
        report_to=[],
    )
    return SFTTrainer(model=model, args=config, train_dataset=examples, processing_class=tokenizer)
