"""The pictures of a card, drawn from its facts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.plotting import INK, PALE, draw_funnel, new_figure, save_figure

SHARES = ("figures/share.png", "figures/share.svg")
ENDS = ("low", "high")  # of an interval
FUNNEL, DIFFICULTY, LOSS = "figures/funnel.png", "figures/difficulty.png", "figures/loss.png"


def write_plots(facts: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw the funnel and the difficulty of kept and of all scored samples; return the files that were made."""
    (folder / "figures").mkdir(exist_ok=True)
    save_figure(draw_funnel(facts["funnel"]), folder / FUNNEL)
    if not sum(facts["difficulty_histogram"]["all"]):
        return [FUNNEL]
    _difficulty(facts["difficulty_histogram"], folder / DIFFICULTY)
    return [FUNNEL, DIFFICULTY]


def write_loss_plot(losses: Sequence[float], held_out: Sequence[Sequence[float]], folder: Path) -> list[str]:
    """Draw the loss of every optimiser step, and (step, loss) on held-out rows; return the files that were made."""
    (folder / "figures").mkdir(exist_ok=True)
    figure, axes = new_figure(7, 2.8)
    few = len(losses) < 40
    colour = PALE if held_out else INK
    axes.plot(
        range(1, len(losses) + 1), losses, color=colour, marker="o" if few else None, markersize=3, label="training"
    )
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=INK, marker="o", markersize=3, label="held-out rows")
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss per token")
    axes.set_title("Training", loc="left")
    save_figure(figure, folder / LOSS)
    return [LOSS]


def write_share_plot(groups: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Draw score against share of the data, a line for each way to cut; return the files that were made.

    A group has `kind`, `rate`, and `f1` with its interval; rate 0 is the student before, 1 all of the data.
    """
    (folder / "figures").mkdir(exist_ok=True)
    figure, axes = new_figure(7, 3.6)
    ends = [group for group in groups if group["rate"] in (0, 1)]
    kinds = list(dict.fromkeys(group["kind"] for group in groups if group not in ends))
    for number, kind in enumerate(kinds or ["all"]):
        mine = sorted((group for group in groups if group["kind"] == kind or group["rate"] == 1), key=_rate)
        values = [100 * group["f1"]["value"] for group in mine]
        spread = [[abs(100 * (group["f1"][end] - group["f1"]["value"])) for group in mine] for end in ENDS]
        # Beside each other, but for the one that all lines share.
        places = [group["rate"] * (1.0 if group["rate"] == 1 else 1 + 0.03 * number) for group in mine]
        axes.errorbar(places, values, yerr=spread, marker="o", markersize=4, capsize=3, label=kind, color=f"C{number}")
    for group in ends:
        if group["rate"] == 0:
            axes.axhline(100 * group["f1"]["value"], color="grey", linestyle=":", label="before training")
    axes.set_xscale("log")
    rates = sorted({group["rate"] for group in groups} - {0})
    axes.set_xticks(rates, [f"{rate:.3g}" for rate in rates])
    axes.minorticks_off()
    axes.set_xlabel("share of the pool that was trained on")
    axes.set_ylabel("SentiBench, mean F1 x 100")
    axes.legend(frameon=False)
    axes.set_title("Does filtering help?", loc="left")
    for name in SHARES:
        save_figure(figure, folder / name)
    return list(SHARES)


def _rate(group: Mapping[str, Any]) -> float:
    return float(group["rate"])


def _difficulty(histogram: Mapping[str, list[int]], path: Path) -> None:
    figure, axes = new_figure(7, 2.8)
    bins = len(histogram["all"])
    places = [(number + 0.5) / bins for number in range(bins)]
    for name, colour in (("all", PALE), ("kept", INK)):
        axes.bar(places, histogram[name], width=1 / bins, color=colour, label=name, edgecolor="white")
    axes.set_xlim(0, 1)
    axes.set_xlabel("difficulty for the student (0 easy, 1 hard)")
    axes.set_ylabel("samples")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    axes.set_title("Difficulty", loc="left")
    save_figure(figure, path)
