"""The map of attributes and perspectives."""

from typing import Any

import numpy as np
import polars as pl

from stillhouse.plotting import INK, new_figure

LABELS_ON_MAP, NAME_LENGTH, DOTS = 16, 28, 25
LETTER, LINE = 4.6, 11  # width and height of the letters of a label, in points
INCHES, LARGEST = (9, 5.6), 80  # the radius of the largest circle where there is one, in points
Box = tuple[float, float, float, float]  # left, bottom, right, top


def draw_map(perspectives: pl.DataFrame) -> Any:
    """Draw a perspective where its attributes lie, as large as it is often mentioned, with its attributes as dots.

    The dots of a circle are as large as their attributes are frequent, the most frequent in the middle. The groups of
    the SVG are called perspective-N and attributes-N, after the place of the row in the table.
    """
    figure, axes = new_figure(*INCHES)
    rows = perspectives.with_row_index("place").drop_nulls(["x", "y"]).sort("mentions", descending=True)
    most = max(int(rows["mentions"].max() or 1), 1)  # type: ignore[arg-type] # of integers
    largest = LARGEST / len(rows) ** 0.5
    ends = [_limits(rows[name], 72 * inches, largest + 20) for name, inches in zip("xy", INCHES, strict=True)]
    axes.set(xlim=ends[0], ylim=ends[1], xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    unit = [(high - low) / (72 * inches) for (low, high), inches in zip(ends, INCHES, strict=True)]  # of a point
    boxes: list[Box] = []
    for row in rows.iter_rows(named=True):
        radius = 4 + largest * (row["mentions"] / most) ** 0.5
        _draw_circle(axes, row, radius, unit)
        _label(axes, row, radius, unit, boxes)
    return figure


def _draw_circle(axes: Any, row: dict[str, Any], radius: float, unit: list[float]) -> None:
    look = {"s": (2 * radius) ** 2, "alpha": 0.35, "linewidths": 1}
    axes.scatter(row["x"], row["y"], color=INK, gid=f"perspective-{row['place']}", **look)
    (across, up), sizes = _dots([one["count"] for one in row["members"][:DOTS]], radius)
    places = row["x"] + across * unit[0], row["y"] + up * unit[1]
    axes.scatter(*places, s=sizes, color=INK, linewidths=0, gid=f"attributes-{row['place']}")


def _label(axes: Any, row: dict[str, Any], radius: float, unit: list[float], boxes: list[Box]) -> None:
    """Write a name below its circle, unless there are enough, or it would lie on one of `boxes`."""
    name, top = short(row["head"]), row["y"] / unit[1] - radius
    left = row["x"] / unit[0] - LETTER * len(name) / 2
    box = (left, top - LINE, left + LETTER * len(name), top)
    if len(boxes) >= LABELS_ON_MAP or any(_overlap(box, other) for other in boxes):
        return
    boxes.append(box)
    below = {"xytext": (0, -radius - 2), "textcoords": "offset points", "ha": "center", "va": "top"}
    axes.annotate(name, (row["x"], row["y"]), fontsize=8, **below)


def _limits(values: pl.Series, points: float, margin: float) -> tuple[float, float]:
    """Return the ends of an axis so many points long, with a margin of points at each."""
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type] # of floats
    more = (high - low) * margin / (points - 2 * margin) or 1.0
    return low - more, high + more


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _dots(counts: list[int], radius: float) -> tuple[Any, Any]:
    """Return where the dots of a circle lie, in points from its centre (a sunflower), and their areas."""
    number = np.arange(len(counts))
    distance = 0.84 * radius * np.sqrt((number + 0.5) / max(len(counts), 1))
    angle = number * np.pi * (3 - np.sqrt(5))
    share = np.array(counts, dtype=float) / max(sum(counts), 1)
    return (distance * np.cos(angle), distance * np.sin(angle)), 0.3 * share * (2 * radius) ** 2


def short(name: str) -> str:
    """Return a name as a label: without what does not print, and not too long."""
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"
