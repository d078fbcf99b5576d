"""The plan against what a run then uses; it asks no teacher, and a probe's answers are not paid for twice."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.conftest import ROOT, endpoint_teacher, in_process, write_recipe
from tests.teacher_server import TeacherServer

FIGURES = ("calls", "prompt_tokens", "output_tokens")
PRICE = {"prompt": 1.0, "output": 4.0, "currency": "EUR"}


def plan(recipe: Path, *options: object) -> dict[str, Any]:
    done = in_process("plan", recipe, "--json", *options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.xdist_group("offline")
def test_the_plan_is_close_to_what_a_small_run_asked_first(offline_run: Path, tmp_path: Path) -> None:
    """So few calls say little of totals: corrections of a weak teacher, which no plan knows, are left out.

    It names two perspectives or one, and a task that it defines badly is not asked about any more.
    """
    recipe = offline_run.parent / "recipe.yaml"
    planned = plan(recipe, "--out", tmp_path / "new")["stages"]
    assert not (tmp_path / "new").exists()
    query = "SELECT stage, COUNT(*), SUM(prompt_tokens), SUM(output_tokens) FROM answers "
    query += "WHERE request NOT LIKE '%This answer is not valid%' GROUP BY stage"
    with sqlite3.connect(offline_run / "journal.sqlite") as journal:
        used = {stage: dict(zip(FIGURES, figures, strict=True)) for stage, *figures in journal.execute(query)}
    assert set(planned) == set(used)
    named = len(pl.read_parquet(offline_run / "perspectives.parquet")) / 2
    wanted = planned["instructions"]
    planned["instructions"] = {figure: wanted[figure] * named for figure in FIGURES}
    shares = {stage: {key: used[stage][key] / planned[stage][key] for key in FIGURES} for stage in used}
    assert shares["attributes"]["calls"] == 1
    assert 0.5 < shares["instructions"]["calls"] < 1.15
    assert shares["responses"]["calls"] == pytest.approx(1, rel=0.2)
    assert all(0.4 < share["prompt_tokens"] < 1.4 for share in shares.values())
    afterwards = plan(recipe, "--out", offline_run)
    assert all(stage["done"] for stage in afterwards["stages"].values())
    manifest = json.loads((offline_run / "manifest.json").read_text(encoding="utf-8"))["stages"]
    for figure in FIGURES:
        assert afterwards["total"][figure] == sum(stage.get(figure, 0) for stage in manifest.values())


@pytest.mark.prove
@pytest.mark.timeout(2400)
def test_the_plan_is_close_to_what_the_demo_used(tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "demo.yaml"
    planned = plan(recipe, "--out", tmp_path / "run")
    done = in_process("run", recipe, "--out", tmp_path / "run", "--until", "responses")
    assert done.returncode == 0, done.stderr
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["stages"]
    for figure in FIGURES:
        used = sum(stage.get(figure, 0) for stage in stages.values())
        # What a teacher answers varies from run to run; what it is asked hardly does.
        near = 0.25 if figure == "output_tokens" else 0.15
        assert planned["total"][figure] == pytest.approx(used, rel=near), figure


def test_a_plan_asks_nobody_and_tells_money_and_caps(tmp_path: Path) -> None:
    teacher = {"backend": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m", "price": PRICE}
    recipe = write_recipe(tmp_path, teacher=teacher, runtime={"max_calls": 10, "max_cost": 100.0})
    report = plan(recipe, "--out", tmp_path / "run")
    total = report["total"]
    assert total["cost"] == pytest.approx((total["prompt_tokens"] + 4 * total["output_tokens"]) / 1e6)
    assert total["seconds"] is None
    told = in_process("plan", recipe, "--out", tmp_path / "run")
    assert told.returncode == 0
    assert "cost, EUR" in told.stdout
    assert "runtime.max_calls is 10: the run will stop before it is done" in told.stdout
    assert "max_cost" not in told.stdout
    assert not (tmp_path / "run").exists()


def test_a_larger_number_of_rows_is_reckoned_from_a_sample(tmp_path: Path) -> None:
    texts = "".join(json.dumps({"text": f"Text number {number} is about a chair."}) + "\n" for number in range(1000))
    (tmp_path / "texts.jsonl").write_text(texts, encoding="utf-8")
    sources = {"sources": [{"path": "texts.jsonl"}]}
    small = plan(write_recipe(tmp_path, texts=sources, responses={"samples": 1000}), "--out", tmp_path / "run")
    large = plan(write_recipe(tmp_path, texts=sources, responses={"samples": 4000}), "--out", tmp_path / "run")
    assert small["stages"]["attributes"]["calls"] == 1000
    ratios = [large["stages"]["responses"][figure] / small["stages"]["responses"][figure] for figure in FIGURES]
    assert ratios == pytest.approx([4, 4, 4], rel=0.01)


def test_the_answers_of_a_probe_are_used_by_the_run(
    tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "key")
    recipe = write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server))
    report = plan(recipe, "--out", tmp_path / "run", "--probe", 6)
    assert sum(teacher_server.requests.values()) == 6
    assert report["total"]["seconds"] >= 0
    done = in_process("run", recipe, "--out", tmp_path / "run", "--until", "attributes")
    assert done.returncode == 0, done.stderr
    assert sum(teacher_server.requests.values()) == 14
