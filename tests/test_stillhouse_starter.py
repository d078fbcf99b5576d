"""`stillhouse init`: a folder from which a first run goes, and nothing that is there is touched."""

import json
from pathlib import Path

import pytest

from stillhouse.recipe import load_recipe
from stillhouse.starter import RECIPES, SAMPLE
from stillhouse.store import RunFolder
from stillhouse.texts import read_texts
from tests.conftest import endpoint_teacher, in_process
from tests.teacher_server import TeacherServer

FILES = ["recipe.schema.json", "recipe.yaml", "texts.jsonl"]


def test_a_folder_is_made_that_runs(tmp_path: Path, teacher_server: TeacherServer) -> None:
    done = in_process("init", "my texts", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Next: stillhouse run 'my texts/recipe.yaml'" in done.stdout
    folder = tmp_path / "my texts"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.name == "my-texts"
    table, counts = read_texts(recipe.texts.sources, recipe.texts.similarity)
    assert counts == {"read": SAMPLE, "blank": 0, "duplicate": 0, "near_duplicate": 0}
    assert set(table["domain"].value_counts()["count"]) == {6}
    with (folder / "recipe.yaml").open("a", encoding="utf-8") as file:
        file.write(f"\nteacher: {json.dumps(endpoint_teacher(teacher_server))}\n")
    ran = in_process("run", folder / "recipe.yaml", "--until", "attributes", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    attributes = RunFolder(tmp_path / "runs" / "my-texts").read_table("attributes")
    assert attributes["text_id"].n_unique() == SAMPLE


@pytest.mark.parametrize(("folder", "name"), [("2024", "2024"), ("true", "true"), ("_.x", "x"), ("…", "starter")])
def test_the_run_is_named_after_the_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert in_process("init", tmp_path / folder).returncode == 0
    assert load_recipe(tmp_path / folder / "recipe.yaml").name == name


def test_a_folder_that_is_there_gets_the_files_beside_its_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert in_process("init", ".", cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = in_process("init", ".", cwd=tmp_path)
    assert again.returncode == 2
    assert ". has recipe.yaml, texts.jsonl, recipe.schema.json already; give another folder" in again.stderr
    (tmp_path / "recipe.yaml").unlink()
    assert in_process("init", ".", cwd=tmp_path).returncode == 2
    before.pop("recipe.yaml")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_schema_goes_along() -> None:
    assert (
        (RECIPES / "starter.yaml").read_text("utf-8").startswith("# yaml-language-server: $schema=recipe.schema.json")
    )
