"""The batch API, against a double of it: one file per round, no batch paid for twice, also after kill -9."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import COMMAND, endpoint_teacher, stillhouse, write_recipe
from tests.teacher_server import TeacherServer


@pytest.fixture
def recipe(tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEACHER_KEY", "key")
    teacher = {**endpoint_teacher(teacher_server), "backend": "batch"}
    return write_recipe(tmp_path, teacher=teacher, attributes={"per_text": 2, "min_share": 0.0})


def run(recipe: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    return stillhouse("run", recipe, "--out", folder, "--until", "attributes", timeout=120)


def test_calls_go_in_one_batch_and_corrections_in_the_next(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    teacher_server.mode = "learner"
    done = run(recipe, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    sizes = [
        len(teacher_server.files[batch["input_file_id"]].splitlines()) for batch in teacher_server.batches.values()
    ]
    assert sizes == [14, 14]
    (request, *_) = map(json.loads, teacher_server.files["file-0"].splitlines())
    assert request["url"] == "/v1/chat/completions"
    assert request["body"]["response_format"]["type"] == "json_schema"
    endpoint = write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server))
    plain = stillhouse("run", endpoint, "--out", tmp_path / "plain", "--until", "attributes")
    assert plain.returncode == 0, plain.stderr
    tables = [(tmp_path / name / "attributes.parquet").read_bytes() for name in ("run", "plain")]
    assert tables[0] == tables[1], "the same answers as from the endpoint"


def test_refused_lines_are_failures_of_their_rows(recipe: Path, tmp_path: Path, teacher_server: TeacherServer) -> None:
    teacher_server.mode = "error"
    done = run(recipe, tmp_path / "run")
    assert done.returncode == 1
    assert "14 of 14 teacher calls failed" in done.stderr
    assert "HTTP 400: this endpoint is broken" in done.stderr
    assert len(teacher_server.batches) == 1, "what is refused is not sent again in the same run"


def _await_a_batch(teacher_server: TeacherServer) -> None:
    deadline = time.monotonic() + 60
    while not teacher_server.batches and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)  # for its number to be noted


@pytest.mark.parametrize("forget", [False, True])
def test_a_killed_run_waits_for_the_batch_that_it_had_sent(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer, forget: bool
) -> None:
    teacher_server.batch_seconds = 8.0
    folder = tmp_path / "run"
    process = subprocess.Popen([COMMAND, "run", recipe, "--out", folder, "--until", "attributes"])
    _await_a_batch(teacher_server)
    process.kill()
    process.wait()
    if forget:  # killed after the provider made the batch and before its number was noted
        script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        script += "db.execute(\"UPDATE notes SET value = json_set(value, '$.batch', NULL) WHERE key LIKE 'batch %'\")"
        subprocess.run(["python3", "-c", script + "; db.commit()", str(folder / "journal.sqlite")], check=True)
    done = run(recipe, folder)
    assert done.returncode == 0, done.stderr
    assert len(teacher_server.batches) == 1
    assert set(teacher_server.requests.values()) == {1}


def test_ctrl_c_leaves_the_batch_to_the_next_run(recipe: Path, tmp_path: Path, teacher_server: TeacherServer) -> None:
    teacher_server.batch_seconds = 10.0
    process = subprocess.Popen(
        [COMMAND, "run", recipe, "--out", tmp_path / "run", "--until", "attributes"], stderr=subprocess.PIPE, text=True
    )
    _await_a_batch(teacher_server)
    pressed = time.monotonic()
    process.send_signal(2)
    error = process.communicate(timeout=60)[1]
    assert time.monotonic() - pressed < 5
    assert process.returncode == 1
    assert "run the same command again to resume" in error
    assert "Traceback" not in error
    assert run(recipe, tmp_path / "run").returncode == 0
    assert len(teacher_server.batches) == 1


def test_unreadable_results_cost_their_rows_only_and_are_not_paid_for_again(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    teacher_server.results = b'[1\n"text"\n\n{"custom_id": "x"}'
    done = run(recipe, tmp_path / "run")
    assert done.returncode == 1
    assert "the batch is completed, and has no readable result of this call" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(teacher_server.batches) == 1


def test_a_provider_that_is_busy_for_a_while_is_not_paid_twice(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    teacher_server.busy = 6  # replies of the batch API, whatever is asked
    done = run(recipe, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert len(teacher_server.batches) == 1
    assert set(teacher_server.requests.values()) == {1}


def test_a_batch_that_the_provider_has_thrown_away_is_sent_again(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    folder = tmp_path / "run"
    teacher_server.batch_seconds = 60.0
    process = subprocess.Popen([COMMAND, "run", recipe, "--out", folder, "--until", "attributes"])
    _await_a_batch(teacher_server)
    process.kill()
    process.wait()
    teacher_server.batches.clear()
    teacher_server.batch_seconds = 0.0
    done = run(recipe, folder)
    assert done.returncode == 0, done.stderr
    assert len(teacher_server.batches) == 1
