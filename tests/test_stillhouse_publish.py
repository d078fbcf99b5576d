"""The command `publish` on a finished run, with the Hub's real clients, against a double of the Hub."""

import copy
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl
import pytest
import yaml

from stillhouse.store import RunFolder
from tests.conftest import COMMAND, stillhouse
from tests.hub_server import USERS, File, HubServer, Repository, serve_hub
from tests.publishing import check_refused, check_rows, loaded, rows_of

pytestmark = pytest.mark.xdist_group("offline")

NAME = "ann/moods"
WORDS = "A trial among <b>friends</b>"
WAIVER = ("--without-audit", WORDS)
MAIL = "ann.lee@post.example.org"
QUICK = "import time\nreally = time.sleep\ntime.sleep = lambda seconds: really(min(seconds, 0.01))\n"


@dataclass(frozen=True)
class Version:
    """A run that was published, what the command said, and the Hub afterwards."""

    run: Path
    told: str
    repositories: dict[tuple[str, str], Repository]
    storage: dict[str, bytes]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for runs and for the client's own files; who may write, and a client whose waits are short."""
    folder = tmp_path_factory.mktemp("publish")
    (folder / "quick").mkdir()
    (folder / "quick" / "sitecustomize.py").write_text(QUICK, encoding="utf-8")
    settings = {
        "HF_TOKEN": "hf_writer",
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder / "quick"), os.environ.get("PYTHONPATH")))),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture(scope="module")
def first(place: Path, offline_run: Path) -> Path:
    return Path(shutil.copytree(offline_run, place / "first"))


@pytest.fixture(scope="module")
def second(place: Path, first: Path) -> Path:
    """The run once more: all is kept, an address stands in one text and its answers, another one is a test text."""
    folder = RunFolder(Path(shutil.copytree(first, place / "second")))
    leak, mailed = texts_of_second(folder)
    added = pl.col("text") + f" Ask {MAIL}."
    texts, responses = folder.read_table("texts"), folder.read_table("responses")
    is_mailed = pl.col("text_id") == mailed["text_id"]
    folder.write_table("texts", texts.with_columns(text=pl.when(is_mailed).then(added).otherwise("text")))
    prompts = pl.col("prompt").str.replace(mailed["text"], f"{mailed['text']} Ask {MAIL}.", literal=True)
    outputs = pl.col("output") + f" {MAIL}"
    responses = responses.with_columns(
        pl.when(is_mailed).then(value).otherwise(name).alias(name)
        for name, value in (("prompt", prompts), ("output", outputs))
    )
    folder.write_table("responses", responses)
    (place / "test.jsonl").write_text(json.dumps({"text": leak["text"]}), encoding="utf-8")
    recipe = yaml.safe_load(folder.recipe_path.read_text(encoding="utf-8"))
    recipe["curation"]["rate"] = 1.0
    recipe["publish"]["leaks"] = {"evaluation": [{"path": str(place / "test.jsonl")}], "similarity": None}
    (place / "second.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = stillhouse("run", place / "second.yaml", "--out", folder.path, "--update")
    assert done.returncode == 0, done.stderr
    return folder.path


def texts_of_second(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the text that leaks and the one that gets an address: each has an answer that is valid."""
    valid = folder.read_table("responses").filter(pl.col("status") == "valid")
    return folder.read_table("texts").join(valid, on="text_id", how="semi").sort("text_id").head(2).to_dicts()


@pytest.fixture(scope="module")
def one(place: Path, first: Path) -> Version:
    """The first version, on the Hub."""
    with serve_hub() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        done = publish(first, *WAIVER, "--tag", "v1", "--message", "First of all")
        assert done.returncode == 0, done.stderr
        return Version(first, done.stdout.replace(server.url, "HUB"), server.repositories, server.storage)


@pytest.fixture
def server(place: Path, one: Version, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with the first version, whose errors repeat the token; nothing on disk has a token afterwards."""
    with serve_hub() as running:
        running.repositories, running.storage = copy.deepcopy(one.repositories), dict(one.storage)
        running.leaks = True
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
    files = [path for path in place.rglob("*") if path.is_file()]
    assert not [path for path in files for token in USERS if token.encode() in path.read_bytes()]


def publish(run: Path, *options: object, to: object = NAME) -> "CompletedProcess[str]":
    return stillhouse("publish", run, "--to", to, *options)


def published(run: Path, *options: object) -> str:
    """Publish, which has to end well; return what was said, without a token in it."""
    done = publish(run, *options)
    assert done.returncode == 0, done.stderr
    assert not [token for token in USERS if token in done.stdout + done.stderr]
    return done.stdout


def there(server: HubServer) -> Repository:
    return server.repositories["datasets", NAME]


def state(repository: Repository) -> tuple[Any, ...]:
    return repository.branches, repository.tags, list(repository.commits), repository.requests


def check_as_it_was(server: HubServer, one: Version) -> None:
    before = one.repositories["datasets", NAME]
    assert state(there(server)) == state(before)
    assert there(server).tree() == before.tree("v1")


def test_without_an_audit_nothing_leaves(server: HubServer, first: Path) -> None:
    server.repositories.clear()
    check_refused(publish(first), 1, "not audited", "no sample was drawn yet", "review status", "--without-audit")
    check_refused(publish(first, "--without-audit", " "), 1, "--without-audit")
    assert not server.asked


def test_what_is_published_is_what_the_run_has(server: HubServer, one: Version, tmp_path: Path) -> None:
    initial, made = there(server).commits
    files = [path for path in there(server).tree() if path != ".gitattributes"]
    assert one.told.endswith(f"HUB/datasets/{NAME} at {made[:12]}: {len(files)} files changed, private\n")
    assert (there(server).branches, there(server).tags) == ({"main": made}, {"v1": made})
    assert there(server).commits[made][:2] == (initial, "First of all")
    assert there(server).private
    card = there(server).tree()["README.md"].content.decode()
    assert "A trial among &#60;b&#62;friends&#60;/b&#62;" in card
    assert "Changes since" not in card
    rows, found = rows_of(one.run), loaded(NAME, "v1", tmp_path / "snapshot")
    assert set(found) == {"default", "rejected", "instructions", "perspectives"}
    train, test = found["default"]["train"], found["default"].get("test", [])  # none where all kept texts are train
    check_rows([*train, *test], rows.filter("kept"))
    assert not {row["text"] for row in train} & {row["text"] for row in test}
    check_rows(found["rejected"]["train"], rows.filter(~pl.col("kept")))
    for name in ("instructions", "perspectives"):
        assert found[name]["train"] == pl.read_parquet(one.run / f"{name}.parquet").to_dicts()
    check_rows(pl.read_parquet(tmp_path / "snapshot" / "default" / "*.parquet").to_dicts(), rows.filter("kept"))


def test_the_same_again_sends_nothing(server: HubServer, one: Version) -> None:
    assert "nothing has changed, so nothing was sent" in published(one.run, *WAIVER, "--tag", "v1")
    assert set(server.asked) <= {"info", "refs", "tree", "resolve"}
    check_as_it_was(server, one)


def test_a_second_version_leaves_the_first_and_has_nothing_private_and_no_leak(
    server: HubServer, one: Version, second: Path, tmp_path: Path
) -> None:
    leak, mailed = texts_of_second(RunFolder(one.run))
    published(second, *WAIVER, "--tag", "v2")
    assert there(server).tags == {**one.repositories["datasets", NAME].tags, "v2": there(server).branches["main"]}
    assert len(there(server).commits) == 3
    old, new = loaded(NAME, "v1", tmp_path / "v1"), loaded(NAME, "v2", tmp_path / "v2")
    rows = rows_of(second)
    check_rows([row for rows in old["default"].values() for row in rows], rows_of(one.run).filter("kept"))
    shown = {row["id"]: row for rows in new["default"].values() for row in rows}
    kept = rows.filter("kept", pl.col("text_id") != leak["text_id"])
    assert set(shown) == set(kept["id"])
    assert len(shown) > rows_of(one.run)["kept"].sum()
    mailed_rows = kept.filter(pl.col("text_id") == mailed["text_id"])
    assert len(mailed_rows)
    for row in mailed_rows.to_dicts():
        for name in ("text", "prompt", "completion"):
            assert MAIL in row[name]
            assert shown[row["id"]][name] == row[name].replace(MAIL, "[EMAIL]")
    left_out = [row for row in new["rejected"]["train"] if row["rejected_by"] == "leak"]
    assert {row["id"] for row in left_out} == set(rows.filter(pl.col("text_id") == leak["text_id"])["id"])
    words = json.dumps(new, ensure_ascii=False)
    assert json.dumps(leak["text"], ensure_ascii=False)[1:-1] in json.dumps(old, ensure_ascii=False)
    assert json.dumps(leak["text"], ensure_ascii=False)[1:-1] not in words
    tree = there(server).tree("v2")
    about = b"".join(file.content for path, file in tree.items() if not path.endswith((".parquet", ".png")))
    assert MAIL not in words
    assert not [part for part in (MAIL, leak["text"]) if part.encode() in about]
    changed = tree["README.md"].content.decode().partition("Changes since the last version")[2]
    assert "| curation.rate | 0.5 | 1.0 |" in changed
    assert f"| funnel.kept | {rows_of(one.run)['kept'].sum()} | {len(shown)} |" in changed
    before = state(there(server))
    assert "nothing has changed" in published(second, *WAIVER, "--tag", "v2")
    assert state(there(server)) == before
    check_refused(publish(one.run, *WAIVER, "--tag", "v2"), 2, "the tag v2 exists already", "give another one")


@pytest.mark.parametrize("to", [NAME, "ann/new"])
def test_a_dry_run_shows_what_would_be_and_changes_nothing(
    server: HubServer, one: Version, second: Path, to: str
) -> None:
    done = publish(second, *WAIVER, "--dry-run", to=to)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    kinds = ("new", "changed", "unchanged", "deleted")
    files = {line[0]: line[1:] for line in lines if len(line) == 3 and line[2] in kinds}
    made = {path.relative_to(second / "publish").as_posix(): path for path in (second / "publish").rglob("*.*")}
    gone = set(there(server).tree()) - set(made) - {".gitattributes"} if to == NAME else set()
    assert set(files) == set(made) | gone
    assert gone or to != NAME
    assert files["README.md"] == [f"{made['README.md'].stat().st_size:,}", "changed" if to == NAME else "new"]
    assert (second / "publish" / "README.md").read_text(encoding="utf-8") in done.stdout
    assert set(server.repositories) == {("datasets", NAME)}
    assert not {"create", "card", "preupload", "upload", "commit"} & set(server.asked)
    check_as_it_was(server, one)


def test_a_pull_request_leaves_the_branch(server: HubServer, one: Version, second: Path) -> None:
    told = published(second, *WAIVER, "--pull-request")
    assert f"pull request {server.url}/datasets/{NAME}/discussions/1" in told
    before = one.repositories["datasets", NAME]
    assert (there(server).branches, there(server).tags) == (before.branches, before.tags)
    proposed = there(server).tree("refs/pr/1")
    assert proposed["README.md"].content == (second / "publish" / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", ("there is no token", "hf auth login")),
        ("hf_" + "wrong" * 7, ("the token is not accepted", "hf auth login")),
        ("hf_reader", ("the token may not do that", "/settings/tokens")),
    ],
)
def test_a_token_that_will_not_do(
    server: HubServer, one: Version, second: Path, monkeypatch: pytest.MonkeyPatch, token: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    done = publish(second, *WAIVER, "--tag", "v2")
    check_refused(done, 2, NAME, *words)
    assert not token or token not in done.stdout + done.stderr
    check_as_it_was(server, one)


def test_somebody_else_in_between(server: HubServer, second: Path) -> None:
    server.faults["commit"] = [2.0]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(publish, second, *WAIVER, "--tag", "v2")
        while not server.asked["commit"] and not waiting.done():
            time.sleep(0.01)
        with server.lock:
            tree = {**there(server).tree(), "theirs.csv": File(b"1", False)}
            theirs = there(server).branches["main"] = there(server).add(there(server).branches["main"], "x", tree)
        done = waiting.result()
    check_refused(done, 1, "somebody else has published in between", "run the same again")
    assert there(server).branches == {"main": theirs}
    assert set(there(server).tags) == {"v1"}


def test_a_cut_upload_goes_on_with_the_same_command(server: HubServer, one: Version, second: Path) -> None:
    server.faults["upload"] = [0.0, *["cut"] * 30]
    done = publish(second, *WAIVER, "--tag", "v2")
    check_refused(done, 1, "does not answer", "the old version is as it was", "run the same again")
    check_as_it_was(server, one)
    server.faults.clear()
    published(second, *WAIVER, "--tag", "v2")
    there_now = {path: file.content for path, file in there(server).tree("v2").items() if path != ".gitattributes"}
    folder = second / "publish"
    assert there_now == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_ctrl_c_leaves_the_old_version_and_shows_no_address(server: HubServer, one: Version, second: Path) -> None:
    server.faults["upload"] = [1.0] * 5
    command = [COMMAND, "publish", str(second), "--to", NAME, *WAIVER, "--tag", "v2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        while not server.asked["upload"] and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        told, _ = process.communicate(timeout=60)
    check_refused(CompletedProcess(command, process.returncode, "", told), 1, "stopped", "run the same command again")
    assert "/storage/" not in told  # the client's warnings show signed addresses
    check_as_it_was(server, one)


@pytest.mark.parametrize("route", ["info", "resolve", "commit", "tag"])
def test_a_hub_that_fails(
    server: HubServer, one: Version, second: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, route: str
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # what the client has downloaded before is not there
    server.faults[route] = [503] * 40
    done = publish(second, *WAIVER, "--tag", "v2")
    check_refused(done, 1, NAME, "does not answer", "run the same again")
    if route == "tag":
        assert set(there(server).tags) == {"v1"}
    else:
        check_as_it_was(server, one)


def test_a_slow_hub_is_waited_for(server: HubServer, second: Path) -> None:
    server.faults = {route: [0.3] for route in ("info", "refs", "tree", "card", "preupload", "commit", "tag")}
    published(second, *WAIVER, "--tag", "v2")
    assert set(there(server).tags) == {"v1", "v2"}
    assert not any(server.faults.values())
