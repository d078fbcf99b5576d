"""What the commands about students do: training, measuring, and whether a cut of the data helped."""

from typing import TYPE_CHECKING

from rich.console import Console

from stillhouse.display import Display
from stillhouse.job import quiet_libraries

if TYPE_CHECKING:
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
    with display:
        report = train_student(settings, display)
    if is_first_process():
        write_model_card(report.folder)
        display.trained(report)
    return report
