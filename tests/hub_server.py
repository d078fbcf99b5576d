"""A protocol double of the Hugging Face Hub on loopback: its requests, rights, history and faults.

It stands where the Hub would stand and cannot here; the clients that talk to it are the real ones. Repositories are
kept in memory: each commit has a whole tree, large files are stored by their digest.
"""

import base64
import fnmatch
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USERS = {"hf_writer": ("ann", "write"), "hf_reader": ("ann", "read"), "hf_stranger": ("bob", "write")}
LICENCES = {"cc0-1.0", "cc-by-4.0", "apache-2.0", "mit", "other"}
ALWAYS_LARGE = (".parquet", ".png", ".safetensors")
REPO = r"/api/(datasets|models)/([\w.-]+/[\w.-]+)"
ROUTES = {
    "whoami": ("GET", r"/api/whoami-v2"),
    "create": ("POST", r"/api/repos/create"),
    "card": ("POST", r"/api/validate-yaml"),
    "info": ("GET", REPO + r"(?:/revision/([^/]+))?"),
    "refs": ("GET", REPO + r"/refs"),
    "tree": ("GET", REPO + r"/tree/([^/]+)(?:/(.+))?"),
    "preupload": ("POST", REPO + r"/preupload/([^/]+)"),
    "commit": ("POST", REPO + r"/commit/([^/]+)"),
    "tag": ("POST", REPO + r"/tag/([^/]+)"),
    "branch": ("POST", REPO + r"/branch/([^/]+)"),
    "batch": ("POST", r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch"),
    "upload": ("PUT", r"/storage/(\w+)(?:/(\d+))?"),
    "complete": ("POST", r"/storage/(\w+)/complete"),
    "verify": ("POST", r"/storage/(\w+)/verify"),
    "resolve": ("GET", r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)"),
}
PUBLIC = ("whoami", "create", "card", "upload", "complete", "verify")  # without a repository to check


@dataclass(frozen=True)
class File:
    """One file of a tree; `digest` is that of git, or the SHA-256 of a large file."""

    content: bytes
    is_large: bool

    @property
    def digest(self) -> str:
        """What the Hub compares files by."""
        if self.is_large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0%s" % (len(self.content), self.content)).hexdigest()  # noqa: S324

    def entry(self, path: str) -> dict[str, Any]:
        """Return its line in a listing."""
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.digest[:40]}
        return entry | (
            {"lfs": {"oid": self.digest, "size": entry["size"], "pointerSize": 130}} if self.is_large else {}
        )


Tree = dict[str, File]


@dataclass
class Repository:
    """History of one repository."""

    private: bool
    gated: bool = False
    commits: dict[str, tuple[str, str, Tree]] = field(default_factory=dict)  # parent, message, tree
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # of tags
    requests: list[str] = field(default_factory=list)  # heads of pull requests

    def add(self, parent: str, message: str, tree: Tree) -> str:
        """Make a commit."""
        content = json.dumps([len(self.commits), parent, message, {path: file.digest for path, file in tree.items()}])
        name = hashlib.sha1(content.encode()).hexdigest()  # noqa: S324
        self.commits[name] = (parent, message, tree)
        return name

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag, a pull request or a digest."""
        pulls = {f"refs/pr/{number}": head for number, head in enumerate(self.requests, 1)}
        named = {**self.tags, **self.branches, **pulls}.get(revision)
        return named or next((name for name in self.commits if len(revision) > 6 and name.startswith(revision)), None)

    def tree(self, revision: str = "main") -> Tree:
        """Return the files of a revision."""
        return self.commits[self.find(revision) or ""][2]


class Refused(Exception):  # noqa: N818
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str = "", **content: Any) -> None:
        """Keep what the client reads: the status, the code in the headers, the content."""
        super().__init__(message)
        self.status, self.code, self.content = status, code, {"error": message, **content}


class HubServer(ThreadingHTTPServer):
    """Repositories by kind and name, and what was asked.

    `faults` has for a route what happens to its next requests, one after the other: a status, `cut` (the connection
    ends in the middle of the request), `lost` (all is done, and the answer is not sent), or seconds to wait.
    """

    def __init__(self) -> None:
        """Listen on a free loopback port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.storage: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.asked: Counter[str] = Counter()  # requests by route
        self.faults: dict[str, list[int | float | str]] = {}
        self.part_size = 5_000_000_000  # above it a file is sent in parts
        self.page_size = 1000
        self.leaks = False  # errors repeat the token
        self.tokens_in_storage = 0  # requests to a signed address that carried a token all the same
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Serve until the block ends."""
    server = HubServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece: in two, each would wait for the client's acknowledgement

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _any(self) -> None:
        address = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        method = "GET" if self.command == "HEAD" else self.command
        for name, (verb, pattern) in ROUTES.items():
            match = re.fullmatch(pattern, address.path)
            if match and verb == method:
                return self._route(name, [unquote(part) if part else "" for part in match.groups()])
        self.rfile.read(int(self.headers.get("content-length", 0)))
        return self._send(404, {"error": "no such page"})

    do_GET = do_HEAD = do_POST = do_PUT = _any  # noqa: N815

    def _route(self, name: str, parts: list[str]) -> None:
        server = self.server
        server.asked[name] += 1
        fault = server.faults[name].pop(0) if server.faults.get(name) else None
        length = int(self.headers.get("content-length", 0))
        if fault == "cut":
            self.rfile.read(length // 2)
            return self._hang_up()
        body = self.rfile.read(length)
        if isinstance(fault, float):
            threading.Event().wait(fault)
        if isinstance(fault, int):
            return self._send(fault, {"error": f"fault {fault}"}, {"retry-after": "0"} if fault == 429 else {})
        try:
            with server.lock:
                self.user, self.right = self._who()
                checked = parts if name in PUBLIC else [self._repository(name, parts), *parts[2:]]
                answer = getattr(self, f"_{name}")(body, *checked)
        except Refused as refusal:
            text = str(refusal) + (self.headers.get("authorization", "") if server.leaks else "")
            headers = {"x-error-message": text, **({"x-error-code": refusal.code} if refusal.code else {})}
            return self._send(refusal.status, refusal.content | {"error": text}, headers)
        return self._hang_up() if fault == "lost" else self._send(200, *answer)

    def _who(self) -> tuple[str, str]:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise Refused(401, "Invalid credentials in Authorization header")
        return USERS.get(token, ("", ""))

    def _repository(self, name: str, parts: list[str]) -> Repository:
        """Return the repository that is asked for; private ones are there for their owner only."""
        self.kind, self.id = parts[0] or "models", parts[1]
        found, is_owner = self.server.repositories.get((self.kind, self.id)), self.id.split("/")[0] == self.user
        if not found or (found.private and not is_owner):
            raise Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if found.gated and not is_owner and name in ("tree", "resolve"):
            raise Refused(403, f"Access to {self.id} is restricted", "GatedRepo")
        proposes = name in ("preupload", "commit") and "create_pr" in self.query  # whoever may read, may propose
        writes = name in ("preupload", "commit", "tag", "branch") and not proposes
        if writes and not (is_owner and self.right == "write"):
            raise Refused(403, "You need the write right for this repository")
        return found

    def _find(self, repository: Repository, revision: str) -> str:
        found = repository.find(revision)
        if not found:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def _whoami(self, _: bytes) -> tuple[Any, ...]:
        if not self.user:
            raise Refused(401, "Invalid username or password.")
        return ({"type": "user", "name": self.user, "auth": {"accessToken": {"role": self.right}}},)

    def _create(self, body: bytes) -> tuple[Any, ...]:
        asked = json.loads(body)
        kind, name = asked.get("type", "model") + "s", f"{asked['organization'] or self.user}/{asked['name']}"
        if self.right != "write" or name.split("/")[0] != self.user:
            raise Refused(403 if self.user else 401, f"You don't have the rights to create a repository as {name}")
        url = f"{self.server.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if (kind, name) in self.server.repositories:
            raise Refused(409, "You already created this repository", url=url)
        made = self.server.repositories[kind, name] = Repository(asked.get("visibility") == "private")
        large = b"".join(b"*%s filter=lfs\n" % suffix.encode() for suffix in ALWAYS_LARGE)
        made.branches["main"] = made.add("", "initial commit", {".gitattributes": File(large, False)})
        return ({"url": url, "name": name, "private": made.private},)

    def _card(self, body: bytes) -> tuple[Any, ...]:
        fault = _fault_of_card(json.loads(body)["content"])
        if fault:
            raise Refused(400, "Invalid metadata", errors=[{"message": fault}])
        return ({"errors": [], "warnings": []},)

    def _info(self, _: bytes, repository: Repository, revision: str) -> tuple[Any, ...]:
        head = self._find(repository, revision or "main")
        siblings = [{"rfilename": path} for path in repository.tree(head)]
        facts = {"private": repository.private, "gated": repository.gated, "disabled": False, "tags": []}
        return ({"id": self.id, "sha": head, "siblings": siblings, **facts},)

    def _refs(self, _: bytes, repository: Repository) -> tuple[Any, ...]:
        named = {"heads": repository.branches, "tags": repository.tags}
        lists = {
            kind: [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": head} for name, head in refs.items()]
            for kind, refs in named.items()
        }
        return ({"branches": lists["heads"], "tags": lists["tags"], "converts": []},)

    def _tree(self, _: bytes, repository: Repository, revision: str, under: str) -> tuple[Any, ...]:
        entries, prefix = {}, f"{under}/" if under else ""
        for path, file in sorted(repository.tree(self._find(repository, revision)).items()):
            parts = path.removeprefix(prefix).split("/")
            if path.startswith(prefix):
                entries[path] = file.entry(path)
                for depth in range(1, len(parts)):
                    folder = prefix + "/".join(parts[:depth])
                    entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        shallow = self.query.get("recursive", "").lower() != "true"
        found = [entry for path, entry in entries.items() if not (shallow and "/" in path.removeprefix(prefix))]
        if under and not found:
            raise Refused(404, f"{under} does not exist", "EntryNotFound")
        start = int(self.query.get("cursor", 0))
        end = start + self.server.page_size
        link = f'<{self.server.url}{self.path.partition("?")[0]}?recursive={not shallow}&cursor={end}>; rel="next"'
        return found[start:end], {"link": link} if end < len(found) else {}

    def _preupload(self, body: bytes, repository: Repository, revision: str) -> tuple[Any, ...]:
        tree = repository.tree(self._find(repository, revision))
        ignored = tree[".gitignore"].content.decode().split() if ".gitignore" in tree else []
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(ALWAYS_LARGE) or file["size"] > 10e6 else "regular",
                "shouldIgnore": any(fnmatch.fnmatch(file["path"], pattern) for pattern in ignored),
                "oid": tree[file["path"]].digest if file["path"] in tree else None,
            }
            for file in json.loads(body)["files"]
        ]
        return ({"files": files},)

    def _batch(self, body: bytes, _: Repository) -> tuple[Any, ...]:
        objects = []
        for asked in json.loads(body)["objects"]:
            url, part = f"{self.server.url}/storage/{asked['oid']}", self.server.part_size
            if asked["oid"] not in self.server.storage:
                upload: dict[str, Any] = {"href": url}
                if asked["size"] > part:
                    count = -(-asked["size"] // part)
                    header = {str(number): f"{url}/{number}" for number in range(1, count + 1)}
                    upload = {"href": f"{url}/complete", "header": {"chunk_size": str(part), **header}}
                asked["actions"] = {"upload": upload, "verify": {"href": f"{url}/verify"}}
            objects.append(asked)
        return ({"transfer": "basic", "objects": objects},)

    def _upload(self, body: bytes, name: str, part: str) -> tuple[Any, ...]:
        self.server.tokens_in_storage += "authorization" in self.headers
        if part:
            self.server.parts.setdefault(name, {})[int(part)] = body
        else:
            self._store(name, body)
        return {}, {"etag": hashlib.sha256(body).hexdigest()}

    def _store(self, name: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != name:
            raise Refused(400, "the content is not that of the digest")
        self.server.storage[name] = content

    def _complete(self, body: bytes, name: str) -> tuple[Any, ...]:
        parts = self.server.parts.pop(name)
        self._store(name, b"".join(parts[part["partNumber"]] for part in json.loads(body)["parts"]))
        return ({},)

    def _verify(self, body: bytes, name: str) -> tuple[Any, ...]:
        if len(self.server.storage.get(name, b"")) != json.loads(body)["size"]:
            raise Refused(400, "not all of it is there")
        return ({},)

    def _commit(self, body: bytes, repository: Repository, revision: str) -> tuple[Any, ...]:
        first, *operations = [json.loads(line) for line in body.splitlines()]
        head, wanted = self._find(repository, revision), first["value"].get("parentCommit")
        is_request = "create_pr" in self.query
        if revision not in repository.branches:
            raise Refused(400, f"{revision} is not a branch")
        if wanted and wanted != head and not is_request:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repository.tree(head))
        for operation in operations:
            self._apply(tree, operation["key"], operation["value"])
        fault = _fault_of_card(tree["README.md"].content.decode()) if "README.md" in tree else ""
        if fault:
            raise Refused(400, fault)
        made, url = repository.add(head, first["value"]["summary"], tree), f"{self.server.url}/{self.kind}/{self.id}"
        if is_request:
            repository.requests.append(made)
        else:
            repository.branches[revision] = made
        request = f"{url}/discussions/{len(repository.requests)}"
        return ({"success": True, "commitUrl": f"{url}/commit/{made}", "commitOid": made, "pullRequestUrl": request},)

    def _apply(self, tree: Tree, key: str, value: dict[str, Any]) -> None:
        """Do one operation of a commit to a tree that is not in the history yet."""
        if key == "file":
            tree[value["path"]] = File(base64.b64decode(value["content"]), False)
        elif key == "lfsFile" and value["oid"] in self.server.storage:
            tree[value["path"]] = File(self.server.storage[value["oid"]], True)
        elif key == "deletedFile" and value["path"] in tree:
            del tree[value["path"]]
        else:
            raise Refused(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")

    def _tag(self, body: bytes, repository: Repository, revision: str) -> tuple[Any, ...]:
        asked = json.loads(body)
        if asked["tag"] in repository.tags:
            raise Refused(409, "Tag reference exists already")
        repository.tags[asked["tag"]] = self._find(repository, revision)
        repository.notes[asked["tag"]] = asked.get("message", "")
        return ({},)

    def _branch(self, body: bytes, repository: Repository, name: str) -> tuple[Any, ...]:
        if name in repository.branches:
            raise Refused(409, "Reference already exists")
        repository.branches[name] = self._find(repository, json.loads(body or b"{}").get("startingPoint", "main"))
        return ({},)

    def _resolve(self, _: bytes, repository: Repository, revision: str, path: str) -> tuple[Any, ...]:
        head = self._find(repository, revision)
        file = repository.tree(head).get(path)
        if not file:
            raise Refused(404, "Entry not found", "EntryNotFound")
        return file.content, {"etag": f'"{file.digest}"', "x-repo-commit": head, "accept-ranges": "bytes"}

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        extra = dict(headers or {})
        if asked and status == 200 and isinstance(content, bytes):
            start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            extra["content-range"] = f"bytes {start}-{end}/{len(data)}"
            status, data = 206, data[start : end + 1]
        self.send_response(status)
        self.send_header(
            "content-type", "application/octet-stream" if isinstance(content, bytes) else "application/json"
        )
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _fault_of_card(card: str) -> str:
    """Return what the Hub would refuse in the metadata of a card, or nothing."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.S)
    try:
        metadata = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return f"the YAML cannot be read: {error}"
    if not isinstance(metadata, dict):
        return "the metadata is no mapping"
    licence = metadata.get("license")
    return "" if licence is None or licence in LICENCES else f'"license" must be one of {sorted(LICENCES)}'
