"""Arguments of the commands about students: train, evaluate and experiment."""

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.errors import interruptible


def train(
    dataset: Annotated[
        str | None, typer.Argument(help="Published dataset: folder or Hub id.", show_default=False)
    ] = None,
    student: Annotated[str | None, typer.Option(help="Model folder, Hub id or offline package.")] = None,
    out: Annotated[str | None, typer.Option(help="New folder for the trained student.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a dataset on the Hub.")] = None,
    student_revision: Annotated[str | None, typer.Option(help="Revision of a student on the Hub.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these options as keys.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="paper-release, paper-config, llama-3, qwen-3, gemma-3; several with commas, the last wins."),
    ] = None,
    series: Annotated[str | None, typer.Option(help="llama-3, qwen-3 or gemma-3: how the template is filled.")] = None,
    format: Annotated[  # noqa: A002 - the name of the option
        str | None, typer.Option(help="messages, text, or auto: messages where there is a chat template.")
    ] = None,
    pad_token: Annotated[str | None, typer.Option(help="Padding token, where the tokenizer names none.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a row, or of a pack (2048).")] = None,
    packing: Annotated[bool | None, typer.Option(help="Fill packs of max-length with rows, kept apart.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data (4).")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows, or packs, of one device at a time (4).")] = None,
    accumulation: Annotated[int | None, typer.Option(help="Batches of one optimiser step (1).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate (5e-5).")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine (unless given), linear or constant.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps until the peak (0).")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW (0.1).")] = None,
    betas: Annotated[tuple[float, float] | None, typer.Option(help="Of AdamW (0.9 0.999).")] = None,
    max_grad_norm: Annotated[float | None, typer.Option(help="Longer gradients are cut (1).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, dropout and LoRA's start (42).")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Train adapters of this rank, merged in the end.")] = None,
    lora_alpha: Annotated[int | None, typer.Option(help="Scale of LoRA; twice the rank unless given.")] = None,
    lora_dropout: Annotated[float | None, typer.Option(help="Of LoRA (0).")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, mixed, bfloat16, or auto: mixed on a GPU, float32 on a CPU.")
    ] = None,
    attention: Annotated[str | None, typer.Option(help="auto, eager, sdpa or flash_attention_2.")] = None,
    gradient_checkpointing: Annotated[bool | None, typer.Option(help="Less memory, a third more time.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between losses on split `test`; a tenth of all unless given.")
    ] = None,
    held_out_rows: Annotated[int | None, typer.Option(help="Rows of split `test` read for it, at most (256).")] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; a tenth of all unless given.")
    ] = None,
) -> None:
    """Fine-tune a student on a published dataset, on the very tokens that were scored. Resumes where it stopped."""
    given = {name: value for name, value in locals().items() if name not in ("config", "preset")}
    from stillhouse import students
    from training.settings import load_training

    with interruptible():
        students.train(load_training(given, config, preset))
