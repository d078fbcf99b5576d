"""Every block of code in README and docs: run where it can run on a finished run, else checked word by word."""

import re
import shlex
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.scripts.scripts import cli as ray
from typer.main import get_command
from typer.testing import CliRunner

from stillhouse import viewing_cli
from stillhouse.cli import app
from stillhouse.recipe import Recipe
from tests.docs_pages import PAGES, ROOT, Block, blocks
from training.settings import load_training

LANGUAGES = {"bash", "python", "yaml", "math", "text"}  # text: what is printed
NOT_RUN = [("docs/gpu.md", "not run: starts a server on a GPU")]
# Commands that a finished run is enough for; what others ask for (a teacher, a student, Argilla, the Hub) is not here.
ON_A_RUN = ("status", "inspect", "diff", "report", "select", "instructions export", "review status")
MINIMAL = {"name": "minimal", "texts": {"sources": [{"path": "texts.jsonl"}]}}
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.fixture
def workspace(offline_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a finished run as runs/demo, in which a page is read."""
    shutil.copytree(offline_run, tmp_path / "runs" / "demo")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def test_every_block_has_a_language_that_is_checked() -> None:
    assert [block.name for block in blocks() if block.language not in LANGUAGES] == []
    counts = Counter(block.language for block in blocks())
    assert counts["bash"] > 40
    assert counts["yaml"] > 12
    fences = sum(page.read_text(encoding="utf-8").count("```") for page in PAGES)
    assert fences - 2 * len(blocks()) == 0, "a fence that is not seen as a block"


def test_only_these_blocks_are_not_run() -> None:
    assert [(block.page, block.note) for block in blocks() if block.note.startswith("not run")] == NOT_RUN


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.name)
def test_yaml(block: Block, tmp_path: Path) -> None:
    if block.note == "checked as training":
        (tmp_path / "settings.yaml").write_text(block.code, encoding="utf-8")
        settings = load_training({"dataset": "OWNER/NAME", "out": "students/mine"}, tmp_path / "settings.yaml")
        assert settings.model_fields_set >= yaml.safe_load(block.code).keys()
    else:
        recipe = Recipe.model_validate({**MINIMAL, **yaml.safe_load(block.code)})
        assert recipe.model_fields_set >= yaml.safe_load(block.code).keys()


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}))
def test_python(page: str, workspace: Path) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks("python"):
        if block.page == page:
            exec(compile(block.code, block.name, "exec"), namespace)  # noqa: S102 - our own pages
    assert len(namespace["kept" if page == "docs/faq.md" else "train"]) > 0


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("bash")}))
def test_bash(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewing_cli, "local_path", Path)  # the buckets of the pages are nobody's
    for block in blocks("bash"):
        if block.page == page and not block.note.startswith("not run"):
            for words in commands(block.code):
                check(words, block.name)


def test_commands_on_a_run_are_run() -> None:
    """So that nobody makes the list above shorter without seeing it."""
    told = [words for block in blocks("bash") for words in commands(block.code)]
    assert sum(can_run(own) for own in map(own_words, told) if own) > 30


def test_a_stale_option_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        check(["stillhouse", "train", "OWNER/NAME", "--epoch-count", "3"], "here")
    with pytest.raises(Exception, match="No such option"):
        check(["ray", "start", "--heads"], "here")
    with pytest.raises(AssertionError, match="no command"):
        check(["stillhouse", "distil", "OWNER/NAME"], "here")
    with pytest.raises(AssertionError, match="unknown"):
        check(["rm", "-r", "runs"], "here")


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of each command, without comments."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def own_words(words: list[str]) -> list[str]:
    """Return the words after `stillhouse`, wherever it stands: accelerate launches it too."""
    return next((words[at + 1 :] for at, word in enumerate(words) if Path(word).name == "stillhouse"), [])


def check(words: list[str], where: str) -> None:
    """Run a command on the finished run, or see that it could be run."""
    own = own_words(words)
    if own and can_run(own) and all(Path(word).exists() for word in own if word.startswith("runs/")):
        found = CliRunner().invoke(app, own)
        assert found.exit_code == 0, f"{where}: {shlex.join(words)}: {found.exception} {found.output}"
    elif own:
        parse(get_command(app), own, where)
    elif words[0] == "ray":
        parse(ray, words[1:], where)
    else:
        check_other(words, where)


def can_run(own: list[str]) -> bool:
    """Say whether a command of stillhouse needs nothing but a finished run."""
    line = " ".join(own)
    if "runs/demo" not in own:
        return line == "plan recipes/demo.yaml"
    if line.startswith("review push"):
        return "--plan" in own or "--to" in own
    if line.startswith("publish"):
        return "--dry-run" in own and "--without-audit" in own
    return line.startswith(ON_A_RUN) and "--id" not in own  # an id is of one run only


def parse(command: Any, given: list[str], where: str) -> None:
    """Let the command line read the words, without doing what they say. Raises as it does where they are wrong."""
    words = list(given)
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{where}: no command {name}"
        command = command.commands[name]
    command.make_context(command.name, words)


def check_other(words: list[str], where: str) -> None:
    """See that what a command of another program names is there."""
    program, *rest = words
    if program == "make":
        assert rest[0] in TARGETS, f"{where}: make {rest[0]}"
    elif Path(program).name in ("python", "cp"):
        assert (ROOT / rest[0]).is_file(), f"{where}: {rest[0]}"
    elif Path(program).name == "pip":
        extras = re.findall(r"\[(.+?)\]", rest[-1])
        assert rest[0] == "install", where
        assert set(extras) <= EXTRAS.keys(), f"{where}: {extras}"
    else:
        assert words[:2] == ["accelerate", "config"], f"{where}: unknown: {shlex.join(words)}"
