"""The shell completes commands, options and their values, and a press of a key imports nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from curation.selection import Control
from stillhouse import completion
from stillhouse.schemas import TABLES
from stillhouse.sections import Curation
from stillhouse.stages import STAGES
from tests.conftest import COMMAND
from training.settings import preset_names

# Not pydantic: Typer imports it where it is there, at a press of a key too.
HEAVY = {"torch", "distilabel", "polars", "numpy", "datasets", "yaml", "jinja2", "stillhouse.sections"}


def completed(line: str, cwd: Path | None = None) -> list[str]:
    """Ask as bash does after `stillhouse --install-completion`; a blank at the end begins a word."""
    words = line.split(" ")
    asked = {"_STILLHOUSE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([COMMAND], env=os.environ | asked, capture_output=True, text=True, check=True, cwd=cwd)
    return done.stdout.splitlines()


def test_commands_and_options() -> None:
    assert completed("stillhouse do") == ["doctor"]
    assert {"init", "doctor", "plan", "run", "select", "review"} <= set(completed("stillhouse "))
    assert completed("stillhouse review pu") == ["push", "pull"]
    assert completed("stillhouse run x --unt") == ["--until"]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("stillhouse run x --until s", ["scores"]),
        ("stillhouse run x --until d", ["decisions", "dataset"]),
        ("stillhouse select x --strategy k", ["k-center"]),
        ("stillhouse curate x --strategy f", ["facility"]),
        ("stillhouse select x --controls random,t", ["random,top"]),
        ("stillhouse score x --series q", ["qwen-3"]),
        ("stillhouse train x --preset paper-release,q", ["paper-release,qwen-3"]),
        ("stillhouse experiment x --preset paper-c", ["paper-config"]),
    ],
)
def test_values(line: str, values: list[str]) -> None:
    assert completed(line) == values


def test_what_is_completed_is_what_there_is() -> None:
    assert completion.stages("") == [stage.name for stage in STAGES]
    assert completion.tables("") == [*TABLES, "coverage", "failures", "reviews"]
    assert tuple(completion.strategies("")) == get_args(Curation.model_fields["strategy"].annotation)
    assert tuple(completion.controls("")) == get_args(Control)
    assert completion.presets("") == preset_names()


def test_run_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runs/one", "runs/two", "elsewhere/three"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "runs" / "no-run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert completion.run_folders("") == ["runs/one", "runs/two"]
    assert completion.run_folders("runs/o") == ["runs/one"]
    assert completion.run_folders("runs/") == ["runs/one", "runs/two", "runs/no-run/"]
    assert completion.run_folders("else") == ["elsewhere/"]
    assert completion.run_folders("elsewhere/") == ["elsewhere/three"]
    assert completion.run_folders("nowhere/") == []


@pytest.mark.parametrize("line", ["stillhouse ", "stillhouse run x --until s", "stillhouse train x --preset p"])
def test_a_press_of_a_key_imports_nothing_heavy(line: str) -> None:
    code = (
        "import sys; sys.argv = ['stillhouse']\n"
        "try:\n    from stillhouse.cli import main; main()\n"
        "except SystemExit:\n    pass\n"
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
    )
    asked = {"_STILLHOUSE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    *values, heavy = done.stdout.splitlines()
    assert values != []
    assert heavy == "HEAVY []"
