"""What is trained on what, and how: the options of `stillhouse train`, and the keys of its YAML file."""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from stillhouse.errors import InputError
from stillhouse.recipe import from_options, read_mapping
from stillhouse.sections import Section, is_path
from stillhouse.series import SeriesName

PLACES = ("dataset", "revision", "student", "student_revision", "out")  # of a training; the rest is how it is done


class Training(Section):
    """One training of one student."""

    dataset: str = Field(description="Published dataset: folder or Hub id.")
    student: str = Field(description="Model folder, Hub id or offline package.")
    out: str = Field(description="New folder for the trained student.")
    revision: str | None = Field(None, description="Revision of a dataset on the Hub.")
    student_revision: str | None = Field(None, description="Revision of a student on the Hub.")

    series: SeriesName | None = Field(
        None, description="llama-3, qwen-3, gemma-3: arguments of the chat template; as it was scored unless given."
    )
    format: Literal["auto", "messages", "text"] = Field(
        "auto", description="How rows are read: as messages, as plain text, or as messages where there is a template."
    )
    pad_token: str | None = Field(None, description="Padding token, where the tokenizer names none.")
    max_length: int = Field(2048, ge=16, description="Tokens of a row at most, and of a pack.")
    packing: bool = Field(default=False, description="Fill packs of max_length with several rows, kept apart.")

    epochs: float = Field(4.0, gt=0, description="Passes over the data.")
    max_steps: int | None = Field(None, ge=1, description="Optimiser steps, instead of epochs.")
    batch_size: int = Field(4, ge=1, description="Rows, or packs, of one device at a time.")
    accumulation: int = Field(1, ge=1, description="Batches of one optimiser step.")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Of the learning rate.")
    warmup_steps: int = Field(0, ge=0, description="Steps until the peak.")
    weight_decay: float = Field(0.1, ge=0, description="Of AdamW.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Longer gradients are cut.")
    seed: int = Field(42, description="Of the order of rows, of LoRA's start and of dropout.")

    lora_rank: int | None = Field(None, ge=1, description="Train adapters of this rank (LoRA), merged in the end.")
    lora_alpha: int | None = Field(None, ge=1, description="Scale of LoRA; twice the rank unless given.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Of LoRA.")

    precision: Literal["auto", "float32", "mixed", "bfloat16"] = Field(
        "auto", description="mixed: bfloat16 over float32 weights. auto: mixed on a GPU, float32 on a CPU."
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto", description="Implementation of attention; auto leaves it to transformers."
    )
    gradient_checkpointing: bool = Field(default=False, description="Less memory, a third more time.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where it is trained.")
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between losses on the split `test`; a tenth of all unless given."
    )
    held_out_rows: int = Field(256, ge=1, description="Rows of the split `test` that are read for it, at most.")
    checkpoint_every: int | None = Field(
        None, ge=1, description="Steps between checkpoints; a tenth of all unless given."
    )

    @model_validator(mode="after")
    def _betas(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas: both are at least 0 and below 1")
        return self


def preset_names() -> list[str]:
    """Return the presets that come along."""
    return sorted(Path(file.name).stem for file in _presets().iterdir() if file.name.endswith(".yaml"))


def load_training(given: dict[str, Any], config: Path | None = None, presets: str | None = None) -> Training:
    """Return the settings: presets (names with commas, a later one goes before), then a YAML file, then what is given.

    Raises InputError naming what is wrong: a preset, the file, or an option.
    """
    found: dict[str, Any] = {}
    for name in (presets or "").split(",") if presets else []:
        if name not in preset_names():
            raise InputError(f"--preset {name}: there are {', '.join(preset_names())}")
        found |= yaml.safe_load((_presets() / f"{name}.yaml").read_text(encoding="utf-8"))
    if config:
        found |= _anchored(
            read_mapping(config, "file", "settings of a training, like `student: MODEL`"), config.resolve().parent
        )
    found |= {name: value for name, value in given.items() if value is not None}
    missing = [name for name in ("dataset", "student", "out") if name not in found]
    if missing:
        raise InputError(f"no {' and no '.join(missing)} given: as an option, or as a key of the file of --config")
    return from_options(Training, found)


def _anchored(keys: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the keys with absolute paths; relative ones start at the file's own folder."""
    anchored = dict(keys)
    for name in ("dataset", "student", "out"):
        value = keys.get(name)
        if isinstance(value, str) and (name == "out" or is_path(value) or (folder / value).exists()):
            anchored[name] = str((folder / Path(value).expanduser()).resolve())
    return anchored


def _presets() -> Any:
    return files("training") / "presets"
