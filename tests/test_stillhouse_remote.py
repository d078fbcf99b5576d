"""A run may live in a storage: it is the same there as here, and losing the machine loses no answer that was used."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import fsspec
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

import stillhouse as api
from pipelines.calls import Answer, Call
from pipelines.journal import NOTE, Journal, answer_row, failure_row, salvage
from stillhouse import store
from stillhouse.errors import InputError, RunError
from stillhouse.remote import LOCK, PLACE, PUSHING, Remote, local_path, remote_of
from stillhouse.store import RunFolder, replace_folder, write_atomically
from stillhouse.viewing import failures_of
from tests.conftest import COMMAND, DEMO_TEXTS, endpoint_teacher, free_port, stillhouse, write_recipe
from tests.teacher_server import TeacherServer, requests_on_disk
from tests.test_stillhouse_torture import tables_of

RUN = "s3://bucket/team/run"
NUMBERS = count()
TEXTS = 90  # more than are asked while the client of the storage still hopes


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    """A real S3 server with an empty bucket; what is in it outlasts `stop` and `start`."""
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret that nobody may see")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    request = Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    with urlopen(request):  # noqa: S310
        objects().mkdir("bucket")
    yield server
    server.stop()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Go to a machine: each has its own working folders."""

    def go_to(name: str) -> None:
        monkeypatch.setenv(PLACE, str(tmp_path / f"machine {name}"))

    go_to("one")
    return go_to


@pytest.fixture
def recipe(tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEACHER_KEY", "key")
    return write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server), runtime={"concurrency": 3})


def objects() -> Any:
    return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)


def memory_url() -> str:
    return f"memory://storage/run-{next(NUMBERS)}"


def call(number: int) -> Call:
    return Call("m", None, "chat", f"prompt {number}", {"type": "string"}, 0.0, 5, 1)


def opened(url: str) -> tuple[Path, Remote]:
    folder = local_path(url)
    remote = remote_of(folder)
    assert remote
    return folder, remote


def start(recipe: Path, until: str = "attributes") -> "subprocess.Popen[str]":
    command = [COMMAND, "run", recipe, "--out", RUN, "--until", until]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def await_that(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def segments() -> list[str]:
    return objects().find(f"{RUN}/journal")


@pytest.mark.usefixtures("s3")
def test_a_run_in_s3_is_that_of_a_folder_and_another_machine_has_it_too(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer, machine: Callable[[str], None]
) -> None:
    local = tmp_path / "local"
    assert stillhouse("run", recipe, "--out", local, "--until", "attributes").returncode == 0
    done = stillhouse("run", recipe, "--out", RUN, "--until", "attributes")
    assert done.returncode == 0, done.stderr
    assert f"--out {RUN}" in " ".join(done.stdout.split())
    there = {Path(path).name for path in objects().find(RUN)} - {Path(path).name for path in segments()}
    assert there == {"manifest.json", "recipe.yaml", "texts.parquet", "attributes.parquet"}
    assert segments()
    machine("two")
    found, wanted = (json.loads(stillhouse("status", run, "--json").stdout) for run in (RUN, local))
    assert found["funnel"] == wanted["funnel"]
    assert stillhouse("inspect", RUN, "attributes", "--json").stdout == (
        stillhouse("inspect", local, "attributes", "--json").stdout
    )
    assert stillhouse("diff", local, RUN).returncode == 0
    assert api.open_run(RUN).table("attributes").equals(api.open_run(local).table("attributes"))
    assert tables_of(local_path(RUN)) == tables_of(local)
    asked = sum(teacher_server.requests.values())
    objects().rm(f"{RUN}/attributes.parquet")
    again = stillhouse("run", recipe, "--out", RUN, "--until", "attributes")
    assert again.returncode == 0, again.stderr
    assert sum(teacher_server.requests.values()) == asked, "all answers came with the run"
    assert tables_of(local_path(RUN)) == tables_of(local)


@pytest.mark.usefixtures("s3")
def test_a_machine_that_is_lost_in_the_middle_loses_no_answer_that_was_stored(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer, machine: Callable[[str], None]
) -> None:
    local = tmp_path / "local"
    assert stillhouse("run", recipe, "--out", local, "--until", "attributes").returncode == 0
    teacher_server.requests.clear()
    teacher_server.delay = 0.6
    stored: dict[str, int] = {}
    for name in ("one", "two"):
        machine(name)
        enough = len(segments()) + 2  # the first may be a note only
        process = start(recipe)
        await_that(lambda enough=enough: len(segments()) >= enough, process)  # type: ignore[misc]
        process.kill()
        process.wait()
        shutil.rmtree(tmp_path / f"machine {name}")
        machine(f"that looks after {name}")
        folder = local_path(RUN)
        with Journal(folder / "journal.sqlite"):
            now = requests_on_disk(folder, teacher_server.base_url)
        assert stored.keys() < now
        assert {key: teacher_server.requests[key] for key in stored} == stored, "asked for again"
        stored = {key: teacher_server.requests[key] for key in now}
    machine("three")
    teacher_server.delay = 0.0
    done = stillhouse("run", recipe, "--out", RUN, "--until", "attributes")
    assert done.returncode == 0, done.stderr
    assert {key: teacher_server.requests[key] for key in stored} == stored
    assert len(stored) < len(teacher_server.requests) == 14
    assert tables_of(local_path(RUN)) == tables_of(local)


def test_a_storage_that_fails_in_the_middle_stops_the_run_and_loses_no_answer(
    recipe: Path, tmp_path: Path, teacher_server: TeacherServer, machine: Callable[[str], None], s3: ThreadedMotoServer
) -> None:
    sources = [{"path": str(DEMO_TEXTS), "domain_column": "domain", "licence": "CC0-1.0", "limit": TEXTS}]
    teacher = endpoint_teacher(teacher_server)
    recipe = write_recipe(tmp_path, teacher=teacher, runtime={"concurrency": 3}, texts={"sources": sources})
    teacher_server.delay = 0.6
    process = start(recipe)
    await_that(lambda: len(segments()) >= 2, process)
    s3.stop()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"{RUN} cannot be written" in told
    assert "run the same command again to resume" in told
    assert "a secret" not in told
    assert "Traceback" not in told
    paid = set(teacher_server.requests)
    (folder,) = (tmp_path / "machine one").glob("run-*")
    assert str(folder) in told.replace("\n", "")
    assert requests_on_disk(folder, teacher_server.base_url) == paid
    assert 0 < len(paid) < TEXTS
    away = stillhouse("status", RUN)
    assert away.returncode == 1
    assert f"{RUN} cannot be read" in away.stderr
    s3.start()
    teacher_server.delay = 0.0
    assert stillhouse("run", recipe, "--out", RUN, "--until", "attributes").returncode == 0
    assert set(teacher_server.requests.values()) == {1}
    assert len(teacher_server.requests) == TEXTS
    machine("two")
    folder = local_path(RUN)
    with Journal(folder / "journal.sqlite"):
        assert requests_on_disk(folder, teacher_server.base_url) == set(teacher_server.requests)


@pytest.mark.usefixtures("s3")
def test_a_run_that_another_machine_works_on_is_refused_and_read(
    recipe: Path, teacher_server: TeacherServer, machine: Callable[[str], None]
) -> None:
    teacher_server.delay = 1.0
    first = start(recipe)
    await_that(lambda: bool(teacher_server.requests), first)
    machine("two")
    second = stillhouse("run", recipe, "--out", RUN, "--until", "attributes")
    assert second.returncode == 1
    assert f"another process is working on {RUN}: host {socket.gethostname()}, process {first.pid}" in (
        " ".join(second.stderr.split())
    )
    assert stillhouse("status", RUN).returncode == 0
    assert first.wait(timeout=120) == 0
    assert set(teacher_server.requests.values()) == {1}
    assert not objects().exists(f"{RUN}/{LOCK}")


def test_the_lock_of_a_host_that_is_gone_is_taken_over(machine: Callable[[str], None]) -> None:
    url = memory_url()
    folder, remote = opened(url)
    lock, storage = url.removeprefix("memory:/") + "/" + LOCK, fsspec.filesystem("memory")
    for age, is_free in ((60, False), (130, True)):
        storage.pipe_file(lock, json.dumps({"host": "elsewhere", "pid": 7, "time": time.time() - age}).encode())
        if is_free:
            with RunFolder(folder).locked():
                assert json.loads(storage.cat_file(lock))["pid"] == os.getpid()
        else:
            with pytest.raises(RunError, match=r"host elsewhere, process 7, seen 60 s ago"), remote.held():
                pass
    storage.pipe_file(lock, b"half a lo")
    with remote.held():
        pass
    assert not storage.exists(lock)


def test_a_process_whose_run_was_taken_over_writes_no_more(machine: Callable[[str], None]) -> None:
    url = memory_url()
    folder, remote = opened(url)
    storage, lock = fsspec.filesystem("memory"), url.removeprefix("memory:/") + "/" + LOCK
    held = RunFolder(folder).locked()
    held.__enter__()
    storage.pipe_file(lock, json.dumps({"host": "elsewhere", "pid": 7, "time": 1.0, "token": "other"}).encode())
    write_atomically(folder / "texts.parquet", b"mine")
    with pytest.raises(RunError, match=r"host elsewhere.*took the run over"):
        held.__exit__(None, None, None)
    assert "took the run over" in remote.fault
    assert storage.exists(lock), "the other's"
    assert not storage.exists(lock.replace(LOCK, "texts.parquet"))


@pytest.mark.usefixtures("machine")
def test_a_lock_of_another_container_of_this_host_is_not_taken_over() -> None:
    url = memory_url()
    _, remote = opened(url)
    storage, lock = fsspec.filesystem("memory"), url.removeprefix("memory:/") + "/" + LOCK
    with remote.held():
        ours = json.loads(storage.cat_file(lock))
    gone = subprocess.Popen(["true"])
    gone.wait()
    for processes, is_free in (("another boot 4026531836", False), (ours["processes"], True)):
        storage.pipe_file(
            lock, json.dumps(ours | {"pid": gone.pid, "processes": processes, "time": time.time()}).encode()
        )
        if is_free:
            with remote.held():
                pass
        else:
            with pytest.raises(RunError, match=f"process {gone.pid}"), remote.held():
                pass


@pytest.mark.usefixtures("machine")
def test_of_two_that_take_a_lock_over_one_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    url = memory_url()
    _, remote = opened(url)
    storage, lock = fsspec.filesystem("memory"), url.removeprefix("memory:/") + "/" + LOCK
    other = json.dumps({"host": "elsewhere", "pid": 7, "time": time.time(), "token": "other"}).encode()
    storage.pipe_file(lock, json.dumps({"time": 1.0}).encode())
    monkeypatch.setattr("stillhouse.remote.time.sleep", lambda seconds: storage.pipe_file(lock, other))
    with pytest.raises(RunError, match="host elsewhere, process 7"), remote.held():
        pass
    assert storage.cat_file(lock) == other


@pytest.mark.usefixtures("machine")
def test_a_lock_that_is_just_being_written_is_not_taken_over() -> None:
    url = memory_url()
    _, remote = opened(url)
    storage, lock = fsspec.filesystem("memory"), f"{url.removeprefix('memory:/')}/{LOCK}"
    storage.pipe_file(lock, b'{"ho')
    whole = json.dumps({"host": "another", "processes": "its", "pid": 1, "time": time.time(), "token": "its"}).encode()
    threading.Timer(0.2, storage.pipe_file, (lock, whole)).start()
    with pytest.raises(RunError, match="host another"), remote.held():
        pass
    assert storage.cat_file(lock) == whole


@pytest.mark.usefixtures("machine")
def test_folders_may_be_replaced_while_it_is_looked_for_what_changed(tmp_path: Path) -> None:
    folder, remote = opened(memory_url())
    write_atomically(folder / "manifest.json", b"{}")
    ended = threading.Event()

    def replace() -> None:
        while not ended.is_set():
            for name in ("figures", "rows"):
                (tmp_path / "new" / name).mkdir(parents=True)
                write_atomically(tmp_path / "new" / name / "one", b"1")
            replace_folder(tmp_path / "new", folder / "report")

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        assert all("manifest.json" in remote._files() for _ in range(500))
    finally:
        ended.set()
        replacing.join()


def test_what_is_lost_here_is_fetched_again(machine: Callable[[str], None]) -> None:
    """Whoever empties the working folder takes nothing away there."""
    url = memory_url()
    folder, remote = opened(url)
    files = {"manifest.json": b"{}", "texts.parquet": b"texts", "review/1.json": b"verdicts"}
    with remote.held():
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomically(folder / name, content)
    for emptied in (["texts.parquet"], list(files)):
        for name in emptied:
            (folder / name).unlink()
        with remote.held():
            assert _files(folder) == files
        machine("two")
        other, _ = opened(url)
        assert _files(other) == files
        machine("one")


def hold_and_lose(remote: Remote, change: Callable[[], None]) -> None:
    """Hold the run and change it, but nothing can be written to the storage."""

    def hold() -> None:
        with remote.held():
            change()

    with pytest.MonkeyPatch.context() as away:
        away.setattr(remote, "_place", failing)
        with pytest.raises(RunError, match="the network"):
            hold()


def failing(*_: object) -> None:
    raise ConnectionError("the network")


class KilledError(BaseException):
    """In the place of a kill -9."""


def die(*_: object) -> None:
    raise KilledError


def test_what_was_deleted_here_while_the_storage_was_away_is_deleted_there_by_the_next_command(
    machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = memory_url()
    folder, remote = opened(url)
    rows = folder / "dataset" / "rows"
    rows.mkdir(parents=True)
    with remote.held():
        for name in ("train", "test"):
            write_atomically(rows / name, b"of the first time")
        RunFolder(folder).write_manifest({"stages": {"dataset": 1}, "seconds": {}})

    def build_anew() -> None:
        (rows / "test").unlink()
        write_atomically(rows / "train", b"all rows")
        RunFolder(folder).write_manifest({"stages": {"dataset": 2}, "seconds": {}})

    hold_and_lose(remote, build_anew)
    assert local_path(url) == folder
    assert not (rows / "test").exists(), "whoever looks does not bring it back"
    (rows / "train").unlink()
    with monkeypatch.context() as killed:
        killed.setattr(store, "write_atomically", die)
        with pytest.raises(KilledError):
            RunFolder(folder).write_manifest({"stages": {}, "seconds": {}})
    assert local_path(url) == folder
    assert not (rows / "train").exists(), "nor where it was killed before it could say that it was done"
    write_atomically(rows / "train", b"all rows")
    with remote.held():
        assert _files(folder).keys() == {"dataset/rows/train", "manifest.json"}
    machine("two")
    other, _ = opened(url)
    assert _files(other) == _files(folder)


def test_what_was_deleted_here_and_changed_there_is_fetched(machine: Callable[[str], None]) -> None:
    url = memory_url()
    folder, remote = opened(url)
    with remote.held():
        for name in ("manifest.json", "verdicts.json"):
            write_atomically(folder / name, b"{}")

    def delete() -> None:
        (folder / "verdicts.json").unlink()
        write_atomically(folder / "manifest.json", b"{ }")

    hold_and_lose(remote, delete)
    machine("two")
    other, its = opened(url)
    with its.held():
        write_atomically(other / "verdicts.json", b"theirs")
    machine("one")
    with remote.held():
        assert (folder / "verdicts.json").read_bytes() == b"theirs"


@pytest.mark.usefixtures("machine")
def test_a_failed_push_of_a_report_is_not_the_end_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, remote = opened(memory_url())
    write_atomically(folder / "report.html", b"<p>")
    with monkeypatch.context() as away:
        away.setattr(remote, "_place", failing)
        with pytest.raises(RunError, match="the network"):
            remote.push()
    remote.push()
    assert remote._listing().keys() == {"report.html"}


@pytest.mark.usefixtures("s3", "machine")
@pytest.mark.parametrize("marker", ["", "dataset/", "journal/", "review/"])
def test_markers_of_folders_are_no_files(marker: str) -> None:
    folder, remote = opened(RUN)
    with remote.held(), Journal(folder / "journal.sqlite") as journal:
        (folder / "dataset").mkdir()
        write_atomically(folder / "dataset" / "facts.json", b"{}")
        write_atomically(folder / "manifest.json", b"{}")
        journal.set_note("batch", "state")
    objects().call_s3("put_object", Bucket="bucket", Key=f"team/run/{marker}", Body=b"")
    with remote.held():
        assert written(folder) == (0, [], "state")
    assert _files(folder).keys() == {"dataset/facts.json", "manifest.json", "journal.sqlite"}
    assert not list(folder.parent.glob(".*"))


@pytest.mark.usefixtures("machine")
def test_a_command_waits_for_whoever_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    url = memory_url()
    folder, remote = opened(url)
    pulling, pulled = threading.Event(), threading.Event()

    def pull_slowly() -> None:
        pulling.set()
        pulled.wait()

    with monkeypatch.context() as slow:
        slow.setattr(remote, "_pull", pull_slowly)
        looking = threading.Thread(target=remote.refresh)
        looking.start()
        pulling.wait()
    threading.Timer(1.5, pulled.set).start()
    with RunFolder(folder).locked():
        assert pulled.is_set()
    looking.join()


@pytest.mark.usefixtures("machine")
def test_a_push_waits_for_another() -> None:
    url = memory_url()
    folder, remote = opened(url)
    write_atomically(folder / "report.html", b"<p>")
    pushing = threading.Thread(target=remote.push)
    with FileLock(folder / PUSHING):
        pushing.start()
        pushing.join(0.3)
        assert pushing.is_alive()
    pushing.join()
    assert fsspec.filesystem("memory").find(url.removeprefix("memory:/"))


@pytest.mark.usefixtures("machine")
def test_noting_deletions_waits_for_a_push() -> None:
    folder, remote = opened(memory_url())
    noting = threading.Thread(target=remote.note_deletions)
    with FileLock(folder / PUSHING):
        noting.start()
        noting.join(0.3)
        assert noting.is_alive(), "both write the index"
    noting.join()


@pytest.mark.usefixtures("machine")
def test_a_lock_is_renewed_and_its_loss_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    url = memory_url()
    folder, remote = opened(url)
    storage, lock = fsspec.filesystem("memory"), url.removeprefix("memory:/") + "/" + LOCK
    monkeypatch.setattr("stillhouse.remote.REFRESH_SECONDS", 0.02)
    with remote.held():
        first = json.loads(storage.cat_file(lock))
        deadline = time.monotonic() + 30
        while json.loads(storage.cat_file(lock))["time"] == first["time"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert json.loads(storage.cat_file(lock)) | {"time": first["time"]} == first
        storage.rm_file(lock)
        while not remote.fault:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    with Journal(folder / "journal.sqlite") as journal, pytest.raises(RunError, match="took the run over"):
        journal.set_note("batch", "state")


names = st.sampled_from(["manifest.json", "a.parquet", "cuts/b/c.json", "dataset/default/x", "review/ä 1.json"])
contents = st.sampled_from([b"", b"one", b"two", b"three"])
works = st.lists(st.dictionaries(names, st.none() | contents), max_size=5)


@settings(deadline=None, max_examples=40)
@given(works)
def test_whoever_works_on_a_run_has_what_the_last_one_left(
    tmp_path_factory: pytest.TempPathFactory, works: list[dict[str, bytes | None]]
) -> None:
    base, url = tmp_path_factory.mktemp("sync"), memory_url()
    folders = [base / "one", base / "two"]
    wanted: dict[str, bytes] = {"manifest.json": b"{}"}
    for folder in folders:
        folder.mkdir()
    with Remote(url, folders[0]).held():
        write_atomically(folders[0] / "manifest.json", b"{}")
    for number, changes in enumerate([*works, {}, {}]):
        folder = folders[number % 2]
        with Remote(url, folder).held():
            assert _files(folder) == wanted
            for name, content in changes.items():
                path = folder / name
                if content is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(path, content)
                    wanted[name] = content
                elif name != "manifest.json":
                    path.unlink(missing_ok=True)
                    wanted.pop(name, None)


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_was_changed_here_and_there_is_kept_beside(
    tmp_path: Path, machine: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    url = memory_url()
    folder, remote = opened(url)
    with remote.held():
        write_atomically(folder / "verdicts.json", b"first")
    write_atomically(folder / "verdicts.json", b"mine, and the process was killed")
    machine("two")
    other, its = opened(url)
    with its.held():
        write_atomically(other / "verdicts.json", b"theirs")
    machine("one")
    local_path(url)
    assert (folder / "verdicts.json").read_bytes() == b"theirs"
    (aside,) = folder.glob(".verdicts.json.aside-*")
    assert aside.read_bytes() == b"mine, and the process was killed"
    assert str(aside) in caplog.text


def test_a_storage_that_was_emptied_takes_nothing_away_here(machine: Callable[[str], None]) -> None:
    url = memory_url()
    folder, remote = opened(url)
    with remote.held():
        write_atomically(folder / "manifest.json", b"{}")
    fsspec.filesystem("memory").rm(url.removeprefix("memory:/"), recursive=True)
    with pytest.raises(InputError, match="no longer holds the run"):
        local_path(url)
    assert (folder / "manifest.json").exists()


def written(folder: Path) -> tuple[int, list[str], str | None]:
    with Journal(folder / "journal.sqlite") as journal:
        return journal.usage().calls, sorted(row[2] for row in journal.failures()), journal.note("batch")


def test_answers_failures_and_notes_travel_once(machine: Callable[[str], None]) -> None:
    url = memory_url()
    folder, remote = opened(url)
    with remote.held(), Journal(folder / "journal.sqlite") as journal:
        for number in range(6):
            journal.write([answer_row("s", call(number), Answer("ü\ud800"[:1], "stop", 1, 1, 0.1))])
            journal.write([failure_row("s", call(number), f"cause {number}")])
            journal.set_note("batch", f"state {number}")
        assert len(remote.segments()) == 6
        journal.send()
        assert len(remote.segments()) == 6, "nothing is sent twice"
    wanted = (6, [f"cause {number}" for number in range(6)], "state 5")
    assert written(folder) == wanted
    machine("two")
    other, _ = opened(url)
    assert failures_of(RunFolder(other))["cause"].sort().to_list() == wanted[1], "whoever only looks has them too"
    assert written(other) == wanted
    assert written(other) == wanted
    (other / "journal.sqlite").unlink()
    assert written(other) == wanted


@pytest.mark.parametrize("killed", ["before the new one", "before the old ones go", "while the old ones go", "never"])
def test_segments_are_folded_into_one_whenever_it_is_killed(
    killed: str, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = memory_url()
    folder, remote = opened(url)
    with Journal(folder / "journal.sqlite") as journal:
        for number in range(4):
            journal.write([answer_row("s", call(number), Answer("a", "stop", 1, 1, 0.1))])
            journal.write([failure_row("s", call(number), f"cause {number}")])
            journal.set_note("batch", f"state {number}")
        old = remote.segments()
    wanted = (4, [f"cause {number}" for number in range(4)], "state 3")
    machine("two")
    assert written(local_path(url)) == wanted
    fold_and_be_killed(folder, killed)
    left = remote.segments()
    expected = {"before the new one": old, "while the old ones go": old[2:] + left[-1:], "never": left[-1:]}
    assert left == expected.get(killed, [*old, left[-1]])
    assert written(folder) == written(local_path(url)) == wanted, "also where the old ones are known"
    machine("three")
    other, its = opened(url)
    assert written(other) == wanted
    with Journal(other / "journal.sqlite") as journal:
        journal.fold(most=0)
        journal.set_note("batch", "state 9")
    assert len(its.segments()) == 2
    machine("four")
    assert written(local_path(url)) == (*wanted[:2], "state 9")
    assert written(folder) == (*wanted[:2], "state 9")


def fold_and_be_killed(folder: Path, killed: str) -> None:
    """Fold in a copy of this process, and kill it; the storage in memory is not shared, so ours does what it did."""
    remote = remote_of(folder)
    assert remote
    put, remove = remote.put_segment, remote.remove_segments

    def put_and_die(name: str, content: Any) -> None:
        if killed == "before the new one":
            raise KilledError
        put(name, content)

    def remove_and_die(names: list[str]) -> None:
        if killed == "before the old ones go":
            raise KilledError
        if killed == "while the old ones go":
            remove(names[:2])
            raise KilledError
        remove(names)

    with pytest.MonkeyPatch.context() as patch, Journal(folder / "journal.sqlite") as journal:
        patch.setattr(remote, "put_segment", put_and_die)
        patch.setattr(remote, "remove_segments", remove_and_die)
        try:
            journal.fold(most=3)
        except KilledError:
            assert killed != "never"


def test_segments_that_are_folded_while_they_are_read_are_read_folded(
    machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = memory_url()
    folder, remote = opened(url)
    with Journal(folder / "journal.sqlite") as journal:
        for number in range(3):
            journal.set_note("batch", f"state {number}")
        old = remote.segments()
        journal.fold(most=0)
    machine("two")
    other, its = opened(url)
    listed = [old, its.segments(), its.segments()]
    monkeypatch.setattr(its, "segments", lambda: listed.pop(0))
    assert written(other) == (0, [], "state 2")


def test_a_damaged_segment_is_named(machine: Callable[[str], None]) -> None:
    url = memory_url()
    folder, remote = opened(url)
    remote.put_segment("0000000001-aa.jsonl.gz", b"\x1f\x8b\x08 not what it says")
    with pytest.raises(RunError, match=r"journal/0000000001-aa.jsonl.gz of memory://.* is damaged"):
        Journal(folder / "journal.sqlite")


def test_a_damaged_journal_is_mended_and_what_was_not_sent_is_sent(
    machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = memory_url()
    folder, remote = opened(url)
    path = folder / "journal.sqlite"
    with Journal(path) as journal:
        for number in range(200):
            journal.write([answer_row("s", call(number), Answer("a" * 500, "stop", 1, 1, 0.1))])
        journal.send()
        journal.write([answer_row("s", call(999), Answer("not sent", "stop", 1, 1, 0.1))])
    data = bytearray(path.read_bytes())
    with sqlite3.connect(path) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'answers'").fetchone()
    db.close()
    data[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(data)
    assert salvage(path) == 200, "all that were sent"
    with Journal(path) as journal:
        journal.send()
    assert remote.segments() != []
    machine("two")
    assert written(local_path(url))[0] >= 200


def damage(path: Path, names: list[str]) -> None:
    """Overwrite the first page of tables and indexes of a journal that is closed."""
    with sqlite3.connect(path) as db:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        roots = [db.execute(query, (name,)).fetchone()[0] for name in names]
    db.close()
    data = bytearray(path.read_bytes())
    for root in roots:
        data[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [["unsent"], ["unsent", "sqlite_autoindex_answers_1"]])
def test_answers_of_a_damaged_journal_are_sent_though_what_was_to_be_sent_is_damaged(
    machine: Callable[[str], None], damaged: list[str]
) -> None:
    url = memory_url()
    folder, _ = opened(url)
    path = folder / "journal.sqlite"
    with Journal(path) as journal:
        journal.write([answer_row("s", call(number), Answer("a", "stop", 1, 1, 0.1)) for number in range(2000)])
    damage(path, damaged)
    assert salvage(path) == 2000
    with Journal(path) as journal:
        journal.send()
    machine("two")
    assert written(local_path(url))[0] == 2000


@pytest.mark.usefixtures("machine")
def test_a_damaged_journal_is_mended_when_the_storage_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, remote = opened(memory_url())
    path = folder / "journal.sqlite"
    with Journal(path) as journal:
        journal.write([answer_row("s", call(number), Answer("a", "stop", 1, 1, 0.1)) for number in range(2000)])
    damage(path, ["unsent"])
    with monkeypatch.context() as away:
        listed: list[object] = [[]]
        away.setattr(remote, "segments", lambda: listed.pop() if listed else unreachable())
        with pytest.raises(RunError, match="away"):
            salvage(path)
    assert salvage(path) == 2000


def unreachable() -> None:
    raise RunError("the storage is away")


def test_a_segment_that_was_moved_away_is_not_waited_for(machine: Callable[[str], None]) -> None:
    url = memory_url()
    folder, remote = opened(url)
    with Journal(folder / "journal.sqlite") as journal:
        journal.set_note("batch", "state")
    (name,) = remote.segments()
    root = url.removeprefix("memory:/")
    fsspec.filesystem("memory").mv(f"{root}/journal/{name}", f"{root}/journal/old/{name}")
    machine("two")
    assert written(local_path(url)) == (0, [], None)


def test_a_segment_that_is_listed_and_not_there_is_named(
    machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, remote = opened(memory_url())
    monkeypatch.setattr(remote, "segments", lambda: ["0000000001-aa.jsonl.gz"])
    with pytest.raises(RunError, match="are listed and cannot be read: journal/0000000001-aa"):
        Journal(folder / "journal.sqlite")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("reads", ["while it is sent", "before it is known here"])
def test_whoever_looks_puts_no_old_note_over_a_newer_one(monkeypatch: pytest.MonkeyPatch, reads: str) -> None:
    folder, remote = opened(memory_url())
    path = folder / "journal.sqlite"
    with Journal(path) as journal:
        if reads == "while it is sent":
            put = remote.put_segment

            def put_and_be_read(name: str, content: bytes | Path) -> None:
                put(name, content)
                monkeypatch.setattr(remote, "put_segment", put)
                journal.write([(NOTE, ("batch", "newer"))])
                Journal(path).close()

            monkeypatch.setattr(remote, "put_segment", put_and_be_read)
            journal.set_note("batch", "older")
        else:
            with monkeypatch.context() as slow:
                slow.setattr(remote, "segments", list)
                looking = Journal(path)
            journal.set_note("batch", "older")
            (name,) = remote.segments()
            ((_, content),) = remote.read_segments([name])
            journal.set_note("batch", "newer")
            looking._take_in_segment(name, content)
        assert journal.note("batch") == "newer"


@pytest.mark.usefixtures("s3", "machine")
def test_texts_are_read_from_a_storage(tmp_path: Path, recipe: Path) -> None:
    for name in (DEMO_TEXTS.name, "diary/journal.jsonl"):
        objects().put_file(str(DEMO_TEXTS), f"s3://bucket/data/{name}")
    tables = []
    for place in (str(DEMO_TEXTS), *(f"s3://bucket/data/{name}" for name in (DEMO_TEXTS.name, "diary"))):
        sources = [{"path": place, "domain_column": "domain", "licence": "CC0-1.0", "limit": 14}]
        run = tmp_path / f"run {len(tables)}"
        done = stillhouse("run", write_recipe(tmp_path, texts={"sources": sources}), "--out", run, "--until", "texts")
        assert done.returncode == 0, done.stderr
        tables.append(tables_of(run))
    assert tables[0] == tables[1]
    assert (
        json.loads((tmp_path / "run 0" / "manifest.json").read_text())["stages"]["texts"]["fingerprint"]
        == (json.loads((tmp_path / "run 1" / "manifest.json").read_text())["stages"]["texts"]["fingerprint"])
    ), "the content counts, not where it lies"
    missing = [{"path": "s3://bucket/none.jsonl", "licence": "CC0-1.0"}]
    done = stillhouse("run", write_recipe(tmp_path, texts={"sources": missing}), "--out", tmp_path / "none")
    assert done.returncode == 2
    assert "s3://bucket/none.jsonl" in done.stderr


@pytest.mark.usefixtures("machine")
def test_places_in_a_run_are_found(tmp_path: Path) -> None:
    url = memory_url()
    folder, remote = opened(url)
    assert local_path(f"file://{tmp_path}/a%20run") == tmp_path / "a run"
    assert local_path("runs/demo") == Path("runs/demo")
    assert local_path("memory://storage/dataset").name.startswith("dataset-"), "nor can be one"
    assert local_path(f"{url}/dataset").name.startswith("dataset-"), "there is no run above it"
    (folder / "cuts" / "soft" / "dataset").mkdir(parents=True)
    with remote.held():
        write_atomically(folder / "cuts" / "soft" / "dataset" / "facts.json", b"{}")
        write_atomically(folder / "manifest.json", b"{}")
    assert local_path(f"{url}/cuts/soft/") == folder / "cuts" / "soft"
    assert local_path(f"{url}/cuts/soft/dataset") == folder / "cuts" / "soft" / "dataset"
    assert RunFolder(folder).shown(folder / "cuts" / "soft") == f"{url}/cuts/soft", "where a deletion counts"
    assert RunFolder(tmp_path).shown(tmp_path / "cuts") == str(tmp_path / "cuts")
    write_atomically(folder / "difficulty.jsonl", b"{}")
    (folder / "report").mkdir()
    write_atomically(folder / "report" / "index.html", b"<p>")
    RunFolder(folder).keep(folder / "report")
    there = fsspec.filesystem("memory").find(url.removeprefix("memory:/"))
    assert any(path.endswith("report/index.html") for path in there)
    assert not any(path.endswith("difficulty.jsonl") for path in there)
    for wrong, why in (
        ("s3://bucket", "name a folder in it"),
        ("s3://me:word@bucket/run", "credentials"),
        ("s3://token@bucket/run", "credentials"),
        ("s3://bucket/run[1]", "many places"),
        ("s3://bucket/*", "many places"),
        ("simplecache::ftp://me:word@host/run", "many places"),
        ("s4://bucket/run", "s4"),
    ):
        with pytest.raises(InputError, match=why):
            local_path(wrong)


def test_a_client_that_is_not_installed_is_named() -> None:
    script = "import sys; sys.modules['s3fs'] = None; from stillhouse.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "status", RUN], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "pip install 'stillhouse[scale]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("s3", "machine")
def test_no_bucket_and_no_run_are_told(recipe: Path) -> None:
    done = stillhouse("run", recipe, "--out", "s3://nobody/run", "--until", "texts")
    assert done.returncode == 1
    assert "s3://nobody/run cannot be written (The specified bucket does not exist)" in done.stderr
    done = stillhouse("status", "s3://bucket/nothing")
    assert done.returncode == 2
    assert "s3://bucket/nothing is not a run folder" in done.stderr


def test_completing_asks_no_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "stillhouse inspect s3://bucket/run att"
    asked = {"_STILLHOUSE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "3"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    done = subprocess.run([COMMAND], env=os.environ | asked, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["attributes"]
    assert done.stderr == ""


def test_what_is_no_run_is_not_written_to_a_url(tmp_path: Path) -> None:
    for command in (("inspect", tmp_path), ("report", tmp_path), ("instructions", "export", tmp_path)):
        done = stillhouse(*command, "--to", "s3://bucket/rows.csv", cwd=tmp_path)
        assert done.returncode == 2
        assert "only runs are kept in a storage" in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())
