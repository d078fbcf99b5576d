"""The pictures of a report: PNG and SVG files, and the same SVG in the page, in the page's colours."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from reports.content import Content
from reports.perspective_map import draw_map, short
from stillhouse.plotting import INK, PALE, draw_funnel, new_figure, plain_words, save_figure

BINS = 30
ROWS_ON_MATRIX, TYPES_DRAWN = 30, 8
SCORES = {
    "difficulty": "difficulty (rank score: 0 easy, 1 hard)",
    "perplexity": "perplexity of the answer",
    "ifd": "IFD (perplexity with the prompt over without)",
    "output_tokens": "tokens of the answer",
}
ON_LOG_SCALE = {"perplexity", "ifd", "output_tokens"}
TEXT, GREY = "#22211f", "#8a8580"
# What is drawn in one of these colours follows the theme of the page.
THEMED = {INK: "var(--kept)", PALE: "var(--pool)", TEXT: "var(--ink)", GREY: "var(--faint)"}


def write_figures(content: Content, samples: pl.DataFrame, folder: Path) -> dict[str, Markup]:
    """Draw all that there is data for into `folder`, as PNG and SVG; return the SVGs as they stand in the page."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Markup] = {}
    with plain_words(), warnings.catch_warnings():
        # A PNG shows boxes for letters that the font lacks; the SVGs hold the letters themselves.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        for name, draw in _figures(content, samples).items():
            figure = _themed(draw())
            for kind in ("png", "svg"):
                save_figure(figure, folder / f"{name}.{kind}")
            drawn[name] = inline((folder / f"{name}.svg").read_text(encoding="utf-8"), name)
    return drawn


def _figures(content: Content, samples: pl.DataFrame) -> dict[str, Callable[[], Any]]:
    """Return what can be drawn, by the name of its files."""
    found: dict[str, Callable[[], Any]] = {}
    if content.funnel:
        found["funnel"] = partial(draw_funnel, content.funnel)
    perspectives = content.tables.get("perspectives")
    if perspectives is not None and perspectives["x"].is_not_null().any():
        found["perspectives"] = partial(draw_map, perspectives)
    if content.coverage is not None and len(content.coverage):
        found["coverage"] = partial(_matrix, content.coverage)
    scored = samples.filter(pl.col("difficulty").is_not_null())
    for name in SCORES:
        if len(scored):
            found[name] = partial(_distributions, scored, name)
    return found


def _themed(figure: Any) -> Any:
    """Give words, axes and ticks the colours that follow the theme."""
    for axes in figure.axes:
        axes.tick_params(colors=GREY, labelcolor=TEXT)
        axes.spines[:].set_color(GREY)
        for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title):  # noqa: SLF001
            text.set_color(TEXT)
        if legend := axes.get_legend():
            for text in legend.get_texts():
                text.set_color(TEXT)
    return figure


def _matrix(coverage: pl.DataFrame) -> Any:
    """Draw samples per perspective and task type, before the filters and after them."""
    steps = ["paired", "kept" if "kept" in coverage.columns else "valid"]
    counts = coverage.group_by("perspective", "task_type").agg(pl.col(steps).sum())
    rows = (
        counts.group_by("perspective")
        .agg(pl.col("paired").sum())
        .sort(["paired", "perspective"], descending=[True, False])
    )
    heads, types = rows["perspective"].head(ROWS_ON_MATRIX).to_list(), _types(counts)
    figure, panels = new_figure(9, 1.2 + 0.26 * len(heads), ncols=2, sharey=True)
    for axes, step in zip(panels, steps, strict=True):
        cells = {(row[0], row[1]): row[2] for row in counts.select("perspective", "task_type", step).iter_rows()}
        values = np.array([[cells.get((head, kind), 0) for kind in types] for head in heads], dtype=float)
        axes.pcolormesh(values, cmap=_shades(), vmin=0, vmax=max(values.max(), 1))
        for (row, column), value in np.ndenumerate(values):
            axes.text(column + 0.5, row + 0.5, f"{int(value):,}", ha="center", va="center", fontsize=7)
        axes.set_xticks(np.arange(len(types)) + 0.5, [short(kind) for kind in types], rotation=20, fontsize=8)
        axes.set_yticks(np.arange(len(heads)) + 0.5, [short(head) for head in heads], fontsize=8)
        axes.set_title(step, loc="left")
        axes.spines[:].set_visible(False)
    panels[0].invert_yaxis()
    return figure


def _types(rows: pl.DataFrame) -> list[str]:
    """Return the commonest task types, in their order: those of somebody else's data may be many."""
    counts = (
        rows.drop_nulls("task_type")["task_type"].value_counts().sort(["count", "task_type"], descending=[True, False])
    )
    return sorted(counts["task_type"].head(TYPES_DRAWN).to_list())


def _shades() -> Any:
    """Return shades of one colour, from none of it on: so they follow the theme."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    ends = [(*to_rgb(INK), alpha) for alpha in (0.0, 0.7)]
    return LinearSegmentedColormap.from_list("shades", ends)


def _distributions(scored: pl.DataFrame, score: str) -> Any:
    """Draw the distribution of a score per task type: of what is kept, against all that was scored."""
    types = ["all", *_types(scored)]
    values = scored[score].drop_nulls().cast(pl.Float64)
    edges = _edges(values.to_numpy(), score)
    columns = min(len(types), 3)
    figure, panels = new_figure(
        9, 0.5 + 1.75 * -(-len(types) // columns), nrows=-(-len(types) // columns), ncols=columns,
        sharex=True, squeeze=False,
    )  # fmt: skip
    for axes, kind in zip(panels.flat, types, strict=False):
        part = scored if kind == "all" else scored.filter(pl.col("task_type") == kind)
        for label, colour, filled in (("dropped", PALE, True), ("kept", INK, False)):
            rows = part.filter(pl.col("kept").fill_null(value=False) == (label == "kept"))[score].drop_nulls()
            _steps(axes, rows.to_numpy(), edges, colour, filled, f"{label} ({len(rows):,})")
        axes.set_title(short(kind), loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=7, loc="upper right")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        if score in ON_LOG_SCALE:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
            axes.xaxis.set_minor_formatter("")
    for axes in panels.flat[len(types) :]:
        axes.set_axis_off()
    figure.supxlabel(SCORES[score], fontsize=9, color=TEXT)
    return figure


def _edges(values: Any, score: str) -> Any:
    """Return edges of bins that hold all but the far ends of some values."""
    if score == "difficulty":
        return np.linspace(0, 1, BINS + 1)
    low, high = np.quantile(values, [0.002, 0.998]) if len(values) else (1.0, 2.0)
    low = max(float(low), 1e-3)
    return np.geomspace(low, max(float(high), low * 1.5), BINS + 1)


def _steps(axes: Any, values: Any, edges: Any, colour: str, filled: bool, label: str) -> None:
    """Draw a histogram as shares of its group, so that a small group is as tall as a large one."""
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    axes.stairs(counts / max(counts.sum(), 1), edges, fill=filled, color=colour, linewidth=1.6, label=label)


def inline(svg: str, name: str) -> Markup:
    """Return an SVG of matplotlib as it may stand in a page: themed, without a ground and a style of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the ground
    svg = re.sub(r' id="(?:[a-zA-Z.]*\d*_\d+|text_\d+)"', "", svg)  # the same in every figure, and not referred to
    svg = re.sub(
        r'((?: id="|url\(#|href="#))(?!perspective-|attributes-)', rf"\1{name}-", svg
    )  # unlike those of the others
    for colour, variable in THEMED.items():
        svg = svg.replace(colour, variable)
    svg = svg.replace("fill: #ffffff", "fill: none")
    role = "group" if "perspective-" in svg else "img"  # whose circles are buttons
    return Markup(svg.replace("<svg ", f'<svg role="{role}" aria-label="{name}" ', 1))  # noqa: S704 - matplotlib escapes
