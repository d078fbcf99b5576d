"""One page about a run: it needs nothing but a browser, loads nothing, and shows what others wrote as text."""

import base64
import hashlib
import json
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports.browsing import browsed_instructions, browsed_perspectives, browsed_samples
from reports.content import FATES, KEPT, Content, json_for_page, samples_of
from reports.figures import write_figures
from reports.removed import filters_of, pairs_of
from reports.summary import cautions, headline, matrix, stages, validity
from stillhouse.store import write_atomically

TEMPLATES = Path(__file__).parent / "templates"
PAGE, FIGURES = "report.html", "figures"


def write_report(content: Content, folder: Path) -> Path:
    """Write the page, and its pictures as PNG and SVG, into a folder; return the page."""
    samples = samples_of(content.tables)
    figures = write_figures(content, samples, folder / FIGURES)
    matrix_ = matrix(content.coverage)
    browsed = {
        "perspectives": browsed_perspectives(content, samples),
        "instructions": browsed_instructions(content, samples),
        "samples": browsed_samples(samples),
        "matrix": matrix_,
    }
    style, script = (Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))  # noqa: S704 - ours
    page = _environment().get_template("page.html.jinja").render(
        content=content,
        figures=figures,
        headline=headline(content, samples),
        cautions=cautions(content, samples),
        filters=filters_of(content, samples),
        pairs=pairs_of(samples),
        validity=validity(samples),
        stages=stages(content),
        matrix=matrix_,
        fates=[fate for fate in (KEPT, *FATES.values()) if (samples["fate"] == fate).any()],
        samples=len(samples),
        browsed=browsed,
        shown={name: len(rows) for name, rows in browsed.items() if rows is not None},
        recipe=yaml.safe_dump(dict(content.recipe), sort_keys=False, allow_unicode=True),
        data=Markup(json_for_page(browsed)),  # noqa: S704 - escaped
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )  # fmt: skip
    path = folder / PAGE
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda value: "–" if value is None else f"{value:,}",
        "figure": lambda value: "–" if value is None else f"{value:,.3g}",
        "percent": lambda value: "–" if value is None else f"{value:.1%}",
        "setting": lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
    }
    return environment


def _csp_hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
