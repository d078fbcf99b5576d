"""The reference pages say what the code says."""

import pytest

from stillhouse import schemas
from stillhouse.recipe import Recipe
from stillhouse.schemas import TABLES
from tests.docs_pages import DOCS, load_script

REFERENCE = load_script("make_reference")


@pytest.mark.parametrize("name", sorted(REFERENCE.PAGES))
def test_page_is_up_to_date(name: str) -> None:
    page = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert page == REFERENCE.PAGES[name](), "run `make reference`"


def test_recipe_page_has_every_section_and_key() -> None:
    page = REFERENCE.recipe_page()
    for key, field in Recipe.model_fields.items():
        assert f"`{key}`" in page
        for inner in getattr(field.annotation, "model_fields", {}):
            assert f"| `{inner}` |" in page.partition(f"## `{key}`")[2].partition("\n## ")[0]
    assert "| `rate` | number, > 0, ≤ 1 | `0.1` | Share of the unique valid samples that is kept. |" in page


def test_tables_page_has_every_column_with_a_meaning() -> None:
    page = REFERENCE.tables_page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    others = (*REFERENCE.PUBLISHED, *REFERENCE.OTHERS)
    wanted = [getattr(schemas, name) for name in others] + list(TABLES.values())
    assert len(rows) == sum(map(len, wanted))
    assert [row for row in rows if not row.rsplit("|", 2)[1].strip()] == []
    assert "| `nearest_id` | string | of a near-duplicate: the most similar kept sample before it |" in rows


def test_commands_page_has_options_with_types_and_examples() -> None:
    page = REFERENCE.commands_page()
    assert "| `--betas` | number and number |  | Of AdamW (0.9 0.999). |" in page
    assert "| `--from` | path, repeatable |" in page
    assert "stillhouse review push runs/demo --to audit.html" in page.splitlines()
