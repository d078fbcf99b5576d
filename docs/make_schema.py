"""Write the JSON Schema of recipes, by which editors complete and check their keys.

Run: python docs/make_schema.py recipes/recipe.schema.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from stillhouse.recipe import Recipe

HEAD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:stillhouse:recipe",
    "title": "Recipe of stillhouse",
}


def without_whole_sections(part: dict[str, Any]) -> dict[str, Any]:
    """Return a model's schema without titles, and without defaults of sections: their keys have these themselves."""
    part["properties"] = {
        name: {key: value for key, value in about.items() if key != "title" and not _is_section(key, value)}
        for name, about in part["properties"].items()
    }
    return {key: value for key, value in part.items() if key != "title"}


def _is_section(key: str, value: Any) -> bool:
    return key == "default" and isinstance(value, dict)


schema = Recipe.model_json_schema()
parts = {name: without_whole_sections(part) for name, part in schema.pop("$defs").items()}
whole = HEAD | without_whole_sections(schema) | {"$defs": parts}
Path(sys.argv[1]).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
