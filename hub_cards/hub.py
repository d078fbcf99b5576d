"""A finished folder on the Hugging Face Hub, in one commit. The only file that talks to the Hub."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import tenacity
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    build_hf_headers,
    close_session,
    get_session,
    hf_raise_for_status,
    logging,
    validate_repo_id,
)

from hub_cards.folders import (
    MARK,
    Change,
    Published,
    Report,
    changes_between,
    check_ours,
    copy_folder,
    differing,
    files_of,
    plan_copy,
)
from stillhouse.errors import InputError, RunError, StillhouseError
from stillhouse.store import file_digest

TIMEOUT = 120.0  # seconds without a byte; the client itself would wait for ever
ATTEMPTS = 4  # of the calls that the client itself does not repeat
MAY_PASS = (408, 429, 500, 502, 503, 504)
LARGE = 1_000_000  # bytes from which on a file is uploaded and reported by itself
TAG_NAME = re.compile(r"(?!.*(\.\.|//|\.lock$|[./]$))\w[\w./-]*")

Value = TypeVar("Value")
Kind = Literal["dataset", "model"]


@dataclass(frozen=True)
class Repo:
    """A repository of the Hub. Raises InputError where `id` is none.

    `branch` is where the commit goes; a new one starts at `main`. `endpoint` None: the Hub, or what HF_ENDPOINT says.
    A dataset and a model may have the same id.
    """

    id: str
    kind: Kind = "dataset"
    branch: str = constants.DEFAULT_REVISION
    endpoint: str | None = None

    def __post_init__(self) -> None:
        """Let the client's own check judge the id."""
        try:
            validate_repo_id(self.id)
        except HFValidationError as error:
            fault = str(error).partition(": ")[0]
            raise InputError(f"{self.id!r} is no repository, OWNER/NAME, and no folder, ./NAME: {fault}") from error
        if "/" not in self.id:
            remedy = f"write OWNER/{self.id}, or ./{self.id} for a folder"
            raise InputError(f"{self.id!r} does not say whose repository it is; {remedy}")

    @property
    def url(self) -> str:
        """Where a person sees it."""
        endpoint = (self.endpoint or constants.ENDPOINT).rstrip("/")
        return f"{endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


@dataclass(frozen=True)
class Account:
    """Whose the token is that is set here, and whether it may write; nobody's where none is set."""

    endpoint: str
    user: str = ""
    may_write: bool = False


def account(seconds: float) -> Account:
    """Return whose the token is; the Hub has so many seconds to say it.

    Raises InputError where the token is not accepted, RunError where the Hub does not answer.
    """
    endpoint, token = constants.ENDPOINT, get_token()
    try:
        headers = build_hf_headers(token=token or False)
        response = get_session().get(f"{endpoint}/api/whoami-v2", headers=headers, timeout=seconds)
        if response.status_code == 401 and not token:
            return Account(endpoint)
        hf_raise_for_status(response)
        found = response.json()
        right = found["auth"]["accessToken"]["role"]
        return Account(endpoint, str(found["name"]), right != "read")
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if _status(error) == 401:
            remedy = "`hf auth login`, or set HF_TOKEN to a valid one"
            raise InputError(f"{endpoint}: the token is not accepted; {remedy}") from None
        cause = _cause(error).replace(token or "***", "***")  # a server may repeat what it is sent
        raise RunError(f"{endpoint} does not answer as the Hub does ({cause})") from None
    finally:
        close_session()


def is_cached(model: str, revision: str | None = None) -> bool:
    """Say whether a model of the Hub has been downloaded before."""
    return isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str)


def plan(folder: Path, to: Repo | Path) -> list[Change]:
    """Return what publishing `folder` would change, file by file; nothing is written. A `to` that is a folder is local.

    Raises as `publish` does.
    """
    if isinstance(to, Path):
        return plan_copy(folder, to)
    files = files_of(folder)
    with _connected(to) as hub:
        return hub.changes(files, hub.look().files)


def publish(
    folder: Path,
    to: Repo | Path,
    *,
    tag: str | None = None,
    message: str = "",
    pull_request: bool = False,
    private: bool = True,
    report: Report = lambda done, total: None,
) -> Published:
    """Put a finished folder where others load it, in one commit or not at all.

    The target then has the files of the folder and no others; nothing is sent, and no commit made, where it has them
    already. An upload that was interrupted goes on with the same call: large files that have arrived stay there.
    `tag` is put on the commit. `private` says what a new repository is; one that exists stays what it is. With
    `pull_request` the commit is a request to those who own the repository; where its answer was lost, look whether it
    is there before the same call makes another.

    Raises InputError where the folder, the target, the token or the tag is wrong, before anything is sent, and
    RunError where the Hub does not answer or somebody else has published in between; the old version stays as it was.
    """
    if pull_request and tag:
        raise InputError("a pull request has no tag before it is merged; give the one or the other")
    if isinstance(to, Path):
        if pull_request or tag:
            raise InputError(f"{to} is a folder, and has no tags and no pull requests; name a repository of the Hub")
        return copy_folder(folder, to, report)
    if tag is not None and not TAG_NAME.fullmatch(tag):
        raise InputError(f"{tag!r} is no name of a tag; v1.0 is one")
    files = files_of(folder)
    with _connected(to) as hub:
        _check_no_secret(files, hub.token)
        return hub.publish(files, tag, message, pull_request, private, report)


def former_facts(to: Repo | Path) -> dict[str, Any] | None:
    """Return the facts of the version that is there; None where there is none. Raises as `publish` does."""
    if isinstance(to, Path):
        path = to / MARK
        return _facts(path) if path.exists() else None
    with _connected(to) as hub:
        there = hub.look()
        if MARK not in there.files:
            return None
        return _facts(Path(hub.ask(hub.api.hf_hub_download, **hub.which, filename=MARK, revision=there.head)))


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise InputError(f"{path} has not the facts of a published dataset; give another target")
    return facts


@dataclass(frozen=True)
class _State:
    """What a repository has at the head of its branch; without a repository there is no head."""

    head: str = ""
    private: bool = True
    files: Mapping[str, RepoFile] = field(default_factory=dict)
    branches: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class _Hub:
    """One repository, seen with one token."""

    def __init__(self, repo: Repo, token: str) -> None:
        self.repo, self.token = repo, token
        self.api = HfApi(endpoint=repo.endpoint, token=token, library_name="stillhouse")
        self.which: dict[str, Any] = {"repo_id": repo.id, "repo_type": repo.kind}

    def look(self) -> _State:
        """Return what is there now."""
        try:
            info = self.ask(self.api.repo_info, **self.which)
        except RepositoryNotFoundError as error:
            if _status(error) != 404:  # a gated one is there
                raise
            return _State()
        refs = self.ask(self.api.list_repo_refs, **self.which)
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        tags = {ref.name: ref.target_commit for ref in refs.tags}
        head = branches.get(self.repo.branch) or branches.get(constants.DEFAULT_REVISION, "")
        return _State(head, bool(info.private), self.tree(head) if head else {}, branches, tags)

    def tree(self, revision: str) -> dict[str, RepoFile]:
        """Return the files of a revision by their paths."""
        entries = self.api.list_repo_tree(**self.which, recursive=True, revision=revision)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def changes(self, files: Mapping[str, Path], there: Mapping[str, RepoFile]) -> list[Change]:
        """Compare by digest; nothing is downloaded."""
        check_ours(there, self.repo.url)
        sizes = {name: file.size for name, file in there.items()}
        return changes_between(files, sizes, lambda name, path: _has_digest(path, there[name]))

    def publish(
        self,
        files: Mapping[str, Path],
        tag: str | None,
        message: str,
        pull_request: bool,
        private: bool,
        report: Report,
    ) -> Published:
        """Look, check, upload, commit, tag."""
        there = self.look()
        changes = self.changes(files, there.files)
        self._check(there, changes, tag, pull_request)
        if any(change.path == "README.md" for change in differing(changes)):
            self._check_card(files["README.md"].read_text(encoding="utf-8"))
        there = self._prepared(there, private)
        commit, request = there.head, None
        if differing(changes):
            operations = self._uploaded(files, changes, pull_request, report)
            title = message or _title(changes)
            commit, request = self._committed(operations, title, there.head, pull_request)
            self._check_arrived(files, commit)
        if tag is not None and there.tags.get(tag) != commit:
            self._tag(tag, commit, message)
        return Published(self.repo.url, changes, commit, tag, request, there.private)

    def _check(self, there: _State, changes: list[Change], tag: str | None, pull_request: bool) -> None:
        """Raise InputError where this cannot be published as asked."""
        repo = self.repo
        if repo.branch in there.tags:
            raise InputError(f"{repo.url}: {repo.branch} is a tag; name a branch")
        if pull_request and repo.branch not in there.branches:
            raise InputError(f"{repo.url} has no branch {repo.branch} that a pull request could be for")
        if tag is not None and tag in there.tags and (there.tags[tag] != there.head or differing(changes)):
            raise InputError(
                f"{repo.url}: the tag {tag} exists already, on commit {there.tags[tag][:8]}, and tags are not moved; "
                "give another one"
            )

    def _check_card(self, card: str) -> None:
        """Raise InputError where the Hub would refuse the card: the client asks only after all is uploaded."""

        def check() -> httpx2.Response:
            response = get_session().post(
                f"{self.api.endpoint}/api/validate-yaml",
                json={"content": card, "repoType": self.repo.kind},
                headers=build_hf_headers(token=self.token),
            )
            if response.status_code != 400:
                hf_raise_for_status(response)
            return response

        faults = [fault["message"] for fault in self.ask(check).json().get("errors", [])]
        if faults:
            raise InputError(f"README.md: the Hub refuses its metadata: {'; '.join(faults)}")

    def _prepared(self, there: _State, private: bool) -> _State:
        """Make the repository and the branch where they are missing; return what is there then."""
        if not there.head:
            self.ask(self.api.create_repo, **self.which, private=private, exist_ok=True)
            there = self.look()
        if self.repo.branch not in there.branches:
            self.ask(self.api.create_branch, **self.which, branch=self.repo.branch, exist_ok=True)
        return there

    def _uploaded(
        self, files: Mapping[str, Path], changes: list[Change], pull_request: bool, report: Report
    ) -> list[CommitOperationAdd | CommitOperationDelete]:
        """Send what belongs into large file storage, and return the operations of the commit."""
        sent = [change for change in differing(changes) if change.kind != "deleted"]
        large = [change for change in sent if change.size >= LARGE]
        batches = [[change] for change in large] + [[change for change in sent if change not in large]]
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        report(0, len(sent))
        for batch in filter(None, batches):
            additions = [CommitOperationAdd(change.path, files[change.path]) for change in batch]
            self._limit_waiting()
            self.api.preupload_lfs_files(
                self.repo.id, additions, repo_type=self.repo.kind, revision=self.repo.branch, create_pr=pull_request
            )
            operations += additions
            report(len(operations), len(sent))
        gone = [change.path for change in changes if change.kind == "deleted"]
        return operations + [CommitOperationDelete(path, is_folder=False) for path in gone]

    def _committed(
        self, operations: list[CommitOperationAdd | CommitOperationDelete], title: str, head: str, pull_request: bool
    ) -> tuple[str, str | None]:
        """Make the commit; return it and the pull request."""
        call: dict[str, Any] = {
            **self.which,
            "operations": operations,
            "commit_message": title,
            "revision": self.repo.branch,
        }
        if pull_request:  # asked once: a second request, after an answer that was lost, would be another one
            made = self.api.create_commit(**call, create_pr=True, parent_commit=head)
            return made.oid, made.pr_url
        try:
            return self.ask(self.api.create_commit, **call, parent_commit=head).oid, None
        except HfHubHTTPError as error:
            if _status(error) not in (409, 412):
                raise
            # The head has moved: by our own commit, where only its answer was lost, or by another's.
            return self.look().head, None

    def _check_arrived(self, files: Mapping[str, Path], commit: str) -> None:
        """Raise RunError where a commit has other files than the folder."""
        left = differing(self.changes(files, self.tree(commit)))
        if left:
            names = ", ".join(change.path for change in left[:3])
            raise RunError(
                f"{self.repo.url}: commit {commit[:8]} is not what was to be published (see {names}): somebody else "
                "has published in between, or the repository has a .gitignore. Look at it, and run the same again"
            )

    def _tag(self, tag: str, commit: str, message: str) -> None:
        """Tag a commit. Raises RunError where somebody else has used the tag in between."""
        text = message or f"Version {tag}"
        self.ask(self.api.create_tag, **self.which, tag=tag, tag_message=text, revision=commit, exist_ok=True)
        refs = self.ask(self.api.list_repo_refs, **self.which)
        if commit not in [ref.target_commit for ref in refs.tags if ref.name == tag]:
            raise RunError(
                f"{self.repo.url}: commit {commit[:8]} is published, but somebody else has used the tag {tag} in "
                "between; run the same again with another tag"
            )

    def ask(self, call: Callable[..., Value], **options: Any) -> Value:
        """Call again, after waits, while the Hub does not answer; the client does so for some of its calls only."""
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=_wait,
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            before=lambda _: self._limit_waiting(),
            reraise=True,
        )
        return again(call, **options)

    def _limit_waiting(self) -> None:
        """Give up on a silent server. A hook, as the client switches time limits off call by call."""
        hooks = get_session().event_hooks["request"]
        if _with_time_limit not in hooks:
            hooks.append(_with_time_limit)


def _with_time_limit(request: httpx2.Request) -> None:
    request.extensions = {**request.extensions, "timeout": httpx2.Timeout(TIMEOUT).as_dict()}


@contextmanager
def _connected(repo: Repo) -> Iterator[_Hub]:
    """Yield the repository. All that goes wrong on the way becomes a cause and a remedy, without the token."""
    token = get_token()
    if not token:
        raise InputError(f"{repo.url}: there is no token; log in with `hf auth login`, or set HF_TOKEN")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # its warnings show the signed addresses of uploads
    try:
        yield _Hub(repo, token)
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        # From nobody: what is behind it may hold what a server has repeated of the request.
        raise _told(error, repo, token) from None
    except KeyboardInterrupt:
        verbosity = logging.ERROR  # a thread that has just begun to upload does not end with the others
        raise
    finally:
        logging.set_verbosity(verbosity)
        close_session()  # with the hook for time limits


def _told(error: Exception, repo: Repo, token: str) -> StillhouseError:
    """Return the cause and the remedy."""
    status, cause = _status(error), _cause(error).replace(token, "***")
    if status == 401:
        return InputError(f"{repo.url}: the token is not accepted; `hf auth login`, or set HF_TOKEN to a valid one")
    if status == 403:
        return InputError(
            f"{repo.url}: the token may not do that ({cause}). It needs the right to write there: see "
            f"{repo.endpoint or constants.ENDPOINT}/settings/tokens"
        )
    if status == 404:
        return InputError(f"{repo.url}: not found, or not to be seen with this token ({cause})")
    if isinstance(error, OfflineModeIsEnabled):
        return InputError("the Hub cannot be reached while HF_HUB_OFFLINE is set; unset it")
    if status in MAY_PASS or any(isinstance(part, httpx2.TransportError) for part in _causes(error)):
        return RunError(
            f"{repo.url} does not answer ({cause}). What has arrived is kept, and the old version is as it was; run "
            "the same again later"
        )
    if status:
        return RunError(f"{repo.url}: the Hub refused: {cause}")
    if isinstance(error, OSError):
        return RunError(f"{error.filename or 'disk'}: {error.strerror or cause}. Nothing was published")
    return RunError(f"{repo.url} does not answer as the Hub does ({cause}). Run the same again later")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what was behind it; what happened at first comes last."""
    return [error, *(_causes(error.__cause__) if error.__cause__ else [])]


def _cause(error: BaseException) -> str:
    """Return what happened at first, or what the server says of it, in one line."""
    told = [part.server_message for part in _causes(error) if isinstance(part, HfHubHTTPError)]
    first = _causes(error)[-1]
    return " ".join(((told and told[-1]) or str(first) or type(first).__name__).split())


def _status(error: BaseException) -> int | None:
    answered = [part.response.status_code for part in _causes(error) if isinstance(part, HfHubHTTPError)]
    return answered[-1] if answered else None


def _may_pass(error: BaseException) -> bool:
    """Say whether an error of one call may pass by itself. A page instead of JSON is a proxy's."""
    is_lost = isinstance(error, (httpx2.TransportError, json.JSONDecodeError))
    return is_lost or (isinstance(error, HfHubHTTPError) and error.response.status_code in MAY_PASS)


def _wait(state: tenacity.RetryCallState) -> float:
    """Wait as long as the server asks for, or twice as long as the last time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(float(asked), TIMEOUT) if asked.isdigit() else float(2 ** (state.attempt_number - 1))


def _has_digest(path: Path, there: RepoFile) -> bool:
    """Compare a file with one on the Hub: large files have a SHA-256, the others the SHA-1 of a git blob."""
    if there.lfs:
        return bool(file_digest(path) == there.lfs.sha256)
    content = path.read_bytes()
    blob = b"blob %d\0%s" % (len(content), content)
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == there.blob_id


def _check_no_secret(files: Mapping[str, Path], token: str) -> None:
    """Raise InputError where the token stands in a file that people read."""
    for name, path in files.items():
        if path.suffix in (".md", ".json", ".yaml", ".csv", ".txt") and token.encode() in path.read_bytes():
            raise InputError(f"{name} has your token in it; take it out, and make a new token")


def _title(changes: list[Change]) -> str:
    counts = {kind: sum(change.kind == kind for change in changes) for kind in ("new", "changed", "deleted")}
    return f"Publish: {', '.join(f'{count} {kind}' for kind, count in counts.items() if count)}"
