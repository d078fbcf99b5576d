"""What can go wrong between us and an Argilla server, with real servers: nothing is lost, and every cause is told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import argilla as sdk
import numpy as np
import polars as pl
import psutil
import pytest

from curation.audit import argilla as in_argilla
from curation.audit.argilla import Argilla, Batch
from curation.audit.local_server import Account, LocalServer, add_annotator, running
from curation.audit.questions import VERDICTS
from curation.audit.records import Part, Record
from stillhouse.errors import InputError, RunError
from stillhouse.reviewing import apply_findings, pull_answers, push_round
from stillhouse.store import RunFolder
from tests.annotating import Given, dataset_id, give, records_at, request, sample_of
from tests.audit_run import audited_run
from tests.conftest import free_port, in_process

pytestmark = pytest.mark.xdist_group("argilla")

WORKSPACE = "faults"


def records(count: int, version: str = "v1") -> list[Record]:
    return [
        Record(
            sample_id=f"s{number:05}",
            version=version,
            parts=(Part(f"The kettle number {number} "), Part("leaks", marked=True), Part(".")),
            instruction="Judge the tone of this text.",
            form="Answer with one of: negative, positive.",
            answer="negative" if number % 3 else "positive",
            items=(),
            fields=(),
            perspective=f"tone {number % 7}",
            task_type="classification",
            domain="review",
            difficulty=number / count,
            stratum="all rows",
            population="kept",
            answers=1,
        )
        for number in range(count)
    ]


def connected(account: Account) -> Argilla:
    return Argilla(account.url, account.api_key, WORKSPACE)


def ids_at(account: Account, name: str) -> Counter[str]:
    return Counter(item["external_id"] for item in records_at(account, name, WORKSPACE))


def ids_of(batch: Sequence[Record]) -> Counter[str]:
    return Counter(f"{record.sample_id}-{record.version}" for record in batch)


def kill_at(server: LocalServer, number: int) -> Callable[[int], None]:
    """Return a report of progress that kills all programs of the server at a number of records."""

    def report(done: int) -> None:
        if done >= number:
            for program in server.programs:
                if program.process.poll() is None:  # what has arrived by then is reported too
                    os.killpg(program.process.pid, signal.SIGKILL)
                    program.process.wait()

    return report


def test_a_killed_server_costs_nothing(
    argilla_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (tmp_path, argilla_environment, free_port())
    batch = Batch("killed", records(600), 1)
    monkeypatch.setattr(in_argilla, "PATIENCE", 1)
    monkeypatch.setattr(in_argilla, "PAGE", 100)
    with running(*place) as server:
        start = time.monotonic()
        with pytest.raises(RunError, match=r"push killed: .* once it is up again, the same command goes on"):
            connected(server.account).push(batch, {}, kill_at(server, 200))
        assert time.monotonic() - start < 40
    with running(*place) as server:
        there = ids_at(server.account, "killed")
        assert 200 <= len(there) <= 300
        client = connected(server.account)
        assert client.push(batch, {}) == 600 - len(there)
        assert client.push(batch, {}) == 0
        assert ids_at(server.account, "killed") == ids_of(batch.records)
        answered = answer_some(server)
        with pytest.raises(RunError, match=r"pull killed: .* once it is up again, the same command goes on"):
            client.pull("killed", batch.records, kill_at(server, 250))
    monkeypatch.setattr(in_argilla, "PATIENCE", 60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.pull, "killed", batch.records)  # nobody is there yet
        with running(*place) as server:
            answers = waiting.result(60)
            assert ids_at(server.account, "killed") == ids_of(batch.records)
    assert answers is not None
    assert {answer.sample_id: (answer.annotator, answer.status, answer.verdict) for answer in answers} == answered
    assert len(answers) == len(answered)


def answer_some(server: LocalServer) -> dict[str, tuple[str, str, str | None]]:
    """Let an annotator answer every tenth record, and discard two as a program may: without any values."""
    ann = add_annotator(server, WORKSPACE, "ann")
    items = sorted(records_at(server.account, "killed", WORKSPACE), key=sample_of)
    give(ann, [(item["id"], Given("submitted", "correct")) for item in items[::10]])
    bare = [{"record_id": item["id"], "status": "discarded"} for item in items[1:3]]
    done = request(ann, "POST", "/api/v1/me/responses/bulk", json={"items": bare})
    assert [item["error"] for item in done["items"]] == [None, None]
    given = {sample_of(item): ("ann", "submitted", "correct") for item in items[::10]}
    return given | {sample_of(item): ("ann", "discarded", None) for item in items[1:3]}


def test_a_key_without_rights_is_told(argilla: Account, argilla_server: LocalServer) -> None:
    connected(argilla).push(Batch("rights", records(3), 1), {})
    ann = add_annotator(argilla_server, WORKSPACE, "ann")
    remedy = "the user of this API key may not do that in the workspace faults .* Use the key of an owner"
    with pytest.raises(InputError, match=remedy):
        connected(ann).push(Batch("rights-of-others", records(3), 1), {})
    with pytest.raises(InputError, match=remedy):
        connected(ann).push(Batch("rights", records(4), 1), {})
    with pytest.raises(InputError, match=remedy):
        connected(ann).pull("rights", records(3))
    with pytest.raises(InputError, match="does not know this API key; an owner's or admin's key is needed"):
        Argilla(argilla.url, "no-such-key", WORKSPACE)
    assert ids_at(argilla, "rights") == ids_of(records(3))


@contextmanager
def another_server(status: int, body: bytes) -> Iterator[str]:
    """A web server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the name is the base class's
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>a shop</html>"), (404, b"<html>not here</html>"), (200, b"{}"), (200, b"[]"), (503, b"later")],
)
def test_another_web_server_is_told(status: int, body: bytes) -> None:
    with another_server(status, body) as url, pytest.raises(RunError) as error:
        Argilla(url, "key", WORKSPACE)
    assert f"no Argilla server answers at {url} (" in str(error.value)
    assert "ARGILLA_API_URL or `review.url` is its whole address" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_address_without_a_scheme_is_told(argilla: Account) -> None:
    with pytest.raises(RunError, match="its whole address, as in http://localhost:6900"):
        Argilla(argilla.url.removeprefix("http://"), argilla.api_key, WORKSPACE)


@pytest.fixture
def run(tmp_path: Path, argilla: Account, monkeypatch: pytest.MonkeyPatch, workspace: str) -> RunFolder:
    """A small decided run; commands know the server."""
    monkeypatch.setenv("ARGILLA_API_URL", argilla.url)
    monkeypatch.setenv("ARGILLA_API_KEY", argilla.api_key)
    texts = [f"The kettle number {number} leaks on its own terms." for number in range(19)]
    return audited_run(tmp_path / "run", 100, texts, workspace=workspace, records=20, rejected=0)


@pytest.fixture
def workspace(request: pytest.FixtureRequest) -> str:
    """A workspace that only one test uses."""
    return str(request.node.name)[:60].strip("_")


def told(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """Return what a command wrote, where it ended as it should."""
    assert done.returncode == code, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


def reviews(run: RunFolder) -> pl.DataFrame:
    return pl.read_parquet(run.review_path / "reviews.parquet")


def answer_all(server: LocalServer, name: str, workspace: str, given: Given, count: int = 1000) -> None:
    ann = add_annotator(server, workspace, "ann")
    give(ann, [(item["id"], given) for item in records_at(server.account, name, workspace)[:count]])


def test_commands_say_what_to_do_and_go_on_later(
    run: RunFolder, argilla: Account, argilla_server: LocalServer, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGILLA_API_URL", f"http://127.0.0.1:{free_port()}")
    assert "no Argilla server answers at http://127.0.0.1:" in told(in_process("review", "push", run.path), 1)
    monkeypatch.setenv("ARGILLA_API_URL", argilla.url + "/")
    monkeypatch.setenv("ARGILLA_API_KEY", add_annotator(argilla_server, workspace, "ann").api_key)
    assert "Use the key of an owner" in told(in_process("review", "push", run.path), 2)
    monkeypatch.delenv("ARGILLA_API_KEY")
    assert "its key: set ARGILLA_API_KEY" in told(in_process("review", "push", run.path), 2)
    monkeypatch.setenv("ARGILLA_API_KEY", argilla.api_key)
    assert "Round 1: 20 records" in told(in_process("review", "push", run.path), 0)
    assert len(records_at(argilla, "audited-round-1", workspace)) == 20


def test_a_dataset_deleted_under_us_is_told_and_sent_again(
    run: RunFolder, argilla: Account, argilla_server: LocalServer, workspace: str
) -> None:
    push_round(run.path, {})
    answer_all(argilla_server, "audited-round-1", workspace, Given("submitted", "correct"), 5)
    assert pull_answers(run.path)["answered"] == 5
    before = reviews(run)
    delete(argilla, "audited-round-1", workspace)
    said = told(in_process("review", "pull", run.path), 2)
    assert f"audited-round-1: not at {argilla.url}, or not any more" in said
    assert f"`stillhouse review push {run.path}` sends its records again" in said
    assert reviews(run).equals(before)
    assert "20 sent" in told(in_process("review", "push", run.path), 0)
    assert pull_answers(run.path)["answered"] == 5
    answer_all(argilla_server, "audited-round-1", workspace, Given("submitted", "wrong"), 6)
    pull_answers(run.path)
    assert len(reviews(run)) == 11
    assert reviews(run).head(5).equals(before)


def delete(account: Account, name: str, workspace: str) -> None:
    request(account, "DELETE", f"/api/v1/datasets/{dataset_id(account, name, workspace)}")


def test_a_finished_round_may_be_deleted(
    run: RunFolder, argilla: Account, argilla_server: LocalServer, workspace: str
) -> None:
    push_round(run.path, {})
    answer_all(argilla_server, "audited-round-1", workspace, Given("submitted", "correct"))
    pull_answers(run.path)
    delete(argilla, "audited-round-1", workspace)
    push_round(run.path, {})
    answer_all(argilla_server, "audited-round-2", workspace, Given("submitted", "correct"), 7)
    assert pull_answers(run.path)["answered"] == 27
    assert reviews(run)["round"].to_list() == [1] * 20 + [2] * 7


def test_answers_pulled_before_a_fault_are_not_hidden_by_old_findings(
    run: RunFolder, argilla: Account, argilla_server: LocalServer, workspace: str
) -> None:
    push_round(run.path, {"annotators": 2, "overlap": 0.5})
    apply_findings(run.path)
    assert {"audit", "gates", "dataset"} <= run.manifest()["stages"].keys()
    names = ["audited-round-1", "audited-round-1-overlap"]
    if json_of(run)[0]["answers"] == 2:
        names.reverse()
    answer_all(argilla_server, names[0], workspace, Given("submitted", "correct"))
    delete(argilla, names[1], workspace)
    with pytest.raises(InputError, match=f"{names[1]}: not at"):
        pull_answers(run.path)
    assert len(reviews(run)) > 0
    assert not {"audit", "gates", "dataset"} & run.manifest()["stages"].keys()


def json_of(run: RunFolder) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((run.review_path / "round-1.json").read_text())
    return entries


def test_a_schema_changed_by_hand_is_told(argilla: Account) -> None:
    client = sdk.Argilla(argilla.url, argilla.api_key)
    connected(argilla).push(Batch("schema", records(2), 1), {})
    delete(argilla, "schema", WORKSPACE)
    settings = sdk.Settings(
        fields=[sdk.TextField("text"), sdk.TextField("answer")],
        questions=[
            sdk.TextQuestion("verdict"),
            sdk.MultiLabelQuestion("faults", ["a", "b"]),
            sdk.TextQuestion("correction"),
            sdk.TextQuestion("comment"),
        ],
    )
    sdk.Dataset("schema", WORKSPACE, settings, client).create()
    told_so = (
        r"the dataset schema at .* was changed by hand: verdict, rating, instruction is missing or of another type"
    )
    with pytest.raises(InputError, match=told_so):
        connected(argilla).push(Batch("schema", records(2), 1), {})
    with pytest.raises(InputError, match=told_so):
        connected(argilla).pull("schema", records(2))
    assert records_at(argilla, "schema", WORKSPACE) == []


def test_a_label_added_by_hand_does_not_count(
    run: RunFolder, argilla_server: LocalServer, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(in_argilla, "VERDICTS", {**VERDICTS, "maybe": "added by hand"})
        push_round(run.path, {})
    ann = add_annotator(argilla_server, workspace, "ann")
    first, second, *_ = records_at(argilla_server.account, "audited-round-1", workspace)
    give(ann, [(first["id"], Given("submitted", "maybe", rating=3)), (second["id"], Given("submitted", "correct"))])
    findings = pull_answers(run.path)
    assert (findings["not_counted"], findings["answered"], findings["error_rate"]["settled"]) == (1, 1, 1)
    (row,) = reviews(run).filter(pl.col("problem").is_not_null()).iter_rows(named=True)
    assert (row["sample_id"], row["annotator"], row["verdict"], row["rating"]) == (sample_of(first), "ann", None, 3)
    assert "audited-round-1, record" in row["problem"]
    assert "column verdict holds 'maybe'; allowed: correct, wrong, unclear" in row["problem"]


def test_a_dataset_with_other_records_is_not_touched(argilla: Account) -> None:
    connected(argilla).push(Batch("taken", records(5), 1), {})
    before = records_at(argilla, "taken", WORKSPACE)
    others = records(5, version="v2")  # the same samples, answered anew
    with pytest.raises(InputError, match=r"has records of something else; .* another `review.workspace`, or delete"):
        connected(argilla).push(Batch("taken", others, 1), {})
    assert connected(argilla).pull("taken", others) == []
    assert records_at(argilla, "taken", WORKSPACE) == before


def test_a_dataset_whose_making_was_interrupted_is_made_anew(argilla: Account) -> None:
    connected(argilla).push(Batch("other", records(1), 1), {})
    places = {place["name"]: place["id"] for place in request(argilla, "GET", "/api/v1/me/workspaces")["items"]}
    half = {"name": "half-made", "workspace_id": places[WORKSPACE]}
    draft = request(argilla, "POST", "/api/v1/datasets", json=half)
    field = {"name": "text", "title": "Text", "required": True, "settings": {"type": "text", "use_markdown": True}}
    request(argilla, "POST", f"/api/v1/datasets/{draft['id']}/fields", json=field)
    assert connected(argilla).push(Batch("half-made", records(3), 1), {}) == 3
    assert dataset_id(argilla, "half-made", WORKSPACE) != draft["id"]
    assert ids_at(argilla, "half-made") == ids_of(records(3))


def test_an_answer_taken_back_to_an_empty_draft_no_longer_counts(
    run: RunFolder, argilla_server: LocalServer, workspace: str
) -> None:
    push_round(run.path, {})
    answer_all(argilla_server, "audited-round-1", workspace, Given("submitted", "correct"), 3)
    assert pull_answers(run.path)["answered"] == 3
    answer_all(argilla_server, "audited-round-1", workspace, Given("draft"), 1)
    assert pull_answers(run.path)["answered"] == 2
    assert reviews(run)["status"].to_list() == ["submitted"] * 3 + ["draft"]


def check_volume(account: Account, name: str, count: int, dimensions: int) -> None:
    """Push and pull many records; print the rates."""
    memory, start, most = psutil.Process().memory_info().rss, time.monotonic(), 0

    def report(done: int) -> None:
        nonlocal most
        most = max(most, psutil.Process().memory_info().rss)

    batch = records(count)
    numbers = np.random.default_rng(0).normal(size=(count, dimensions)).astype(np.float32)
    vectors = dict(zip([record.sample_id for record in batch], numbers, strict=True))
    client = connected(account)
    assert client.push(Batch(name, batch, 1), vectors, report) == count
    pushed = time.monotonic()
    assert client.push(Batch(name, batch, 1), vectors, report) == 0
    seen: list[int] = []
    assert client.pull(name, batch, seen.append) == []
    pulled = time.monotonic()
    assert seen == list(range(1, count + 1))
    assert ids_at(account, name) == ids_of(batch)
    grown = (most - memory) / 2**20
    sys.stdout.write(
        f"{count:,} records: pushed at {count / (pushed - start):.0f}/s, a second push and a pull in "
        f"{pulled - pushed:.1f} s, {grown:.0f} MB more memory\n"
    )
    assert grown < 400


def test_many_records_go_there_and_back(argilla: Account) -> None:
    check_volume(argilla, "many", 1500, 8)


@pytest.mark.prove
def test_twenty_thousand_records_go_there_and_back(argilla: Account) -> None:
    check_volume(argilla, "very-many", 20_000, 384)
