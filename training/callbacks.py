"""What happens between the steps of a training: progress, marks on whole checkpoints, a stop where numbers break."""

import math
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stillhouse.progress import Progress

MARK = ".whole"  # written last, in a checkpoint that was not cut off


class TrainedBeforeError(Exception):
    """All steps were done before; the checkpoint is loaded. Without this, the trainer would do one step more."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """Tells the progress, marks whole checkpoints, and stops at the first loss or gradient that is not finite.

    Such a step is not kept: its weights are broken. `broken` is its number, None while all is well.
    """

    def __init__(self, progress: Progress) -> None:
        """Tell `progress`."""
        self._progress = progress
        self._tokens = 0  # read in this run
        self.broken: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar where a killed run stopped. Raises TrainedBeforeError where that was after the last step."""
        if state.is_world_process_zero:
            self._progress.start("train", state.max_steps, "steps")
            self._progress.update(state.global_step)
        if state.global_step >= state.max_steps:
            raise TrainedBeforeError

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Move the bar by a step's log; a broken step is the last one."""
        if "loss" not in logs:
            return
        # The trainer counts anew in every run, so each step's own tokens are kept in its log.
        state.log_history[-1]["tokens"] = int(logs["num_tokens"]) - self._tokens
        self._tokens = int(logs["num_tokens"])
        if not all(math.isfinite(float(logs.get(key, 0.0))) for key in ("loss", "grad_norm")):
            self.broken = state.global_step
            control.should_training_stop, control.should_save, control.should_evaluate = True, False, False
        if state.is_world_process_zero:
            held = last_of(state.log_history, "eval_loss")
            told = f"loss {logs['loss']:.3f}" + ("" if held is None else f" · held out {held:.3f}")
            self._progress.update(state.global_step, self._tokens, told)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint that has just been written."""
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARK).touch()


def last_of(history: list[dict[str, float]], key: str) -> float | None:
    """Return the last figure of that name in a trainer's log; None where there is none."""
    return next((entry[key] for entry in reversed(history) if key in entry), None)


def last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest whole checkpoint of a training, None where there is none; delete those that were cut off."""
    whole: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        if (path / MARK).exists():
            whole[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path)
    return str(whole[max(whole)]) if whole else None
