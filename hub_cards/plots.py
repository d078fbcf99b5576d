"""The pictures of a card, drawn from its facts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

INK, PALE = "#1f6f8b", "#c9dbe2"
FUNNEL, DIFFICULTY, LOSS = "figures/funnel.png", "figures/difficulty.png", "figures/loss.png"


def write_plots(facts: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw the funnel and the difficulty of kept and of all scored samples; return the files that were made."""
    (folder / "figures").mkdir(exist_ok=True)
    _funnel(facts["funnel"], folder / FUNNEL)
    if not sum(facts["difficulty_histogram"]["all"]):
        return [FUNNEL]
    _difficulty(facts["difficulty_histogram"], folder / DIFFICULTY)
    return [FUNNEL, DIFFICULTY]


def write_loss_plot(losses: Sequence[float], folder: Path) -> list[str]:
    """Draw the loss of every optimiser step; return the files that were made."""
    (folder / "figures").mkdir(exist_ok=True)
    figure, axes = _figure(2.8)
    axes.plot(range(1, len(losses) + 1), losses, color=INK, marker="o" if len(losses) < 40 else None, markersize=3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss per token")
    axes.set_title("Training", loc="left")
    _save(figure, folder / LOSS)
    return [LOSS]


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _funnel(funnel: Mapping[str, int], path: Path) -> None:
    steps = {name: count for name, count in funnel.items() if name != "attributes"}  # of mentions, not of rows
    figure, axes = _figure(0.6 + 0.32 * len(steps))
    bars = axes.barh(list(steps), list(steps.values()), color=INK)
    axes.bar_label(bars, labels=[f"{count:,}" for count in steps.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title("From texts to rows", loc="left")
    _save(figure, path)


def _difficulty(histogram: Mapping[str, list[int]], path: Path) -> None:
    figure, axes = _figure(2.8)
    bins = len(histogram["all"])
    places = [(number + 0.5) / bins for number in range(bins)]
    for name, colour in (("all", PALE), ("kept", INK)):
        axes.bar(places, histogram[name], width=1 / bins, color=colour, label=name, edgecolor="white")
    axes.set_xlim(0, 1)
    axes.set_xlabel("difficulty for the student (0 easy, 1 hard)")
    axes.set_ylabel("samples")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    axes.set_title("Difficulty", loc="left")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})  # no version of the library: the same facts, the same bytes
