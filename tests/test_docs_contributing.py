"""What CONTRIBUTING and SECURITY name is there: files, names in them, make targets, the checks that CI runs."""

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MADE_BY_RUNS = {"runs/", "runs/NAME/"}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_path_that_is_named_is_there(page: str) -> None:
    named = re.findall(r"`([\w.*-]+/[\w./*<>-]*|[A-Z]+\.md)`", (ROOT / page).read_text("utf-8"))
    paths = {path for path in named if "<" not in path and "TYPE" not in path} - MADE_BY_RUNS
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    assert len(paths) > 1 or page == "SECURITY.md"


def test_every_name_in_code_that_is_pointed_at_is_there() -> None:
    pointed = {
        "stillhouse/sections.py": ["TaskType", "CONCURRENCY", "class Teacher", "class Runtime", "strategy"],
        "stillhouse/schemas.py": ["TABLES", "SCORES", "AUDIT", "GATES", "PUBLISHED"],
        "stillhouse/build.py": ["_check_generation"],
        "stillhouse/scored.py": ["FIGURES"],
        "stillhouse/coverage.py": ["def funnel"],
        "pipelines/teachers/backend.py": ["class Backend"],
        "curation/difficulty.py": ["class Score"],
    }
    for path, names in pointed.items():
        assert f"`{path}`" in CONTRIBUTING
        code = (ROOT / path).read_text("utf-8")
        assert [name for name in names if name not in code] == [], path


def test_every_check_is_told_and_there() -> None:
    targets = set(re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text("utf-8"))[1].split())  # type: ignore[index]
    named = set(re.findall(r"(?:`|^)make (\w+)", CONTRIBUTING, re.M))
    assert named == targets
    run_by_ci = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.M)
    table = re.findall(r"^\| `make (\w+)`", CONTRIBUTING, re.M)
    assert table == run_by_ci


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_templates_are_what_the_site_takes(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    assert all(part["type"] in {"markdown", "textarea", "input", "dropdown"} for part in form["body"])
    assert all("label" in part["attributes"] for part in form["body"] if part["type"] != "markdown")
