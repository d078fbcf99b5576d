"""The whole job: with a counting endpoint (resume, stale folders, kill -9, failures) and with the offline teacher."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from stillhouse.build import fingerprints
from stillhouse.recipe import load_recipe
from stillhouse.schemas import TABLES
from stillhouse.sections import Teacher
from stillhouse.stages import STAGES
from stillhouse.store import RunFolder
from tests.conftest import COMMAND, endpoint_teacher, stillhouse, write_recipe
from tests.teacher_server import TeacherServer

KEY = "sk-very-secret-key-of-the-test"


def tables_of(run: Path) -> dict[str, bytes]:
    return {name: (run / f"{name}.parquet").read_bytes() for name in TABLES if (run / f"{name}.parquet").exists()}


def answered(run: Path) -> int:
    if not (run / "journal.sqlite").exists():
        return 0
    with sqlite3.connect(run / "journal.sqlite") as journal:
        try:
            return int(journal.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:  # the table is about to be made
            return 0


@pytest.fixture
def recipe(tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    return write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server))


def test_a_run_through_an_endpoint_resumes_and_keeps_its_secret(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    run = tmp_path / "run"
    first = stillhouse("run", recipe, "--out", run, "--until", "responses")
    assert first.returncode == 0, first.stderr
    assert teacher_server.keys == {f"Bearer {KEY}"}
    sent, tables = dict(teacher_server.requests), tables_of(run)
    assert list(tables) == ["texts", "attributes", "perspectives", "instructions", "responses"]
    assert max(sent.values()) == 1
    leaks = [path for path in run.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not leaks

    again = stillhouse("run", recipe, "--out", run, "--until", "responses")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 5
    assert dict(teacher_server.requests) == sent

    # A lost table is made again from the journal, the same to the byte, without one request.
    (run / "responses.parquet").unlink()
    assert stillhouse("run", recipe, "--out", run, "--until", "responses").returncode == 0
    assert dict(teacher_server.requests) == sent
    assert tables_of(run) == tables


def test_another_recipe_is_refused_and_update_reuses_answers(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    run = tmp_path / "run"
    assert stillhouse("run", recipe, "--out", run, "--until", "responses").returncode == 0
    before, sent = tables_of(run), sum(teacher_server.requests.values())
    other = write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server), responses={"samples": 20})

    refused = stillhouse("run", other, "--out", run, "--until", "responses")
    assert refused.returncode == 2
    assert "made with another recipe, from stage responses on" in refused.stderr
    assert "--update" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert tables_of(run) == before

    updated = stillhouse("run", other, "--out", run, "--until", "responses", "--update")
    assert updated.returncode == 0, updated.stderr
    assert len(RunFolder(run).read_table("responses")) == 20
    assert sum(teacher_server.requests.values()) == sent


def test_runtime_changes_no_fingerprint_and_rows_do(recipe: Path, tmp_path: Path) -> None:
    base = fingerprints(STAGES, load_recipe(recipe))
    text = recipe.read_text()
    recipe.write_text(text + "runtime: {concurrency: 2, device: cpu}\n")
    assert fingerprints(STAGES, load_recipe(recipe)) == base
    recipe.write_text(re.sub("per_text: 2", "per_text: 3", text))
    changed = fingerprints(STAGES, load_recipe(recipe))
    assert changed["texts"] == base["texts"]
    assert all(changed[stage.name]["fingerprint"] != base[stage.name]["fingerprint"] for stage in STAGES[1:])


def test_kill_minus_nine_loses_no_answer(recipe: Path, tmp_path: Path, teacher_server: TeacherServer) -> None:
    undisturbed = tmp_path / "undisturbed"
    assert stillhouse("run", recipe, "--out", undisturbed, "--until", "responses").returncode == 0
    wanted = tables_of(undisturbed)
    teacher_server.requests.clear()

    run = tmp_path / "killed"
    teacher_server.delay = 0.3
    for enough in (4, 20):
        process = subprocess.Popen([COMMAND, "run", recipe, "--out", run, "--until", "responses"])
        deadline = time.monotonic() + 120
        while answered(run) < enough and time.monotonic() < deadline:
            time.sleep(0.02)
        assert answered(run) >= enough
        process.kill()
        process.wait()
        time.sleep(1.5)  # requests in flight end, then the orphaned children do
        left = subprocess.run(["pgrep", "-f", str(run)], capture_output=True, text=True, check=False)
        assert left.stdout == "", "a child of the killed run is still there"

    teacher_server.delay = 0.0
    assert stillhouse("run", recipe, "--out", run, "--until", "responses").returncode == 0
    assert tables_of(run) == wanted
    in_flight = 2 * Teacher(**endpoint_teacher(teacher_server)).in_flight(load_recipe(recipe).runtime)
    assert sum(teacher_server.requests.values()) <= answered(run) + in_flight


def test_ctrl_c_stops_cleanly_and_resumes(recipe: Path, tmp_path: Path, teacher_server: TeacherServer) -> None:
    run = tmp_path / "run"
    teacher_server.delay = 0.5
    process = subprocess.Popen(
        [COMMAND, "run", recipe, "--out", run, "--until", "responses"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while answered(run) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "run the same command again to resume" in error
    assert "Traceback" not in error
    assert answered(run) == sum(teacher_server.requests.values()), "what was in flight is finished and kept"
    teacher_server.delay = 0.0
    assert stillhouse("run", recipe, "--out", run, "--until", "responses").returncode == 0


def test_failing_and_rubbish_teachers_stop_with_a_reason(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    run = tmp_path / "run"
    teacher_server.mode = "error"
    failed = stillhouse("run", recipe, "--out", run)
    assert failed.returncode == 1
    assert "14 of 14 teacher calls failed" in failed.stderr
    assert "this endpoint is broken" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert list(tables_of(run)) == ["texts"]

    teacher_server.mode = "garbage"
    rubbish = stillhouse("run", recipe, "--out", run)
    assert rubbish.returncode == 1
    assert "no answer of 14 is usable ({'unusable: not JSON': 14})" in rubbish.stderr
    assert sum(teacher_server.requests.values()) >= 14 * 3, "each is asked again, twice, with its fault told"


def test_a_teacher_that_learns_from_its_faults_is_asked_twice(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    run = tmp_path / "run"
    teacher_server.mode = "learner"
    done = stillhouse("run", recipe, "--out", run, "--until", "attributes")
    assert done.returncode == 0, done.stderr
    assert sum(teacher_server.requests.values()) == 2 * 14
    attributes = RunFolder(run).read_table("attributes")
    assert attributes["text_id"].n_unique() == 14
    counts = json.loads((run / "manifest.json").read_text())["stages"]["attributes"]
    assert counts["counts"]["parsed"] == 14
    assert counts["calls"] == 2 * 14


def test_an_unreachable_endpoint_is_named(recipe: Path, tmp_path: Path) -> None:
    teacher = {"backend": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    done = stillhouse("run", write_recipe(tmp_path, teacher=teacher), "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "teacher http://127.0.0.1:9/v1 cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_served_is_named(recipe: Path, tmp_path: Path, teacher_server: TeacherServer) -> None:
    teacher = {**endpoint_teacher(teacher_server), "model": "other"}
    done = stillhouse("run", write_recipe(tmp_path, teacher=teacher), "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "does not serve `other`; it serves: test-teacher" in done.stderr


@pytest.mark.xdist_group("offline")
def test_the_offline_job_is_whole_and_consistent(offline_run: Path) -> None:
    folder = RunFolder(offline_run)
    tables: dict[str, pl.DataFrame] = {name: folder.read_table(name) for name in TABLES}
    empty = {"audit", "gates"}  # nobody was asked, and nothing was found
    assert {name for name, table in tables.items() if table.is_empty()} == empty
    responses, decisions = tables["responses"], tables["decisions"]
    assert responses["sample_id"].is_unique().all()
    assert decisions["sample_id"].to_list() == responses["sample_id"].to_list()
    assert decisions["reason"].null_count() == 0
    assert set(tables["scores"]["sample_id"]) == set(responses.filter(pl.col("status") == "valid")["sample_id"])
    assert set(responses["text_id"]) <= set(tables["texts"]["text_id"])
    assert set(responses["instruction_id"]) <= set(tables["instructions"]["instruction_id"])
    assert set(tables["instructions"]["perspective_id"]) <= set(tables["perspectives"]["perspective_id"])

    manifest: dict[str, Any] = json.loads((offline_run / "manifest.json").read_text())
    assert list(manifest["stages"]) == [stage.name for stage in STAGES]
    with sqlite3.connect(folder.journal_path) as journal:
        calls = dict(journal.execute("SELECT stage, COUNT(*) FROM answers GROUP BY stage").fetchall())
        ids = {row[0] for row in journal.execute("SELECT call_id FROM answers")}
    assert {name: entry["calls"] for name, entry in manifest["stages"].items() if entry.get("calls")} == calls
    assert all(entry["failed"] == 0 for entry in manifest["stages"].values())
    assert set(responses["call_id"]) <= ids


@pytest.mark.xdist_group("offline")
def test_another_similarity_computes_no_difficulty_and_no_embedding_again(private_run: Path) -> None:
    recipe = yaml.safe_load((private_run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["curation"] |= {"similarity": 0.6, "rate": 1.0}
    (private_run.parent / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    computed = [(private_run / name).stat() for name in ("difficulty.jsonl", "vectors.npz")]
    before = pl.read_parquet(private_run / "scores.parquet")
    done = stillhouse("run", private_run.parent / "recipe.yaml", "--out", private_run, "--update")
    assert done.returncode == 0, done.stderr
    after = pl.read_parquet(private_run / "scores.parquet")
    assert after["difficulty"].equals(before["difficulty"])
    assert after["nearest_id"].count() > before["nearest_id"].count()
    now = [(private_run / name).stat() for name in ("difficulty.jsonl", "vectors.npz")]
    assert [file.st_mtime_ns for file in now] == [file.st_mtime_ns for file in computed]


@pytest.mark.xdist_group("offline")
def test_the_offline_job_says_what_it_did(offline_run: Path) -> None:
    told = json.loads((offline_run.parent / "result.json").read_text())["out"]
    for stage in STAGES:
        assert f"✓ {stage.name}" in told
    for words in ("stillhouse run: tiny", "Funnel", "Time and tokens", "difficulty", "stillhouse train"):
        assert words in told


@pytest.mark.xdist_group("offline")
def test_the_offline_teacher_answers_in_the_asked_form(offline_run: Path) -> None:
    responses = RunFolder(offline_run).read_table("responses")
    # The grammar rules out wrong labels, numbers and records; what it cannot promise is checked by program.
    faults = set(responses.filter(pl.col("status") != "valid")["reason"])
    form = {"not JSON", "not the fields asked for", "does not fit the schema"}
    form |= {"label not in the set", "score not on the scale", "not a list of phrases"}
    assert not faults & form
    assert responses.filter(pl.col("status") == "valid").height > len(responses) / 2


@pytest.mark.xdist_group("offline")
def test_status_counts_what_is_on_disk(offline_run: Path) -> None:
    done = stillhouse("status", offline_run, "--json")
    report = json.loads(done.stdout)
    folder = RunFolder(offline_run)
    assert report["missing"] == []
    assert report["funnel"]["responses"] == len(folder.read_table("responses"))
    assert report["funnel"]["kept"] == folder.read_table("decisions")["kept"].sum()
    told = stillhouse("status", offline_run)
    assert told.returncode == 0
    assert "All stages are done." in told.stdout
