"""Publishing with the Hub's real clients, against a double of the Hub."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from huggingface_hub import HfApi, constants

from hub_cards import hub
from hub_cards.folders import Change
from hub_cards.hub import Repo, plan, publish
from stillhouse.errors import InputError, RunError, StillhouseError
from tests.conftest import free_port
from tests.hub_server import File, HubServer, Repository, serve_hub

NAME = "ann/moods"
READ = """
import json, sys
from datasets import load_dataset
name, *wanted = sys.argv[1:]
found = []
for config, revision in (what.split("@") for what in wanted):
    loaded = load_dataset(name, config, revision=revision or None)
    found.append({split: rows.to_list() for split, rows in loaded.items()})
found.append({"test": list(load_dataset(name, split="test", streaming=True))})
print(json.dumps(found))
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub, and the token of one who may write there; waits are short."""
    really = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: really(min(seconds, 0.01)))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    with serve_hub() as running:
        yield running


@pytest.fixture
def repo(server: HubServer) -> Repo:
    return Repo(NAME, endpoint=server.url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "dataset")


def rows_of(version: int) -> dict[str, pl.DataFrame]:
    texts = [f"Text {number} of version {version}, as nobody else would say it." for number in range(40)]
    table = pl.DataFrame({"prompt": texts, "completion": [f"mood {len(text)}" for text in texts]})
    table = table.with_columns(messages=pl.concat_list(pl.struct(role=pl.lit("user"), content=pl.col("prompt"))))
    return {"default/train": table.head(30), "default/test": table.slice(30), "rejected/train": table.head(3)}


def write_folder(folder: Path, version: int = 1, extra: int = 0) -> Path:
    """Write a dataset folder as `hub_cards.dataset` does; `extra` bytes make a large file."""
    tables = rows_of(version)
    if version > 1:
        tables.pop("rejected/train")
    configs: dict[str, list[dict[str, str]]] = {}
    for name, rows in tables.items():
        config, split = name.split("/")
        path = f"{name}-{version}.parquet"
        configs.setdefault(config, []).append({"split": split, "path": path})
        (folder / config).mkdir(parents=True, exist_ok=True)
        rows.write_parquet(folder / path)
    layout = [{"config_name": config, "data_files": files} for config, files in configs.items()]
    card = {"license": "cc0-1.0", "configs": layout}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n\n# Moods, version {version}\n", "utf-8")
    (folder / "facts.json").write_text(json.dumps({"version": version}), "utf-8")
    (folder / "recipe.yaml").write_text("name: moods\n", "utf-8")
    if extra:
        (folder / "vectors.safetensors").write_bytes(bytes(range(256)) * (extra // 256) + str(version).encode())
    return folder


def there(server: HubServer) -> Repository:
    return server.repositories["datasets", NAME]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def contents_there(server: HubServer, revision: str = "main") -> dict[str, bytes]:
    files = there(server).tree(revision)
    return {path: file.content for path, file in files.items() if path != ".gitattributes"}


def loaded(server: HubServer, home: Path, *wanted: str) -> list[dict[str, list[Any]]]:
    """Load CONFIG@REVISION with the real client, in a process of its own: it reads the Hub's address at its import."""
    kept = {name: os.environ[name] for name in ("PATH", "HF_TOKEN")}
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", READ, NAME, *wanted]
    done = subprocess.run(command, env=kept | settings, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, list[Any]]] = json.loads(done.stdout)
    return rows


def refused(call: Callable[[], Any], kind: type[StillhouseError]) -> str:
    """Return the message of a refusal; it has no token."""
    with pytest.raises(StillhouseError) as caught:
        call()
    assert type(caught.value) is kind, caught.value
    assert "hf_" not in str(caught.value).replace("HF_", "")
    return str(caught.value)


def test_what_is_published_is_what_load_dataset_gives_also_of_an_older_version(
    server: HubServer, repo: Repo, folder: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    write_folder(folder, extra=3_000_000)
    first = publish(folder, repo, tag="v1", report=lambda done, total: told.append((done, total)))
    assert first.url == f"{server.url}/datasets/{NAME}"
    assert (first.private, first.tag, {change.kind for change in first.changes}) == (True, "v1", {"new"})
    assert told == [(0, 7), (1, 7), (7, 7)]
    assert contents_there(server) == contents(folder)
    assert there(server).tags == {"v1": first.commit}
    assert there(server).notes == {"v1": "Version v1"}
    other = write_folder(tmp_path / "second", version=2)
    second = publish(other, repo, tag="v2", message="Shorter")
    kinds = {change.path: change.kind for change in second.changes}
    assert kinds["rejected/train-1.parquet"] == kinds["vectors.safetensors"] == "deleted"
    assert (kinds["README.md"], kinds["recipe.yaml"]) == ("changed", "unchanged")
    assert contents_there(server) == contents(other)
    assert there(server).commits[second.commit or ""][:2] == (first.commit, "Shorter")
    wanted = ("default@", "default@v1", "default@v2", f"default@{first.commit}", "rejected@v1")
    *versions, rejected, streamed = loaded(server, tmp_path / "home", *wanted)
    for rows, version in zip(versions, (2, 1, 2, 1), strict=True):
        expected = rows_of(version)
        assert rows == {split: expected[f"default/{split}"].to_dicts() for split in ("train", "test")}
    assert streamed == {"test": rows_of(2)["default/test"].to_dicts()}
    assert rejected == {"train": rows_of(1)["rejected/train"].to_dicts()}


def test_nothing_is_sent_where_nothing_has_changed(server: HubServer, repo: Repo, folder: Path) -> None:
    first = publish(folder, repo, tag="v1")
    server.asked.clear()
    again = publish(folder, repo, tag="v1")
    assert (again.changed, again.commit, again.tag) == (False, first.commit, "v1")
    assert server.asked == {"info": 1, "refs": 1, "tree": 1}
    assert len(there(server).commits) == 2
    assert publish(folder, repo, tag="v1.0").commit == first.commit
    assert there(server).tags == {"v1": first.commit, "v1.0": first.commit}


def test_only_what_has_changed_is_sent(server: HubServer, repo: Repo, folder: Path) -> None:
    publish(write_folder(folder, extra=2_000_000), repo)
    server.asked.clear()
    (folder / "recipe.yaml").write_text("name: other\n", "utf-8")
    changed = publish(folder, repo)
    assert [change for change in changed.changes if change.kind != "unchanged"] == [
        Change("recipe.yaml", 12, "changed")
    ]
    assert server.asked["upload"] == server.asked["batch"] == server.asked["card"] == 0
    assert contents_there(server) == contents(folder)


def test_a_tag_that_is_taken_stops_before_anything_is_sent(server: HubServer, repo: Repo, folder: Path) -> None:
    first = publish(folder, repo, tag="v1")
    write_folder(folder, version=3)
    server.asked.clear()
    message = refused(lambda: publish(folder, repo, tag="v1"), InputError)
    assert (first.commit or "")[:8] in message
    assert "give another" in message
    assert server.asked == {"info": 1, "refs": 1, "tree": 1}
    assert there(server).branches == {"main": first.commit}


def test_a_plan_writes_nothing(server: HubServer, repo: Repo, folder: Path, tmp_path: Path) -> None:
    assert {change.kind for change in plan(folder, repo)} == {"new"}
    assert not server.repositories
    publish(folder, repo)
    before = there(server).branches
    write_folder(folder, version=2)
    (folder / "rejected" / "train-1.parquet").unlink()
    server.asked.clear()
    server.page_size = 3
    kinds = {change.path: change.kind for change in plan(folder, repo)}
    assert kinds["default/train-2.parquet"] == "new"
    assert kinds["default/train-1.parquet"] == "unchanged"
    assert kinds["rejected/train-1.parquet"] == "deleted"
    assert (there(server).branches, set(server.asked)) == (before, {"info", "refs", "tree"})
    assert {change.kind for change in plan(folder, tmp_path / "copy")} == {"new"}
    assert not (tmp_path / "copy").exists()


def test_private_by_default_and_public_on_request(server: HubServer, repo: Repo, folder: Path) -> None:
    assert publish(folder, repo).private
    with pytest.raises(Exception, match="401"):
        HfApi(endpoint=server.url, token=False).dataset_info(NAME)
    public = Repo("ann/open", endpoint=server.url)
    assert not publish(folder, public, private=False).private
    assert HfApi(endpoint=server.url, token=False).dataset_info("ann/open").private is False


def test_a_model_may_have_the_name_of_a_dataset(server: HubServer, repo: Repo, folder: Path, tmp_path: Path) -> None:
    publish(folder, repo)
    student = tmp_path / "student"
    student.mkdir()
    for name, content in {
        "README.md": b"# Student",
        "facts.json": b"{}",
        "model.safetensors": b"w" * 2_000_000,
    }.items():
        (student / name).write_bytes(content)
    model = Repo(NAME, "model", endpoint=server.url)
    assert publish(student, model, tag="v1").url == f"{server.url}/{NAME}"
    assert set(server.repositories["models", NAME].tree("v1")) == {".gitattributes", *contents(student)}
    assert contents_there(server) == contents(folder)


def test_a_branch_of_its_own(server: HubServer, repo: Repo, folder: Path) -> None:
    first = publish(folder, repo, tag="v1")
    draft = Repo(NAME, branch="draft/2", endpoint=server.url)
    second = publish(write_folder(folder, version=2), draft)
    assert there(server).branches == {"main": first.commit, "draft/2": second.commit}
    assert "v1 is a tag" in refused(lambda: publish(folder, Repo(NAME, branch="v1", endpoint=server.url)), InputError)


def test_a_pull_request_leaves_the_branch_as_it_is(
    server: HubServer, repo: Repo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no branch main" in refused(lambda: publish(folder, repo, pull_request=True), InputError)
    first = publish(folder, repo, private=False)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    write_folder(folder, version=2)
    asked = publish(folder, repo, pull_request=True)
    assert asked.pull_request == f"{server.url}/datasets/{NAME}/discussions/1"
    assert there(server).branches == {"main": first.commit}
    assert contents_there(server, "refs/pr/1") == contents(folder)
    assert "no tag before" in refused(lambda: publish(folder, repo, pull_request=True, tag="v2"), InputError)


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("", "there is no token; log in with `hf auth login`"),
        ("hf_wrong", "not accepted"),
        ("hf_reader", "right to write"),
        ("hf_stranger", "right to write"),
    ],
)
def test_a_token_that_will_not_do(
    server: HubServer, repo: Repo, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str, says: str
) -> None:
    first = publish(folder, repo, private=False)
    write_folder(folder, version=2)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    server.leaks = True
    assert says in refused(lambda: publish(folder, repo), InputError)
    assert there(server).branches == {"main": first.commit}
    assert server.asked["upload"] == 3  # of the first version


def test_no_right_to_make_a_repository_and_a_gated_one(
    server: HubServer, repo: Repo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(folder, repo)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert "right to write" in refused(lambda: publish(folder, repo), InputError)  # private: not to be seen
    there(server).private, there(server).gated = False, True
    assert "restricted" in refused(lambda: publish(folder, repo), InputError)


@pytest.mark.parametrize("name", ["moods", "a/b/c", "ann/mo--ods", "ann/moods.git", "", "ann/m oods"])
def test_what_is_no_repository(name: str) -> None:
    assert "repository" in refused(lambda: Repo(name), InputError)


@pytest.mark.parametrize("tag", ["v 1", "", "../x", "v1.lock", "-v", "v1/"])
def test_what_is_no_tag(server: HubServer, repo: Repo, folder: Path, tag: str) -> None:
    assert "no name of a tag" in refused(lambda: publish(folder, repo, tag=tag), InputError)
    assert not server.asked


def test_a_card_that_the_hub_refuses_stops_before_anything_is_sent(server: HubServer, repo: Repo, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: free beer\n---\n", "utf-8")
    assert "license" in refused(lambda: publish(folder, repo), InputError)
    (folder / "README.md").write_text("---\nlicense: [\n---\n", "utf-8")
    assert "YAML" in refused(lambda: publish(folder, repo), InputError)
    assert not server.repositories


def test_files_of_others_are_not_deleted(server: HubServer, repo: Repo, folder: Path) -> None:
    HfApi(endpoint=server.url, token="hf_writer").create_repo(NAME, repo_type="dataset")  # noqa: S106
    HfApi(endpoint=server.url, token="hf_writer").upload_file(  # noqa: S106
        path_or_fileobj=b"years of work", path_in_repo="work.csv", repo_id=NAME, repo_type="dataset"
    )
    assert "work.csv" in refused(lambda: publish(folder, repo), InputError)
    assert list(there(server).tree()) == [".gitattributes", "work.csv"]


def test_what_is_not_a_finished_folder(repo: Repo, folder: Path, tmp_path: Path) -> None:
    (folder / "facts.json").unlink()
    assert "no facts.json" in refused(lambda: publish(folder, repo), InputError)
    assert "no README.md and no facts.json" in refused(lambda: plan(tmp_path / "nothing", repo), InputError)


def test_hidden_files_and_tokens_are_not_published(server: HubServer, repo: Repo, folder: Path) -> None:
    (folder / ".env").write_text("HF_TOKEN=hf_writer", "utf-8")
    publish(folder, repo)
    assert ".env" not in there(server).tree()
    (folder / "recipe.yaml").write_text("key: hf_writer", "utf-8")
    assert "recipe.yaml has your token in it" in refused(lambda: publish(folder, repo), InputError)
    assert not any(b"hf_writer" in file.content for file in there(server).tree().values())
    assert server.tokens_in_storage == 0


def test_a_cut_upload_leaves_the_old_version_and_goes_on_where_it_was(
    server: HubServer, repo: Repo, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = publish(folder, repo, tag="v1")
    old = contents_there(server)
    write_folder(folder, version=2, extra=3_000_000)
    (folder / "weights.safetensors").write_bytes(b"w" * 2_000_000)
    server.asked.clear()
    server.faults["upload"] = [0.0, *["cut"] * 6]  # the first large file arrives, the second is cut each time
    message = refused(lambda: publish(folder, repo, tag="v2"), RunError)
    assert "run the same again" in message
    assert (there(server).branches, contents_there(server)) == ({"main": first.commit}, old)
    assert server.asked["upload"] == 7
    server.asked.clear()
    publish(folder, repo, tag="v2")
    assert server.asked["upload"] == 3  # the second large file and two new small ones
    assert contents_there(server) == contents(folder)
    assert contents_there(server, "v1") == old
    assert capfd.readouterr() == ("", "")


def test_a_killed_upload_goes_on_where_it_was(server: HubServer, repo: Repo, folder: Path) -> None:
    first = publish(folder, repo)
    write_folder(folder, version=2, extra=3_000_000)
    (folder / "weights.safetensors").write_bytes(b"w" * 2_000_000)
    server.asked.clear()
    server.faults["upload"] = [500, 0.0, 30.0]
    code = "import sys; from pathlib import Path; from hub_cards.hub import Repo, publish; "
    code += "publish(Path(sys.argv[1]), Repo(sys.argv[2], endpoint=sys.argv[3]))"
    settings = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", code, str(folder), NAME, server.url]
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as publisher:
        while server.asked["upload"] < 3 and publisher.poll() is None:
            time.sleep(0.01)
        publisher.kill()
        said, _ = publisher.communicate()
    assert said == b""  # no warning of the client: it would show a signed address
    assert there(server).branches == {"main": first.commit}
    server.asked.clear()
    server.faults.clear()
    publish(folder, repo)
    assert server.asked["upload"] == 3
    assert contents_there(server) == contents(folder)


def test_large_files_go_in_parts(server: HubServer, repo: Repo, folder: Path) -> None:
    server.part_size = 1_000_000
    server.faults["upload"] = [0.0, "cut", 500]
    publish(write_folder(folder, extra=12_000_000), repo)
    assert server.asked["complete"] == 1
    assert server.asked["upload"] == 13 + 2 + 3  # parts, those again that failed, and the small files
    assert contents_there(server) == contents(folder)


ROUTES = ("info", "refs", "tree", "create", "card", "preupload", "batch", "upload", "commit", "tag")


@pytest.mark.parametrize("fault", ["cut", "lost", 500, 503, 429])
def test_faults_that_pass_are_passed_over(server: HubServer, repo: Repo, folder: Path, fault: int | str) -> None:
    server.faults = {route: [fault] for route in ROUTES}
    made = publish(folder, repo, tag="v1")
    assert contents_there(server) == contents(folder)
    assert there(server).tags == {"v1": made.commit}
    assert there(server).branches == {"main": made.commit}
    assert len(there(server).commits) == 2
    assert not any(server.faults.values())


def test_a_commit_that_fails_for_good_leaves_the_old_version(server: HubServer, repo: Repo, folder: Path) -> None:
    first = publish(folder, repo)
    write_folder(folder, version=2)
    server.faults["commit"] = ["cut"] * hub.ATTEMPTS
    assert "does not answer" in refused(lambda: publish(folder, repo, tag="v2"), RunError)
    assert (there(server).branches, there(server).tags) == ({"main": first.commit}, {})
    server.asked.clear()
    publish(folder, repo, tag="v2")
    assert server.asked["upload"] == 0
    assert contents_there(server) == contents(folder)


def test_a_tag_that_fails_is_made_by_the_next_call(server: HubServer, repo: Repo, folder: Path) -> None:
    server.faults["tag"] = [503] * hub.ATTEMPTS
    refused(lambda: publish(folder, repo, tag="v1"), RunError)
    again = publish(folder, repo, tag="v1")
    assert (again.changed, there(server).tags) == (False, {"v1": again.commit})
    assert len(there(server).commits) == 2


def test_another_publisher_in_between(server: HubServer, repo: Repo, folder: Path, tmp_path: Path) -> None:
    publish(folder, repo)
    theirs = write_folder(tmp_path / "theirs", version=3)
    write_folder(folder, version=2)

    def come_between(done: int, total: int) -> None:
        publish(theirs, repo, tag="v3")

    message = refused(lambda: publish(folder, repo, tag="v2", report=come_between), RunError)
    assert "somebody else has published in between" in message
    assert contents_there(server) == contents(theirs)
    assert set(there(server).tags) == {"v3"}
    publish(folder, repo, tag="v2")
    assert contents_there(server) == contents(folder)
    taken = "in between; run the same again with another tag"
    write_folder(folder, version=4)
    take = lambda done, total: there(server).tags.update(v4="0" * 40)  # noqa: E731
    assert taken in refused(lambda: publish(folder, repo, tag="v4", report=take), RunError)


def test_a_repository_that_ignores_a_file(server: HubServer, repo: Repo, folder: Path) -> None:
    publish(folder, repo)
    there(server).tree()[".gitignore"] = File(b"*.yaml", False)
    (folder / "recipe.yaml").write_text("name: other", "utf-8")
    message = refused(lambda: publish(folder, repo, tag="v2"), RunError)
    assert "recipe.yaml" in message
    assert ".gitignore" in message
    assert not there(server).tags


def test_a_slow_server_and_a_silent_one(
    server: HubServer, repo: Repo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults = {route: [0.2] for route in ROUTES}
    publish(folder, repo)
    monkeypatch.setattr(hub, "TIMEOUT", 0.1)
    server.faults = {"tree": [0.3] * 6}
    assert "does not answer" in refused(lambda: publish(folder, repo), RunError)
    server.faults = {"refs": [0.3] * hub.ATTEMPTS}
    assert "does not answer" in refused(lambda: publish(folder, repo), RunError)


def test_no_server_and_no_network(server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Repo(NAME, endpoint=f"http://127.0.0.1:{free_port()}")
    assert "run the same again later" in refused(lambda: publish(folder, away), RunError)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(lambda: plan(folder, away), InputError)


def test_a_folder_as_the_target(folder: Path, tmp_path: Path) -> None:
    copy, told = tmp_path / "published" / "moods", []
    made = publish(folder, copy, report=lambda done, total: told.append((done, total)))
    assert (made.url, made.changed, told[0], told[-1]) == (str(copy), True, (0, 6), (6, 6))
    assert contents(copy) == contents(folder)
    before = (copy / "README.md").stat().st_mtime_ns
    assert not publish(folder, copy).changed
    assert (copy / "README.md").stat().st_mtime_ns == before
    write_folder(folder, version=2)
    (folder / "rejected" / "train-1.parquet").unlink()
    publish(folder, copy)
    assert contents(copy) == contents(folder)
    assert [path.name for path in copy.parent.iterdir()] == ["moods"]


def test_a_folder_that_is_not_ours(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work", "utf-8")
    for target in (mine, mine / "thesis.txt", folder, folder / "inner", tmp_path):
        refused(lambda to=target: publish(folder, to), InputError)  # type: ignore[misc]
    assert "no tags" in refused(lambda: publish(folder, tmp_path / "new", tag="v1"), InputError)
    copy = Path(publish(folder, tmp_path / "copy").url)
    (copy / ".git").mkdir()
    (folder / "recipe.yaml").write_text("name: other", "utf-8")
    assert ".git" in refused(lambda: publish(folder, copy), InputError)


def test_a_full_disk_leaves_the_old_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(publish(folder, tmp_path / "copy").url)
    old = contents(copy)
    write_folder(folder, version=2)

    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr("shutil.copyfile", fail)
    assert "No space left" in refused(lambda: publish(folder, copy), RunError)
    assert contents(copy) == old
    assert not list(tmp_path.glob(".*"))
