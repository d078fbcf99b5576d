"""Supervised fine-tuning of a student with TRL: on the very tokens that were scored."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.errors import InputError, RunError
from stillhouse.models import load_causal_lm, transformers_source
from stillhouse.progress import Progress
from stillhouse.store import differing_keys, write_json
from training.preparing import Prepared, end_answers_with, prepare
from training.record import write_record
from training.settings import Training
from training.trainer import STATE, make_trainer, trainer_arguments

SETTINGS, FINAL = "settings.json", "final"  # in STATE: what is trained; the student, or its adapters, as trained


@dataclass(frozen=True)
class TrainReport:
    """What training did: rows read and left out, the loss per step, and on `tested` held-out rows by step.

    `tokens` were read in all, those of prompts too.
    """

    rows: int
    too_long: int
    losses: list[float]
    held_out: list[tuple[int, float]]
    tested: int
    tokens: int
    folder: Path

    def measured(self) -> dict[str, Any]:
        """Return the figures that stand in facts.json."""
        held = self.held_out
        tested = (
            {"split": "test", "rows": self.tested, "before": held[0][1], "after": held[-1][1], "by_step": held}
            if held
            else None
        )
        return {"losses": self.losses, "held_out": tested, "tokens": self.tokens}


def train_student(settings: Training, progress: Progress) -> TrainReport:
    """Fine-tune a student and save it, with its tokenizer and facts.json, to the new folder `settings.out`.

    A training that was killed goes on from its last whole checkpoint when it is started again with the same settings.
    The loss on the dataset's split `test`, where it has one, is measured before, on the way and after.

    Raises InputError where data, model or folder is wrong, and RunError where a loss is not finite (the checkpoints
    are kept) or memory runs out.
    """
    from training.callbacks import TrainedBeforeError, Watch

    out, started = Path(settings.out), time.monotonic()
    arguments = trainer_arguments(settings)
    with arguments.main_process_first():
        checkpoint = _checkpoint_of(out, settings)
    with _clear_of_memory(settings):
        prepared, watch = prepare(settings), Watch(progress)
        trainer = make_trainer(prepared, settings, arguments, watch)
        _begin(out, settings, trainer)
        with suppress(TrainedBeforeError):
            trainer.train(resume_from_checkpoint=checkpoint)
        if watch.broken is None:
            _evaluate_at_the_end(trainer)
    if watch.broken is not None:
        raise RunError(
            f"the loss or its gradient is not a finite number at step {watch.broken}. No student was written; "
            f"{_kept(out)}. Lower learning_rate (now {settings.learning_rate:g}) or add warmup_steps, in a new folder"
        )
    report, seconds = _report(trainer, prepared, out), round(time.monotonic() - started, 1)
    trainer.save_model(str(out / STATE / FINAL))  # in all processes: some hold a part each
    if trainer.is_world_process_zero():
        student = _save(prepared, settings)
        write_record(settings, trainer, prepared, student, {**report.measured(), "seconds": seconds})
        shutil.rmtree(out / STATE)
        progress.finish("train", {"steps": len(report.losses), "rows": report.rows}, seconds)
    return report


def _checkpoint_of(out: Path, settings: Training) -> str | None:
    """Return the checkpoint that a killed run of this training left, None for a new one. Raises InputError."""
    from training.callbacks import last_whole_checkpoint

    path = out / STATE / SETTINGS
    if not path.exists() and (out.is_file() or (out.exists() and any(one.name != STATE for one in out.iterdir()))):
        raise InputError(f"{out} exists already; give a new folder with --out")
    checkpoint = last_whole_checkpoint(out / STATE)
    if checkpoint is None:
        return None
    other = differing_keys(path, _identity(settings))
    if other:
        raise InputError(
            f"{out} holds an unfinished training with another {', '.join(other)}. Give a new folder with --out, the "
            "same settings to go on with it, or delete it"
        )
    return checkpoint


def _begin(out: Path, settings: Training, trainer: Any) -> None:
    """Write down what is trained, for a run that is started again."""
    if trainer.is_world_process_zero():
        (out / STATE).mkdir(parents=True, exist_ok=True)
        write_json(out / STATE / SETTINGS, _identity(settings))


def _identity(settings: Training) -> dict[str, Any]:
    """Return the settings that have to be the same for a training to go on."""
    return settings.model_dump(mode="json", exclude={"out", "device"})


def _evaluate_at_the_end(trainer: Any) -> None:
    """Measure the loss on held-out rows after the last step, unless that was just done."""
    steps = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    if trainer.eval_dataset is not None and steps[-1:] != [trainer.state.global_step]:
        trainer.evaluate()


def _report(trainer: Any, prepared: Prepared, out: Path) -> TrainReport:
    history = trainer.state.log_history
    steps = [entry for entry in history if "loss" in entry]
    held = {int(entry["step"]): float(entry["eval_loss"]) for entry in history if "eval_loss" in entry}
    return TrainReport(
        rows=len(prepared.train.rows),
        too_long=prepared.train.too_long,
        losses=[entry["loss"] for entry in steps],
        held_out=sorted(held.items()),
        tested=len(prepared.test.rows) if prepared.test else 0,
        tokens=sum(entry["tokens"] for entry in steps),
        folder=out,
    )


def _save(prepared: Prepared, settings: Training) -> Any:
    """Write and return the student as transformers and vLLM load it: adapters merged, as precise as its base came."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig

    final = str(Path(settings.out) / STATE / FINAL)
    if settings.lora_rank:
        base, _ = load_causal_lm(settings.student, settings.student_revision, "cpu")
        model = PeftModel.from_pretrained(base, final).merge_and_unload()
        end_answers_with(model, prepared.end)
    else:
        model, _ = load_causal_lm(final, None, "cpu")
    config = AutoConfig.from_pretrained(transformers_source(settings.student), revision=settings.student_revision)
    dtype = getattr(config, "dtype", None)
    model = model.to(dtype if isinstance(dtype, torch.dtype) else torch.float32)
    model.save_pretrained(settings.out)
    prepared.tokenizer.save_pretrained(settings.out)
    return model


@contextmanager
def _clear_of_memory(settings: Training) -> Iterator[None]:
    """Say what to change where memory runs out."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not is_short:
            raise
        remedies = [
            f"--batch-size {settings.batch_size // 2} --accumulation {settings.accumulation * 2}"
            if settings.batch_size > 1
            else "",
            "" if settings.gradient_checkpointing else "--gradient-checkpointing",
            f"a smaller --max-length (now {settings.max_length})",
            "" if settings.lora_rank else "--lora-rank 16",
            "" if settings.precision == "bfloat16" else "--precision bfloat16",
        ]
        raise RunError(
            f"memory ran out: {str(error).strip().splitlines()[0] if str(error) else 'no more of it'}. In this order: "
            f"{', '.join(filter(None, remedies))}, in a new folder; {_kept(Path(settings.out))}"
        ) from error


def _kept(out: Path) -> str:
    from training.callbacks import last_whole_checkpoint

    checkpoint = last_whole_checkpoint(out / STATE)
    return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
