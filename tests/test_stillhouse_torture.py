"""What was paid for is never lost: kill -9 at random moments, a full disk, a damaged journal, two runs at once."""

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from stillhouse.schemas import TABLES
from tests.conftest import COMMAND, endpoint_teacher, stillhouse, write_recipe
from tests.teacher_server import TeacherServer, requests_on_disk

DELAY = 0.15  # seconds of an answer
LONGEST = 9.0  # seconds after which a run is killed at the latest


@pytest.fixture
def recipe(tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEACHER_KEY", "key")
    return write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server), runtime={"concurrency": 3})


def tables_of(run: Path) -> dict[str, bytes]:
    return {name: (run / f"{name}.parquet").read_bytes() for name in TABLES if (run / f"{name}.parquet").exists()}


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[pytest.mark.prove, pytest.mark.timeout(3600)])])
def test_kill_minus_nine_at_random_moments(
    kills: int, recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    undisturbed = tmp_path / "undisturbed"
    assert stillhouse("run", recipe, "--out", undisturbed, "--until", "responses").returncode == 0
    wanted, asked = tables_of(undisturbed), set(teacher_server.requests)
    assert requests_on_disk(undisturbed, teacher_server.base_url) == asked
    moments, killed, number = random.Random(kills), 0, 0
    while killed < kills:
        number += 1
        run = tmp_path / f"run {number}"
        teacher_server.requests.clear()
        teacher_server.delay = DELAY
        sent_before: dict[str, int] = {}
        code = -9
        while code and killed < kills:
            process = subprocess.Popen(
                [COMMAND, "run", recipe, "--out", run, "--until", "responses"], stdout=subprocess.DEVNULL
            )
            code = _killed_or_ended(process, moments, teacher_server if killed % 2 else None)
            killed += code == -9
            assert code in (0, -9)
            time.sleep(2 * DELAY)  # what the server still works on is counted before it is compared
            assert {key: teacher_server.requests[key] for key in sent_before} == sent_before, "asked for again"
            sent_before = {key: teacher_server.requests[key] for key in requests_on_disk(run, teacher_server.base_url)}
        teacher_server.delay = 0.0
        assert stillhouse("run", recipe, "--out", run, "--until", "responses").returncode == 0
        assert {key: teacher_server.requests[key] for key in sent_before} == sent_before
        assert set(teacher_server.requests) == asked, "none is missing and none is new"
        assert requests_on_disk(run, teacher_server.base_url) == asked
        assert tables_of(run) == wanted
        shutil.rmtree(run)


def _killed_or_ended(process: subprocess.Popen[bytes], moments: random.Random, busy: TeacherServer | None) -> int:
    """Return the exit code of a run killed at a random moment, or at one at which `busy` has its requests."""

    def await_requests() -> None:
        while busy and process.poll() is None and not busy.in_flight:
            time.sleep(0.01)

    await_requests()
    try:
        return process.wait(timeout=moments.uniform(0.0, 2.0 if busy else LONGEST))
    except subprocess.TimeoutExpired:
        await_requests()
        process.kill()
        return process.wait()


def test_a_full_disk_loses_no_answer(tmp_path: Path, teacher_server: TeacherServer, recipe: Path) -> None:
    sources = [{"path": "texts.jsonl"}]
    texts = (f"Text number {number} of a disk test. " + "It is not short. " * 30 for number in range(300))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    recipe = write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server), texts={"sources": sources})
    small, copied = tmp_path / "small", tmp_path / "copied"
    small.mkdir()
    script = 'mount -t tmpfs -o size=2200k tmpfs "$1" && "$2" run "$3" --out "$1/run" --until attributes; code=$?; '
    script += 'cp -r "$1/run" "$4"; exit $code'
    command = ["unshare", "--map-root-user", "--mount", "bash", "-c", script, "-", small, COMMAND, recipe, copied]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "disk" in done.stderr
    assert "run the same command again to resume" in done.stderr
    assert "Traceback" not in done.stderr
    paid = set(teacher_server.requests)
    assert 20 < len(paid) < 300
    assert requests_on_disk(copied, teacher_server.base_url) == paid, "also what was in flight when the disk was full"
    assert stillhouse("run", recipe, "--out", copied, "--until", "attributes").returncode == 0
    assert set(teacher_server.requests.values()) == {1}
    assert len(teacher_server.requests) == 300


@pytest.mark.parametrize("kind", ["torn write-ahead log", "cut file", "overwritten page"])
def test_a_damaged_journal_gives_back_what_can_be_read(
    kind: str, recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    run = tmp_path / "run"
    assert stillhouse("run", recipe, "--out", run, "--until", "attributes").returncode == 0
    wanted, paid = tables_of(run), sum(teacher_server.requests.values())
    path = run / "journal.sqlite"
    if kind == "torn write-ahead log":
        _write_without_checkpoint(path)
        log = path.with_name("journal.sqlite-wal")
        log.write_bytes(log.read_bytes()[:-1500] + b"\xff" * 700)
    else:
        data = bytearray(path.read_bytes())
        data[-4096:] = b"" if kind == "cut file" else b"\xff" * 4096
        path.write_bytes(data)
    (run / "attributes.parquet").unlink()
    again = stillhouse("run", recipe, "--out", run, "--until", "attributes")
    assert again.returncode == 0, again.stderr
    assert tables_of(run) == wanted
    lost = sum(teacher_server.requests.values()) - paid
    assert lost <= 3, "only what stood in the damaged place is asked for again"
    if kind != "torn write-ahead log":
        assert "the journal was damaged" in again.stdout
        assert list(run.glob("journal.damaged-*.sqlite"))


def _write_without_checkpoint(path: Path) -> None:
    """Leave the last rows in the write-ahead log, as a process does that is killed."""
    script = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        "rows = db.execute('SELECT * FROM answers ORDER BY rowid DESC LIMIT 2').fetchall(); "
        "[db.execute('DELETE FROM answers WHERE call_id = ?', row[:1]) for row in rows]; db.commit(); "
        "[(db.execute('INSERT INTO answers VALUES (?,?,?,?,?,?,?,?,?)', row), db.commit()) for row in rows]; "
        "os._exit(0)"
    )
    subprocess.run(["python3", "-c", script, str(path)], check=True)


def test_the_second_of_two_runs_on_one_folder_is_refused(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    run = tmp_path / "run"
    teacher_server.delay = 0.5
    command = [COMMAND, "run", recipe, "--out", run, "--until", "attributes"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not teacher_server.requests and time.monotonic() < deadline:
        time.sleep(0.02)
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert "another process is working on" in second.stderr
    assert first.wait(timeout=120) == 0
    assert set(teacher_server.requests.values()) == {1}
