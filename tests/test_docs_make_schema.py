"""The JSON Schema of recipes: as the generator writes it, with a description of every key, and as strict as we are."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from stillhouse.errors import InputError
from stillhouse.recipe import load_recipe
from tests.conftest import ROOT, write_recipe

RECIPES = ROOT / "recipes"
SCHEMA = json.loads((RECIPES / "recipe.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def keys(part: dict[str, Any] = SCHEMA, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every key of every section with its schema."""
    for name, about in part["properties"].items():
        yield f"{place}{name}", about
    for name, inner in part.get("$defs", {}).items():
        yield from keys(inner, f"{name}.")


def test_it_is_what_the_generator_writes(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    subprocess.run([sys.executable, ROOT / "docs" / "make_schema.py", path], check=True, cwd=ROOT)
    assert path.read_text("utf-8") == (RECIPES / "recipe.schema.json").read_text("utf-8"), "run: make schema"


def test_it_is_a_schema_that_tells_every_key() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"].endswith("/draft/2020-12/schema")
    assert SCHEMA["required"] == ["name", "texts"]
    silent = [name for name, about in keys() if "description" not in about and "$ref" not in about]
    assert silent == []
    assert all(part["additionalProperties"] is False and part["description"] for part in SCHEMA["$defs"].values())
    found = dict(keys())
    assert found["Curation.rate"] == {
        "default": 0.1, "description": "Share of the unique valid samples that is kept.", "exclusiveMinimum": 0,
        "maximum": 1, "type": "number",
    }  # fmt: skip
    assert found["Teacher.series"]["anyOf"][0]["enum"] == ["llama-3", "qwen-3", "gemma-3"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_name_it_and_fit_it(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    VALIDATOR.validate(yaml.safe_load(text))
    load_recipe(path)


def test_a_recipe_with_every_default_written_out_fits(offline_run: Path) -> None:
    VALIDATOR.validate(yaml.safe_load((offline_run / "recipe.yaml").read_text("utf-8")))


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"colour": 1}, []),
        ({"curation": {"rat": 0.1}}, ["curation"]),
        ({"curation": {"rate": 0}}, ["curation", "rate"]),
        ({"curation": {"rate": "much"}}, ["curation", "rate"]),
        ({"curation": {"strategy": "softly"}}, ["curation", "strategy"]),
        ({"attributes": {"min_share": "rare"}}, ["attributes", "min_share"]),
        ({"teacher": {"series": "qwen-2"}}, ["teacher", "series"]),
        ({"name": "../../etc"}, ["name"]),
        ({"texts": {"sources": []}}, ["texts", "sources"]),
        ({"texts": {"sources": [{"path": "x", "colum": "t"}]}}, ["texts", "sources", 0]),
        ({"instructions": {"task_types": ["essay"]}}, ["instructions", "task_types", 0]),
        ({"publish": {"private": {"email": "hide"}}}, ["publish", "private", "email"]),
    ],
)
def test_it_refuses_what_a_run_refuses(tmp_path: Path, sections: dict[str, Any], place: list[str | int]) -> None:
    path = write_recipe(tmp_path, **sections)
    faults = list(VALIDATOR.iter_errors(yaml.safe_load(path.read_text("utf-8"))))
    assert [list(fault.absolute_path) for fault in faults] == [place]
    with pytest.raises(InputError, match=r"has 1 fault\(s\)"):
        load_recipe(path)


def test_a_word_for_a_number_fits_where_it_is_one(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, attributes={"min_share": "paper"})
    VALIDATOR.validate(yaml.safe_load(path.read_text("utf-8")))
    assert load_recipe(path).attributes.min_share == 10 / 20_000
