"""Pages that need nothing but a browser: one file each, that runs no script but its own and loads nothing."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def render_page(templates: Path, filters: Mapping[str, Callable[..., Any]], **content: Any) -> bytes:
    """Return the page of a folder of templates: page.html.jinja, with page.css and page.js inside.

    What is put in is shown as text. The template gets the hashes that its security policy lets style and script by.
    """
    style, script = (Markup((templates / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))  # noqa: S704 - ours
    environment = Environment(
        loader=FileSystemLoader(templates), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= filters
    hashes = {"style_hash": _csp_hash(style), "script_hash": _csp_hash(script)}
    page = environment.get_template("page.html.jinja").render(style=style, script=script, **hashes, **content)
    return page.encode("utf-8", "replace")


def _csp_hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
