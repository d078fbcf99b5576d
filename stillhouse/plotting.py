"""Pictures: one look for all, drawn by matplotlib, and the same bytes for the same figures."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INK, PALE = "#1f6f8b", "#c9dbe2"  # of what is kept, and of all it was chosen from


@contextmanager
def plain_words() -> Iterator[None]:
    """Let words be drawn as they are, letter by letter: a dollar sign of somebody's text begins no formula."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "stillhouse"}):
        yield


def new_figure(width: float, height: float, **grid: Any) -> tuple[Any, Any]:
    """Return a figure of so many inches and its axes, without frames; `grid` are arguments of `subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(**grid)
    for one in figure.axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_funnel(funnel: Mapping[str, int]) -> Any:
    """Return a figure of the rows that each step left."""
    steps = {name: count for name, count in funnel.items() if name != "attributes"}  # of mentions, not of rows
    figure, axes = new_figure(7, 0.6 + 0.32 * len(steps))
    bars = axes.barh(list(steps), list(steps.values()), color=INK)
    axes.bar_label(bars, labels=[f"{count:,}" for count in steps.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title("From texts to rows", loc="left")
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Save as PNG or SVG, by the name, without version, date or random ids: the same facts, the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "stillhouse"}):
        figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None})
