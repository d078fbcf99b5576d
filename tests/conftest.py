"""Shared parts, each made once: real models, a real tiny run with the offline teacher, endpoints, a browser."""

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import yaml
from filelock import FileLock

from stillhouse.job import quiet_libraries

# Each test process, and what it starts, gives its models a share of the processors: threads that wait for each other
# while somebody else has the processor take up to ten times as long.
if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))
quiet_libraries()

from curation.audit.local_server import Account, LocalServer, install, running  # noqa: E402
from pipelines.calls import UnusableAnswerError  # noqa: E402
from stillhouse.encoder import Encoder, load_encoder  # noqa: E402
from stillhouse.models import load_causal_lm  # noqa: E402
from stillhouse.sections import OFFLINE_ENCODER, OFFLINE_LLM  # noqa: E402
from tests.teacher_server import MODEL, TeacherServer, serve_teacher  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Value = TypeVar("Value")
ROOT = Path(__file__).parent.parent
DEMO_TEXTS = ROOT / "recipes" / "demo_texts.jsonl"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COMMAND = str(Path(sys.executable).parent / "stillhouse")


def stillhouse(*arguments: object, cwd: Path | None = None, timeout: float = 600) -> "subprocess.CompletedProcess[str]":
    """Run the real command in a process of its own."""
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False)


def in_process(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process: it does and prints the same, without the seconds that a start takes."""
    from stillhouse.cli import main

    out, fault = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(fault):
        patch.setattr(sys, "argv", ["stillhouse", *map(str, arguments)])
        patch.chdir(cwd or Path.cwd())
        with pytest.raises(SystemExit) as left:
            main()
    return subprocess.CompletedProcess(arguments, int(left.value.code or 0), out.getvalue(), fault.getvalue())


def write_recipe(folder: Path, **sections: Any) -> Path:
    """Write a small recipe into `folder`; `sections` are merged over its defaults."""
    recipe: dict[str, Any] = {
        "name": "tiny",
        "texts": {"sources": [{"path": str(DEMO_TEXTS), "domain_column": "domain", "licence": "CC0-1.0", "limit": 14}]},
        "attributes": {"per_text": 2, "min_share": 0.0},
        "perspectives": {"max_count": 2},
        "instructions": {"examples": 2, "demo_calls": 1, "analysis_per_perspective": 1},
        "responses": {"samples": 24},
        "curation": {"rate": 0.5},
        "publish": {"licence": "CC0-1.0"},
    }
    for section, content in sections.items():
        merge = isinstance(content, dict) and isinstance(recipe.get(section), dict)
        recipe[section] = {**recipe[section], **content} if merge else content
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def outcome(read: Callable[[], Value]) -> tuple[Value | None, str]:
    """Return what `read` gives, or the reason of its refusal."""
    try:
        return read(), ""
    except UnusableAnswerError as reason:
        return None, str(reason)


def published_names() -> tuple[list[str], list[int], list[str]]:
    """Return the published attribute names, their counts and the numbers of their clusters."""
    with (ROOT / "tests" / "data" / "attribute_names.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ([row[key] for row in rows] for key in ("name", "count", "cluster_id"))
    names, counts, clusters = columns
    return names, [int(count) for count in counts], clusters


def endpoint_teacher(server: TeacherServer) -> dict[str, str]:
    """Return the recipe's teacher section for the test endpoint."""
    return {"backend": "endpoint", "base_url": server.base_url, "model": MODEL, "api_key_env": "TEACHER_KEY"}


@pytest.fixture
def teacher_server() -> Iterator[TeacherServer]:
    with serve_teacher() as server:
        yield server


@pytest.fixture(scope="session")
def student() -> tuple[Any, Any]:
    return load_causal_lm(OFFLINE_LLM, None, "cpu")


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder(OFFLINE_ENCODER, "cpu")


@pytest.fixture(scope="session")
def offline_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A finished run folder: the whole job with the embedded teacher, made once for all test processes.

    One request at a time, and one thread, so that it is the same run every time: in a batch, or by several threads,
    logits are rounded otherwise.
    """

    def make(folder: Path) -> "subprocess.CompletedProcess[str]":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            return _run(write_recipe(folder, runtime={"concurrency": 1}), folder)

    return _made_once("offline", tmp_path_factory, worker_id, make)


@pytest.fixture(scope="session")
def answered_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A run up to its responses, answered by the test endpoint, made once for all test processes."""

    def make(folder: Path) -> "subprocess.CompletedProcess[str]":
        with serve_teacher() as server:
            return _run(write_recipe(folder, teacher=endpoint_teacher(server)), folder, "--until", "responses")

    return _made_once("answered", tmp_path_factory, worker_id, make)


def _run(recipe: Path, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return stillhouse("run", recipe, "--out", folder / "run", *options, timeout=850)


def _made_once(
    name: str,
    factory: pytest.TempPathFactory,
    worker_id: str,
    make: "Callable[[Path], subprocess.CompletedProcess[str]]",
) -> Path:
    base = factory.getbasetemp() if worker_id == "master" else factory.getbasetemp().parent
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not (folder / "result.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            done = make(folder)
            result = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["code"] == 0, result["err"]
    return folder / "run"


@pytest.fixture
def private_run(offline_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(offline_run, tmp_path / "run"))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def argilla_environment() -> Path:
    """The programs of a local Argilla server, installed once for all sessions of this checkout."""
    environment = ROOT / ".venv-argilla"
    install(environment)
    return environment


@pytest.fixture(scope="session")
def argilla_server(tmp_path_factory: pytest.TempPathFactory, argilla_environment: Path) -> Iterator[LocalServer]:
    """A real Argilla server with an empty database.

    Tests that use it are marked `xdist_group("argilla")`: one process has them all, and there is one server.
    """
    with running(tmp_path_factory.mktemp("argilla"), argilla_environment, free_port()) as server:
        yield server


@pytest.fixture(scope="session")
def argilla(argilla_server: LocalServer) -> Account:
    """The owner's account of a real Argilla server (see `argilla_server`)."""
    return argilla_server.account


@contextmanager
def chromium() -> "Iterator[Browser]":
    """A real browser. While it runs, no `asyncio.run` works in this process."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    quiet = ["quic", "gpu", "background-networking", "component-update", "sync"]
    flags = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def browser() -> "Iterator[Browser]":
    """A real browser, for one test only (see `chromium`)."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    """A page in a fresh profile; anything it says, asks or fetches besides its own file fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    surprises: list[str] = []
    page.on("console", lambda message: surprises.append(message.text))
    page.on("pageerror", lambda error: surprises.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "blob:")) else surprises.append(request.url)
    )
    page.on("popup", lambda popup: surprises.append(popup.url))

    def agree(dialog: Any) -> None:
        if dialog.type != "beforeunload":
            surprises.append(dialog.message)
        dialog.accept()

    page.on("dialog", agree)
    yield page
    context.close()
    assert surprises == []
