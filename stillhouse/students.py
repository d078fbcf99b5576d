"""What the commands about students do: training, measuring, and whether a cut of the data helped."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from stillhouse.display import Display, print_json
from stillhouse.errors import InputError
from stillhouse.job import quiet_libraries

if TYPE_CHECKING:
    from stillhouse.experiment import Experiment
    from training.sentibench.evaluation import Evaluation
    from training.settings import Training
    from training.sft import TrainReport


def train(settings: "Training") -> "TrainReport":
    """Fine-tune a student with progress, write its card and show what came of it; see `training.sft.train_student`."""
    quiet_libraries()
    from hub_cards.model import write_model_card
    from training.record import is_first_process
    from training.sft import train_student

    display = Display(Console(quiet=not is_first_process()))
    rate = f"learning rate {settings.learning_rate:g}, seed {settings.seed}"
    display.panel(
        "stillhouse train",
        {"dataset": settings.dataset, "student": settings.student, "out": settings.out, "settings": rate},
    )
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft's own business
    with display:
        report = train_student(settings, display)
    if is_first_process():
        write_model_card(report.folder)
        display.trained(report)
    return report


def evaluate(settings: "Evaluation", card: bool = False, as_json: bool = False) -> dict[str, Any]:
    """Measure a model on SentiBench with progress and show the results; `card` puts them into the student's card.

    See `training.sentibench.evaluation.evaluate`.
    """
    quiet_libraries()
    from hub_cards.model import add_results, student_facts
    from training.sentibench.evaluation import evaluate as measure

    if card:
        student_facts(Path(settings.model))
    display = Display(Console(stderr=as_json))
    seeds = ", ".join(map(str, settings.seeds))
    told = {"model": settings.model, "data": str(settings.data), "out": str(settings.out)}
    display.panel("stillhouse evaluate: SentiBench", {**told, "shots": f"{settings.shots}, seeds {seeds}"})
    with display:
        results = measure(settings, display)
    if card:
        add_results(Path(settings.model), results)
    if as_json:
        print_json(results)
    else:
        display.benchmark(results)
        display.console.print(f"predictions and results in {settings.out}", soft_wrap=True)
    return results


def experiment(settings: "Experiment", as_json: bool = False) -> dict[str, Any]:
    """Compare students trained on cuts of one pool; show the table and draw the plot.

    See `stillhouse.experiment.run_experiment`.
    """
    quiet_libraries()
    from hub_cards.plots import write_share_plot
    from stillhouse.experiment import run_experiment

    display, out = Display(Console(stderr=as_json)), Path(settings.training.out)
    cuts = f"{', '.join(map(str, settings.rates))} by {', '.join((settings.strategy, *settings.controls))}"
    told = {"pool": settings.training.dataset, "student": settings.training.student, "shares": cuts, "out": str(out)}
    display.panel("stillhouse experiment: does filtering help?", told)
    with display:
        results = run_experiment(settings, display)
    pictures = write_share_plot(results["groups"], out)
    if as_json:
        print_json(results)
    else:
        display.shares(results)
        display.console.print(f"table, figures and all points in {out}: {', '.join(pictures)}", soft_wrap=True)
    return results


def score_predictions(file: Path, task: str | None, data: Path, limit: int | None, as_json: bool) -> dict[str, Any]:
    """Score predictions that were made elsewhere, print the figures and return them. Raises InputError."""
    from training.sentibench.scores import bootstrap, metrics_of, read_predictions, row_counts, unparseable
    from training.sentibench.sets import SETS, check_data, load_rows

    if task not in SETS:
        raise InputError(f"--task {task}: which set are they of? One of {', '.join(SETS)}")
    check_data(data, [task])
    rows = load_rows(data, task, "test")[:limit]
    texts = read_predictions(file, len(rows))
    counts = row_counts(task, rows, texts)
    interval, _ = bootstrap(task, [counts])
    precision, recall, f1 = metrics_of(task, counts.sum(axis=0)).tolist()
    figures = {
        "task": task,
        "rows": len(rows),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "f1_interval": [interval.low, interval.high],
        "unparseable": unparseable(task, texts) / len(texts),
    }
    if as_json:
        print_json(figures)
    else:
        Display(Console()).scored_predictions(figures)
    return figures
