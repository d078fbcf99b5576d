"""A real local Argilla server through the real command: it starts, is reached, ends, and comes back after a kill."""

import json
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import psutil
import pytest

from curation.audit import local_server
from curation.audit.local_server import LocalServer, add_annotator, install, missing, running
from stillhouse.errors import InputError, RunError
from tests.conftest import COMMAND, free_port, stillhouse

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("argilla")


@dataclass
class Up:
    """A running `stillhouse review up`, what it printed, and the programs it started."""

    process: "subprocess.Popen[str]"
    printed: str
    children: list[psutil.Process]

    def told(self, pattern: str) -> str:
        """Return what was printed at this place."""
        found = re.search(pattern, self.printed)
        assert found, self.printed
        return found.group(1)

    @property
    def password(self) -> str:
        """The owner's password."""
        return self.told("password: (.+)")

    @property
    def key(self) -> str:
        """The owner's key."""
        return self.told("ARGILLA_API_KEY=(.+)")

    def end(self, how: signal.Signals) -> tuple[int, str, str]:
        """Send a signal; return the exit code and what was written since."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def left_over(self) -> list[psutil.Process]:
        """Return the programs that outlive the command."""
        return list(psutil.wait_procs(self.children, timeout=10)[1])


@contextmanager
def up(*options: object) -> Iterator[Up]:
    command = [COMMAND, "review", "up", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "Ctrl-C" in line:
                    break
            assert lines, process.communicate()
            assert "Ctrl-C" in lines[-1], process.communicate()
            yield Up(process, "".join(lines), psutil.Process(process.pid).children(recursive=True))
        finally:
            process.kill()


def answer(port: int, method: str, path: str, body: str = "", **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def logs_in(port: int, name: str, password: str) -> bool:
    body = urlencode({"username": name, "password": password})
    status, _ = answer(port, "POST", "/api/v1/token", body, **{"Content-Type": "application/x-www-form-urlencoded"})
    return status == 201


def listening(processes: list[psutil.Process]) -> set[str]:
    found = [each.laddr.ip for one in processes for each in one.net_connections() if each.status == "LISTEN"]
    assert len(found) == 3, found
    return set(found)


def test_up_tells_how_to_log_in_and_ends_with_ctrl_c(
    argilla_environment: Path, browser: "Browser", tmp_path: Path
) -> None:
    port = free_port()
    given = ["--home", tmp_path / "home", "--environment", argilla_environment, "--port", port, "--annotator", "ann"]
    with up(*given) as server:
        url = f"http://127.0.0.1:{port}"
        assert f"export ARGILLA_API_URL={url}\n" in server.printed
        assert f"Argilla is up: {url}\nuser name: argilla\n" in server.printed
        status, me = answer(port, "GET", "/api/v1/me", **{"X-Argilla-Api-Key": server.key})
        assert status == 200
        assert b'"role":"owner"' in me
        assert listening(server.children) == {"127.0.0.1"}
        assert logs_in(port, "ann", server.told("annotator: ann, password: (.+)"))
        check_log_in(browser, url, server.password, tmp_path / "in.png")
        code, out, err = server.end(signal.SIGINT)
        assert (code, err) == (0, "")
        assert "its data stays in" in out
        assert server.left_over() == []
        check_private(tmp_path / "home", [server.password, server.key])


def check_log_in(browser: "Browser", url: str, password: str, picture: Path) -> None:
    page = browser.new_page()
    page.goto(url)
    page.locator("input[name=Username]").fill("argilla")
    page.locator("input[name=Password]").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Your datasets").wait_for()
    page.screenshot(path=picture)


def check_private(home: Path, secrets: list[str]) -> None:
    for path in [home / "accounts.json", home / "data" / "argilla.db"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    logs = "".join(path.read_text() for path in (home / "logs").iterdir())
    assert "Uvicorn running" in logs
    assert not [secret for secret in secrets if secret in logs]


def test_after_a_kill_the_next_up_has_the_data(argilla_environment: Path, tmp_path: Path) -> None:
    port = free_port()
    given = ["--home", tmp_path, "--environment", argilla_environment, "--port", port]
    with up(*given) as server:
        first = server.printed
        log_records(f"http://127.0.0.1:{port}", server.key)
        server.end(signal.SIGKILL)
        killed = server
    with up(*given) as server:
        assert killed.left_over() == []
        assert server.printed == first
        check_records(f"http://127.0.0.1:{port}", server.key)
        next(child for child in server.children if child.name() == "osmem-server").kill()
        _, err = server.process.communicate(timeout=60)
        assert server.process.returncode == 1
        assert f"osmem ended by itself. Its log {tmp_path / 'logs' / 'osmem.log'} ends with" in err
        assert server.left_over() == []


def log_records(url: str, key: str) -> None:
    from argilla import Argilla, Dataset, LabelQuestion, Settings, TextField

    client = Argilla(url, key)  # first: fields and questions look for one
    settings = Settings(fields=[TextField("text")], questions=[LabelQuestion("right", ["yes", "no"])])
    dataset = Dataset("animals", "argilla", settings, client).create()
    dataset.records.log([{"text": "a zebra"}, {"text": "a horse"}, {"text": "a donkey"}])
    assert found(dataset) == ["a zebra"]


def check_records(url: str, key: str) -> None:
    from argilla import Argilla

    client = Argilla(url, key)
    assert [each.name for each in client.datasets] == ["animals"]
    dataset = client.datasets("animals")
    assert len(list(dataset.records)) == 3
    assert found(dataset) == ["a zebra"]


def found(dataset: Any) -> list[str]:
    return [record.fields["text"] for record in dataset.records("zebra")]


def test_annotators_are_made_once(argilla_server: LocalServer) -> None:
    ann, again = (add_annotator(argilla_server, "two", "ann") for _ in range(2))
    ben = add_annotator(argilla_server, "two", "ben")
    port = int(ann.url.rpartition(":")[2])
    assert ann == again
    assert ann.password not in (ben.password, "")
    assert logs_in(port, "ann", ann.password)
    assert not logs_in(port, "ann", ben.password)
    status, me = answer(port, "GET", "/api/v1/me/workspaces", **{"X-Argilla-Api-Key": ann.api_key})
    assert status == 200
    assert b'"name":"two"' in me
    assert ann.password not in repr(ann)
    with pytest.raises(InputError, match="argilla is owner of this server"):
        add_annotator(argilla_server, "two", "argilla")


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    done = stillhouse("review", "up", "--home", tmp_path / "home", "--environment", tmp_path / "none")
    assert done.returncode == 2
    for part in [*local_server.PINS, "620 MB", f"stillhouse review up --install --environment {tmp_path / 'none'}"]:
        assert part in done.stderr
    assert not (tmp_path / "home").exists()


def test_a_taken_port_is_told(argilla_environment: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = stillhouse("review", "up", "--home", tmp_path, "--environment", argilla_environment, "--port", port)
    assert done.returncode == 2
    assert f"port {port} is taken; give another one with --port" in done.stderr


def test_a_second_up_on_the_same_home_is_refused(argilla_server: LocalServer, argilla_environment: Path) -> None:
    given = ["--home", argilla_server.home, "--environment", argilla_environment, "--port", free_port()]
    done = stillhouse("review", "up", *given)
    assert done.returncode == 1
    assert f"{argilla_server.home}: another `stillhouse review up` runs on it" in done.stderr
    assert answer(int(argilla_server.account.url.rpartition(":")[2]), "GET", "/api/v1/version")[0] == 200


def refused(home: Path, environment: Path) -> str:
    with pytest.raises(RunError) as error, running(home, environment, free_port()):
        pass
    assert [one for one in psutil.Process().children(recursive=True) if str(home) in one.cwd()] == []
    return str(error.value)


def test_a_program_that_dies_at_its_start_is_told(
    argilla_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(local_server, "_free_ports", lambda: (port, free_port()))
        message = refused(tmp_path, argilla_environment)
    assert f"valkey ended by itself. Its log {tmp_path / 'logs' / 'valkey.log'}" in message
    assert "Address already in use" in message


def test_a_damaged_database_is_told(argilla_environment: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "argilla.db").write_bytes(b"no database" * 1000)
    message = refused(tmp_path, argilla_environment)
    assert f"Argilla's database {tmp_path / 'data'} cannot be used" in message
    assert "file is not a database" in message


def test_the_owner_is_in_no_log_where_the_database_refuses(
    argilla_server: LocalServer, argilla_environment: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    database = tmp_path / "data" / "argilla.db"
    shutil.copy(argilla_server.home / "data" / "argilla.db", database)
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM users")
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, 'refused'); END")
    told = refused(tmp_path, argilla_environment) + (tmp_path / "logs" / "prepare.log").read_text()
    kept = json.loads((tmp_path / "accounts.json").read_text())["argilla"]
    assert "refused" in told
    assert "(key)" in told
    assert not [secret for secret in kept.values() if secret in told]


def test_a_path_that_argilla_cannot_use_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no % and no"), running(tmp_path / "50%", tmp_path, free_port()):
        pass


def test_accounts_of_another_database_are_told(
    argilla_server: LocalServer, argilla_environment: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(argilla_server.home / "data" / "argilla.db", tmp_path / "data")
    assert "accounts.json is not of the database" in refused(tmp_path, argilla_environment)


def test_an_install_that_fails_is_not_taken_for_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for _ in range(2):
        with pytest.raises(RunError, match="No matching distribution found for argilla-server"):
            install(tmp_path / "environment")
        assert missing(tmp_path / "environment") == list(local_server.PINS)


def test_an_environment_without_its_python_is_not_taken_for_whole(tmp_path: Path) -> None:
    (tmp_path / local_server.MARKER).write_text("\n".join(local_server.PINS))
    assert missing(tmp_path) == list(local_server.PINS)


def test_install_spares_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds something else"):
        install(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
