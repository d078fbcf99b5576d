"""Draw the figures of the pages in docs/ by stillhouse's own functions.

Run: make figures RUN=runs/demo    (python docs/make_figures.py RUN; without RUN the funnel stays as it is)

Pictures are SVG with text as text, on no background, in colours that are seen on white and on black.
"""

import csv
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROOT = Path(__file__).parent.parent
FIGURES = Path(__file__).parent / "figures"
BLUE, ORANGE, GREY, PALE = "#2893b3", "#d9822b", "#858c96", "#9fb8c2"
SCALE = ("#dfe9ed", BLUE)  # of cells, with dark figures on them
NAMES = ROOT / "tests" / "data" / "attribute_names.csv"
SOAK = ROOT / "benchmarks" / "soak.csv"  # every third sample of the run that docs/measured.md tells of
DEMO_TEXTS = ROOT / "recipes" / "demo_texts.jsonl"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stillhouse",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY),
}


def _axes(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


@cache
def _encoder() -> Any:
    from stillhouse.encoder import load_encoder
    from stillhouse.job import quiet_libraries
    from stillhouse.sections import OFFLINE_ENCODER

    quiet_libraries()
    return load_encoder(OFFLINE_ENCODER, "cpu")


def perspectives() -> Any:
    """Draw the perspectives that the published attribute names are clustered into, as a map."""
    from pipelines.perspectives import find_perspectives
    from stillhouse.schemas import ATTRIBUTES
    from stillhouse.sections import Perspectives

    with NAMES.open(encoding="utf-8") as file:
        counts = {row["name"]: int(row["count"]) for row in csv.DictReader(file)}
    rows = [(str(number), name) for name, count in counts.items() for number in range(count)]
    mentions = pl.DataFrame(rows, schema=["text_id", "name"], orient="row")
    attributes = mentions.with_columns(
        pl.lit(None, dtype).alias(column) for column, dtype in ATTRIBUTES.items() if column not in mentions.columns
    )
    table, _ = find_perspectives(attributes, 20_000, 0, Perspectives(clusters=180), _encoder(), seed=42)
    figure, axes = _axes(8, 5)
    axes.scatter(table["x"], table["y"], s=table["mentions"] / 40, color=BLUE, alpha=0.5, linewidths=0)
    taken: list[tuple[float, float]] = []
    for head, x, y in table.select("head", "x", "y").head(60).iter_rows():
        if all(abs(x - other) > 0.16 or abs(y - height) > 0.035 for other, height in taken):
            axes.annotate(head, (x, y), ha="center", va="center", fontsize=8.5)
            taken.append((x, y))
    axes.set_axis_off()
    axes.set_title(f"{len(counts):,} attribute names in {len(table)} perspectives; area: mentions", loc="left")
    return figure


def validation() -> Any:
    """Draw how many first answers of the 270M teacher are valid (measured by benchmarks/instructions.py)."""
    figure, axes = _axes(7, 2.4)
    places = np.arange(2)
    for shift, name, values, colour in ((-0.19, "parsed", (98, 95), PALE), (0.19, "valid", (98, 88), BLUE)):
        bars = axes.barh(places + shift, values, height=0.36, color=colour, label=name)
        axes.bar_label(bars, labels=[f"{value} %" for value in values], padding=4)
    axes.set_yticks(places, ["constrained by the task's schema", "not constrained"])
    axes.invert_yaxis()
    axes.set_xlim(0, 110)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, 0), labelcolor=GREY)
    axes.set_title("First answers of a 270M teacher, 40 samples", loc="left")
    return figure


def pairing() -> Any:
    """Draw how many of 600 pairs each perspective and task type gets: evenly, and by lot."""
    from matplotlib.colors import LinearSegmentedColormap

    from pipelines.pairing import Cell, pair_evenly

    types = ("analysis", "classification", "scoring", "extraction", "structured")
    have = (types, types, types[:2], types[:1], types[:4])
    cells = [
        Cell(f"{perspective}-{name}-{number}", f"p{perspective}", name)
        for perspective, mine in enumerate(have)
        for name in mine
        for number in range(1 + (perspective == 0))
    ]
    texts = [(f"t{number}", "tweets" if number % 10 else "reviews") for number in range(200)]
    of = {cell.instruction_id: cell for cell in cells}
    drawn = np.random.default_rng(42).choice(sorted(of), 600)
    even = [key for _, key in pair_evenly(texts, cells, 600, seed=42)]
    scale = LinearSegmentedColormap.from_list("pale to blue", SCALE)
    figure, axes = _axes(8, 2.9, 2)
    for one, keys, title in ((axes[0], drawn, "By lot"), (axes[1], even, "Balanced")):
        count = Counter((of[key].perspective_id, of[key].task_type) for key in keys)
        matrix = np.array([[count[f"p{row}", name] for name in types] for row in range(len(have))])
        one.imshow(np.ma.masked_equal(matrix, 0), cmap=scale, vmin=0, vmax=120, aspect="auto")
        for (row, column), value in np.ndenumerate(matrix):
            if value:
                one.text(column, row, value, ha="center", va="center", color="#20262e")
        sums = matrix.sum(axis=1)
        one.set_yticks(range(len(have)), [f"perspective {row + 1}: {sums[row]}" for row in range(len(have))])
        one.set_xticks(range(len(types)), ["analysis", "class", "score", "extract", "record"], fontsize=9)
        one.spines[:].set_visible(False)
        one.tick_params(length=0)
        one.set_title(title, loc="left")
    return figure


def nucleus() -> Any:
    """Draw the nucleus of one position and the rank score of the teacher's token there."""
    from curation.kernels import row_figures

    shares = np.array([0.42, 0.21, 0.12, 0.075, 0.05, 0.035, 0.025, 0.02, 0.015, 0.01, 0.008, 0.012])
    logits = np.log(shares / shares.sum()).astype(np.float32)
    target = 3
    found = row_figures(logits[None], np.array([target]))
    nucleus, rank = int(found.nucleus[0]), int(found.rank[0])
    figure, axes = _axes(7.5, 3)
    colours = [BLUE if place < nucleus else GREY for place in range(len(shares))]
    colours[target] = ORANGE
    bars = axes.bar(range(len(shares)), shares, color=colours, alpha=0.85)
    axes.bar_label(bars, labels=[f"{share:.2f}" for share in shares], padding=2, fontsize=8)
    axes.axvline(nucleus - 0.5, color=GREY, linestyle=":")
    axes.text(nucleus - 0.6, 0.36, f"nucleus: n = {nucleus} tokens\nhold 95 % of the probability", ha="right")
    told = f"the teacher's token: x = {rank}\ns = x/n = {found.rank_scores()[0]:.2f}"
    axes.annotate(
        told, (target, 0.1), (target + 0.4, 0.22), color=ORANGE, arrowprops={"arrowstyle": "-", "color": ORANGE}
    )
    axes.set_xticks(range(len(shares)))
    axes.set_xlabel("rank of the token under the student")
    axes.set_ylabel("probability")
    return figure


def bound() -> Any:
    """Draw the cosine of pairs of demo texts against its upper bound by 48 and by 8 directions."""
    from stillhouse import near_duplicates

    texts = pl.read_ndjson(DEMO_TEXTS)["text"].to_list()
    vectors = _encoder().encode(texts)
    squares, order = near_duplicates.squared_lengths(vectors), np.arange(len(texts))
    left, right = np.triu_indices(len(texts), 1)
    cosine = (vectors @ vectors.T)[left, right]
    figure, axes = _axes(8, 3.4, 2)
    for one, directions in zip(axes, (8, near_duplicates.DIRECTIONS), strict=True):
        q = _bounds(near_duplicates, vectors, squares, order, directions)
        bounds = (q @ q.T)[left, right]
        some = slice(None, None, 61)
        one.scatter(cosine[some], bounds[some], s=3, color=BLUE, alpha=0.5, linewidths=0)
        one.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
        one.axhline(0.9, color=ORANGE, linestyle=":")
        share = float((bounds >= 0.9 - near_duplicates.ROUNDING).mean())
        one.set_title(f"{directions} directions: {share:.1%} to verify", loc="left")
        one.set_xlim(-0.2, 1)
        one.set_ylim(-0.2, 1.02)
        one.set_xlabel("cosine of the pair")
    axes[0].set_ylabel("its upper bound")
    return figure


def _bounds(module: Any, vectors: Any, squares: Any, order: Any, directions: int) -> Any:
    """Return the bounding rows with another number of directions than the module's own."""
    before, module.DIRECTIONS = module.DIRECTIONS, directions
    try:
        return module._bounding_rows(vectors, squares, order)  # noqa: SLF001 - what is drawn is how it works inside
    finally:
        module.DIRECTIONS = before


def selection() -> Any:
    """Draw the probability of being kept against the place by difficulty."""
    from curation.selection import keep_probability, selection_probability

    count = 400
    place = (np.arange(count) + 0.5) / count
    figure, axes = _axes(7.5, 3.4)
    for rate, peak, colour, style in ((0.1, 1.0, BLUE, "-"), (0.5, 1.0, ORANGE, "-"), (0.1, 0.9, BLUE, "--")):
        label = f"soft, rate {rate:g}, a = {peak:g}, b = {1 / rate - 1:g}"
        axes.plot(place, keep_probability(count, rate, peak), color=colour, linestyle=style, label=label)
    hard = selection_probability(place, 0.1, "hard", 1.0)
    axes.step(place, hard, color=GREY, where="mid", linewidth=0.9, label="hard, rate 0.1")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("place by difficulty, easiest first")
    axes.set_ylabel("probability of being kept")
    axes.legend(frameon=False, labelcolor=GREY, loc="upper left")
    return figure


def audit() -> Any:
    """Draw the interval of an error rate of 2 % against records, and the chance of passing at 312 of them."""
    from curation.audit.intervals import clopper_pearson
    from curation.audit.plan import chance_of_passing, records_needed
    from stillhouse.sections import Review

    settings = Review.model_validate({})
    records = np.arange(50, 801, 10)
    low, high = np.transpose([clopper_pearson(0.02, size, settings.confidence) for size in records])
    figure, axes = _axes(8, 3.2, 2)
    axes[0].fill_between(records, 100 * low, 100 * high, color=BLUE, alpha=0.35, linewidth=0)
    axes[0].axhline(2, color=BLUE, linewidth=1)
    axes[0].axhline(100 * settings.bar, color=ORANGE, linestyle=":")
    axes[0].text(800, 100 * settings.bar, "the bar", color=ORANGE, ha="right", va="bottom")
    axes[0].set_xlabel("records judged, 2 % of them wrong")
    axes[0].set_ylabel("error rate, 95 % interval, %")
    needed = records_needed(settings, settings.expected, 100_000)
    rates = np.linspace(0.001, 0.08, 80)
    axes[1].plot(100 * rates, [chance_of_passing(needed, settings, rate) for rate in rates], color=BLUE)
    for rate in (settings.expected, settings.bar):
        chance = chance_of_passing(needed, settings, rate)
        axes[1].plot(100 * rate, chance, "o", color=ORANGE)
        axes[1].annotate(f"{chance:.1%}", (100 * rate, chance), (6, 4), textcoords="offset points", color=ORANGE)
    axes[1].set_xlabel("true error rate, %")
    axes[1].set_ylabel(f"accepted with {needed} records")
    return figure


def leaks() -> Any:
    """Draw which ways of looking for an evaluation text there are, by its number of words."""
    from hub_cards.evaluation import GRAM, MIN_CONTAINED, MIN_WORDS

    most = 24
    ways = (("exact: the whole text is the same", MIN_WORDS, most), ("contained whole", MIN_CONTAINED, GRAM))
    figure, axes = _axes(7.5, 1.9)
    for row, (name, first, end) in enumerate((*ways, (f"{GRAM}-gram: {GRAM} words in a row", GRAM, most))):
        axes.barh(row, end - first, left=first, height=0.55, color=(BLUE, ORANGE, PALE)[row], alpha=0.8)
        axes.text(first + 0.15, row, name, va="center", color="#20262e", fontsize=9)
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set_xlim(1, most)
    axes.set_xticks([1, MIN_WORDS, MIN_CONTAINED, GRAM, 20])
    axes.set_xlabel("words of the evaluation text")
    axes.spines["left"].set_visible(False)
    return figure


def lane() -> Any:
    """Draw how many requests a server gets at a time while it refuses more than 40, then more than 15."""
    from pipelines.dispatch import Lane
    from pipelines.teachers.backend import TransientError

    class Server:
        """What a lane knows of a backend."""

        name, limit, adapts = "server", 64, True

    way = Lane(Server())  # type: ignore[arg-type]
    limits, capacities = [], []
    for second in range(120):
        capacity = 40 if second < 60 else 15
        sent = int(way.limit)
        for _ in range(min(sent, capacity)):
            way.answered()
        if sent > capacity:
            way.failed(TransientError("429", None, throttled=True), float(second), second + 0.5)
        limits.append(way.limit)
        capacities.append(capacity)
    figure, axes = _axes(7.5, 2.8)
    axes.plot(capacities, color=ORANGE, linestyle=":", drawstyle="steps-post", label="what the server takes")
    axes.plot(limits, color=BLUE, label="requests in flight at most")
    axes.set_xlim(0, 120)
    axes.set_ylim(0, 66)
    axes.set_xlabel("rounds of requests")
    axes.legend(frameon=False, labelcolor=GREY, loc="upper right")
    return figure


def soak() -> Any:
    """Draw memory and descriptors over half an hour against a faulty endpoint (measured by benchmarks/soak.py)."""
    samples = pl.read_csv(SOAK)
    minutes = samples["seconds"] / 60
    figure, axes = _axes(8, 2.8, 2)
    by_design = samples["by_design_mb"] + (samples["uss_mb"] - samples["by_design_mb"]).median()
    axes[0].plot(minutes, by_design, color=ORANGE, linestyle=":", label="the same answers, where nothing fails")
    axes[0].plot(minutes, samples["uss_mb"], color=BLUE, label="the run")
    axes[0].set_title("Memory of its own, MB", loc="left")
    axes[0].legend(frameon=False, labelcolor=GREY, loc="lower right")
    axes[1].plot(minutes, samples["descriptors"], color=BLUE)
    axes[1].set_title("Open descriptors", loc="left")
    for one in axes:
        one.set_ylim(0)
        one.set_xlabel("minutes")
    return figure


def funnel(run: Path) -> Any:
    """Draw the funnel of a run."""
    from stillhouse.job import funnel_of
    from stillhouse.store import RunFolder

    steps = {name: count for name, count in funnel_of(RunFolder(run)).items() if name != "attributes"}
    figure, axes = _axes(7, 0.6 + 0.3 * len(steps))
    bars = axes.barh(list(steps), list(steps.values()), color=BLUE, alpha=0.8)
    axes.bar_label(bars, labels=[f"{count:,}" for count in steps.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return figure


EMBEDDING = ("perspectives", "bound")  # these take a minute
DRAWN: dict[str, Callable[[], Any]] = {
    "perspectives": perspectives,
    "validation": validation,
    "pairing": pairing,
    "nucleus": nucleus,
    "bound": bound,
    "selection": selection,
    "audit": audit,
    "leaks": leaks,
    "lane": lane,
    "soak": soak,
}
FUNNEL = "funnel"  # of a run, which is not in the repository


def draw(name: str, make: Callable[[], Any], folder: Path = FIGURES) -> Path:
    """Write a figure as SVG; return its path. The same drawing gives the same bytes."""
    import matplotlib

    path = folder / f"{name}.svg"
    with matplotlib.rc_context(STYLE):
        make().savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    return path


def main() -> None:
    """Draw all figures; that of the funnel where a run is given."""
    FIGURES.mkdir(exist_ok=True)
    for name, make in DRAWN.items():
        draw(name, make)
    for run in map(Path, sys.argv[1:]):
        draw(FUNNEL, lambda: funnel(run))  # noqa: B023 - called at once


if __name__ == "__main__":
    main()
