"""Arguments of the commands about students: train, evaluate and experiment."""

from pathlib import Path
from typing import Annotated

import typer

from stillhouse import completion
from stillhouse.errors import InputError, interruptible


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
        typer.Option(
            help="paper-release, paper-config, llama-3, qwen-3, gemma-3; several with commas, the last wins.",
            autocompletion=completion.presets,
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            help="llama-3, qwen-3, gemma-3: how the template is filled; as scored unless given.",
            autocompletion=completion.series,
        ),
    ] = None,
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


def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="Model folder, Hub id or offline package.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of SentiBench, with files like sc/imdb/test.json.", show_default=False)
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Sets or categories (basic, multifaceted, fine-grained), with commas.")
    ] = None,
    shots: Annotated[int, typer.Option(help="Demonstrations in a prompt.")] = 4,
    seeds: Annotated[str, typer.Option(help="Seeds of their draw, with commas.")] = "42,52,62",
    limit: Annotated[int | None, typer.Option(help="Test rows of each set at most, from the top.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of predictions and results; evaluations/MODEL unless given.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON or YAML file of instructions by set, in place of ours.")
    ] = None,
    generator: Annotated[
        str, typer.Option(help="Who writes fine-grained answers: transformers, vllm, or the base URL of a server.")
    ] = "transformers",
    revision: Annotated[str | None, typer.Option(help="Revision of a model on the Hub.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 on a GPU.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    card: Annotated[
        bool, typer.Option("--card", help="Write the results into the card of the student, which `train` made.")
    ] = False,
    predictions: Annotated[
        Path | None, typer.Option(help='Score these instead: JSONL, {"prediction": "..."} per test row, in order.')
    ] = None,
    task: Annotated[str | None, typer.Option(help="The set that --predictions are of.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Measure a model on SentiBench, by the protocol of CompEffDist. Resumes where it stopped."""
    from stillhouse import students
    from stillhouse.recipe import from_options
    from training.sentibench.evaluation import Evaluation

    if data is None:
        raise InputError("no folder of SentiBench given: --data DIR")
    with interruptible():
        if predictions is not None:
            students.score_predictions(predictions, task, data, limit, as_json)
            return
        if model is None:
            raise InputError("no model given; or score predictions made elsewhere: --predictions FILE --task SET")
        given = {"model": model, "data": data, "tasks": tasks, "shots": shots, "limit": limit, "prompts": prompts}
        given |= {"generator": generator, "revision": revision, "dtype": dtype, "device": device}
        given |= {"seeds": tuple(seeds.split(",")), "out": out or Path("evaluations") / Path(model).name}
        students.evaluate(from_options(Evaluation, given), card, as_json)


def experiment(
    dataset: Annotated[str, typer.Argument(help="Published dataset that was scored and cut.", show_default=False)],
    student: Annotated[str, typer.Option(help="Model folder, Hub id or offline package.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder of SentiBench.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of all points and results.")] = Path("experiments/shares"),
    rates: Annotated[str, typer.Option(help="Shares of the pool, with commas.")] = "0.1,0.5,1",
    strategy: Annotated[str, typer.Option(help="soft or hard: how difficult rows are preferred.")] = "soft",
    controls: Annotated[str, typer.Option(help="Other cuts of the same size: random, top.")] = "random,top",
    seeds: Annotated[str, typer.Option(help="Seeds of cuts and trainings, with commas.")] = "42",
    equal: Annotated[str, typer.Option(help="What all trainings share: epochs or steps.")] = "epochs",
    config: Annotated[Path | None, typer.Option(help="YAML file of settings of the training.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Presets of `stillhouse train`, with commas.", autocompletion=completion.presets),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a dataset on the Hub.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows, or packs, at a time.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Sets or categories of SentiBench, with commas.")] = None,
    shots: Annotated[int, typer.Option(help="Demonstrations in a prompt.")] = 4,
    demonstrations: Annotated[str, typer.Option(help="Seeds of their draw, with commas.")] = "42,52,62",
    limit: Annotated[int | None, typer.Option(help="Test rows of each set at most.")] = None,
    dtype: Annotated[str, typer.Option(help="Precision while measured: float32, or bfloat16 on a GPU.")] = "float32",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the trained students.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Train the same student on cuts of one pool and measure each: does filtering help? Resumes point by point."""
    from stillhouse import students
    from stillhouse.experiment import Experiment
    from stillhouse.recipe import from_options
    from training.settings import load_training

    training = {"dataset": dataset, "student": student, "out": str(out), "revision": revision, "epochs": epochs}
    training |= {"batch_size": batch_size, "learning_rate": learning_rate, "device": device}
    given = {"data": data, "strategy": strategy, "equal": equal, "tasks": tasks, "shots": shots, "limit": limit}
    lists = {"rates": rates, "controls": controls, "seeds": seeds, "demonstrations": demonstrations}
    given |= {name: tuple(part for part in value.split(",") if part) for name, value in lists.items()}
    with interruptible():
        given |= {"training": load_training(training, config, preset), "dtype": dtype, "keep": keep}
        students.experiment(from_options(Experiment, given), as_json)
