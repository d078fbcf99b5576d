"""One page about a run: it needs nothing but a browser, loads nothing, and shows what others wrote as text."""

import json
from pathlib import Path

import yaml
from markupsafe import Markup

from reports.browsing import browsed_instructions, browsed_perspectives, browsed_samples
from reports.content import Content, json_for_page, samples_of
from reports.figures import write_figures
from reports.removed import filters_of, pairs_of
from reports.summary import cautions, headline, judged, matrix, stages, validity
from stillhouse.pages import render_page
from stillhouse.store import write_atomically

TEMPLATES = Path(__file__).parent / "templates"
PAGE, FIGURES = "report.html", "figures"
FILTERS = {
    "count": lambda value: "–" if value is None else f"{value:,}",
    "figure": lambda value: "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}",
    "percent": lambda value: "–" if value is None else f"{value:.1%}",
    "setting": lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
}


def write_report(content: Content, folder: Path) -> Path:
    """Write the page, and its pictures as PNG and SVG, into a folder; return the page."""
    samples = samples_of(content.tables)
    browsed = {
        "perspectives": browsed_perspectives(content, samples),
        "instructions": browsed_instructions(content, samples),
        "samples": browsed_samples(samples),
        "matrix": matrix(content.coverage),
    }
    page = render_page(
        TEMPLATES,
        FILTERS,
        content=content,
        figures=write_figures(content, samples, folder / FIGURES),
        headline=headline(content, samples),
        cautions=cautions(content, samples),
        removed=filters_of(content, samples),
        pairs=pairs_of(samples),
        validity=validity(samples),
        judged=judged(content, samples),
        stages=stages(content),
        samples=len(samples),
        browsed=browsed,
        recipe=yaml.safe_dump(dict(content.recipe), sort_keys=False, allow_unicode=True),
        data=Markup(json_for_page(browsed)),  # noqa: S704 - escaped
    )
    path = folder / PAGE
    write_atomically(path, page)
    return path
