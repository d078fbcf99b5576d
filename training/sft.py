"""Supervised fine-tuning of a student: loss on the completion only."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.errors import InputError, RunError
from stillhouse.models import load_causal_lm
from training.data import find_dataset, load_examples
from training.record import write_record


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
    """Fine-tune all weights of `student` and save it, with its tokenizer and facts.json, to the new folder `out`.

    The loss on the dataset's test split, where it has one, is measured before and after.

    Raises InputError where data, model or folder is wrong, and RunError where the loss is not finite.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists already; give a new folder with --out")
    source, started = find_dataset(dataset, revision), time.monotonic()
    examples = load_examples(dataset, source.revision)
    held_out = load_examples(dataset, source.revision, "test") if "test" in source.files else None
    model, tokenizer = load_causal_lm(student, None, "auto")
    rows = _as_read(examples, tokenizer, settings)
    if not len(rows):
        raise InputError(f"dataset {dataset}: no row fits into --max-length {settings.max_length}; raise it")
    tests = (_as_read(held_out, tokenizer, settings) or None) if held_out else None
    trainer = _trainer(rows, model, tokenizer, out, settings, tests)
    before = _loss_on(trainer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not all(math.isfinite(loss) for loss in losses):
        raise RunError("the loss is not a finite number; lower --learning-rate. No student was written")
    report = TrainReport(len(rows), len(examples) - len(rows), losses, out)
    held = {"split": "test", "rows": len(tests), "before": before, "after": _loss_on(trainer)} if tests else None
    trainer.save_model(str(out))
    (out / "training_args.bin").unlink()  # a pickle; facts.json has the settings
    tokenizer.save_pretrained(str(out))
    done = {"rows": report.rows, "too_long": report.too_long, "losses": losses, "held_out": held}
    seconds = round(time.monotonic() - started, 1)
    write_record(out, student, model, tokenizer, source, {**done, "settings": asdict(settings), "seconds": seconds})
    return report


def _as_read(examples: Any, tokenizer: Any, settings: TrainSettings) -> Any:
    """Return the rows that fit, as the student reads them: messages where it has a chat template."""
    rows = examples.filter(lambda row: _fits(row, tokenizer, settings.max_length))
    return rows.map(as_conversation, remove_columns=rows.column_names) if tokenizer.chat_template else rows


def _loss_on(trainer: Any) -> float | None:
    """Return the loss per token of a completion, its mean over held-out rows; None without any."""
    return float(trainer.evaluate()["eval_loss"]) if trainer.eval_dataset is not None else None


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


def _trainer(
    examples: Any, model: Any, tokenizer: Any, out: Path, settings: TrainSettings, held_out: Any = None
) -> Any:
    import torch
    from trl import SFTConfig, SFTTrainer

    on_gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(out),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=1,  # every row counts the same, however long it is
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
    return SFTTrainer(
        model=model, args=config, train_dataset=examples, eval_dataset=held_out, processing_class=tokenizer
    )
