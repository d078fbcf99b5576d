"""What the site needs besides Material: formulas as MathML, which browsers draw themselves, without a script."""

from typing import Any

from latex2mathml.converter import convert


def on_config(config: Any) -> Any:
    """Let ```math fences, which GitHub draws as formulas, be formulas here too."""
    fence = {"name": "math", "class": "formula", "format": formula}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def formula(source: str, *_: Any, **__: Any) -> str:
    """Return a formula in LaTeX as HTML."""
    return f'<div class="formula">{convert(source, display="block")}</div>'
