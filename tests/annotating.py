"""What people do with records in Argilla, by its API alone: they read them, answer them, change their mind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from curation.audit.local_server import Account

AT_ONCE = 100


@dataclass(frozen=True)
class Given:
    """An answer as an annotator gives it; `correction` is None where the box is left empty."""

    status: str
    verdict: str | None = None
    faults: tuple[str, ...] = ()
    rating: int | None = None
    correction: str | None = None
    comment: str | None = None

    def values(self) -> dict[str, Any]:
        """Return what the API takes."""
        parts = {"verdict": self.verdict, "faults": list(self.faults) or None, "rating": self.rating}
        parts |= {"correction": self.correction, "comment": self.comment}
        return {name: {"value": value} for name, value in parts.items() if value is not None}


def request(account: Account, method: str, path: str, **options: Any) -> Any:
    """Return what the server answers to its user, as JSON."""
    headers = {"X-Argilla-Api-Key": account.api_key}
    response = httpx.request(method, account.url + path, headers=headers, timeout=60, trust_env=False, **options)
    assert response.is_success, response.text
    return response.json()


def dataset_id(account: Account, name: str, workspace: str = "stillhouse") -> str:
    """Return the id of the only dataset of that name in the workspace."""
    places = {place["name"]: place["id"] for place in request(account, "GET", "/api/v1/me/workspaces")["items"]}
    parameters = {"workspace_id": places[workspace]}
    items = request(account, "GET", "/api/v1/me/datasets", params=parameters)["items"]
    (found,) = [item["id"] for item in items if item["name"] == name]
    return str(found)


def records_at(account: Account, name: str, workspace: str = "stillhouse") -> list[dict[str, Any]]:
    """Return all records of a dataset with their suggestions and responses, sorted by their id."""
    path = f"/api/v1/datasets/{dataset_id(account, name, workspace)}/records"
    found: list[dict[str, Any]] = []
    while True:
        parameters = {"limit": 1000, "offset": len(found), "include": ["suggestions", "responses"]}
        items = request(account, "GET", path, params=parameters)["items"]
        found += items
        if len(items) < 1000:
            return sorted(found, key=lambda item: str(item["id"]))


def sample_of(item: Mapping[str, Any]) -> str:
    """Return the sample id of a record at the server."""
    return str(item["external_id"]).rpartition("-")[0]


def give(annotator: Account, answers: Sequence[tuple[str, Given]]) -> None:
    """Answer records by their ids at the server; an earlier answer of the same annotator is replaced."""
    for start in range(0, len(answers), AT_ONCE):
        part = answers[start : start + AT_ONCE]
        items = [{"record_id": key, "status": given.status, "values": given.values()} for key, given in part]
        done = request(annotator, "POST", "/api/v1/me/responses/bulk", json={"items": items})
        assert [item["error"] for item in done["items"]] == [None] * len(part)
