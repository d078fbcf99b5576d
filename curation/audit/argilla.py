"""Rounds in Argilla: the only file that knows its SDK. Pushing and pulling may be repeated at any time."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.audit.filled import Filled, answers_of, correction_of
from curation.audit.questions import FAULTS, RATINGS, VERDICTS, guidelines
from curation.audit.records import Answer, Record
from stillhouse.errors import InputError, RunError

BATCH = 100  # records in one request
PAGE = 500  # records read in one request
FAULTS_OF_A_SERVER = (429, 500, 502, 503, 504)
PATIENCE = 30  # seconds that a server which does not answer is asked again
FIELDS = {"instruction": "Instruction", "text": "Text", "answer": "Answer"}
QUESTIONS = {
    "verdict": "Is the answer right?",
    "faults": "What is wrong with it?",
    "rating": "Quality: 1 useless, 5 could not be better",
    "correction": "Corrected answer",
    "comment": "Comment",
}


@dataclass(frozen=True)
class Batch:
    """The records of one Argilla dataset: `answers` annotators answer each of them."""

    name: str
    records: Sequence[Record]
    answers: int


class Argilla:
    """A workspace on an Argilla server."""

    def __init__(self, url: str, api_key: str, workspace: str, seconds: int = 60) -> None:
        """Connect; a request may take so many `seconds`.

        Raises InputError where the key is not known, RunError where no Argilla server answers.
        """
        import argilla
        import httpx
        from argilla._exceptions import ArgillaCredentialsError, ArgillaError

        self.url, self._workspace = url, workspace
        logging.getLogger("argilla.sdk").setLevel(logging.CRITICAL)  # what it logs is raised as well
        try:
            self._client = argilla.Argilla(api_url=url, api_key=api_key, timeout=seconds, retries=0)  # see _patiently
        except ArgillaCredentialsError as error:
            raise InputError(f"{url} does not know this API key; an owner's or admin's key is needed") from error
        except (ArgillaError, httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError) as error:
            raise RunError(
                f"no Argilla server answers at {url} ({_cause(error)}). See that it is up, and that ARGILLA_API_URL or "
                "`review.url` is its whole address, as in http://localhost:6900"
            ) from error

    def about(self) -> tuple[str, str, str]:
        """Return the version of the server, and the name and the role of the user whose key this is."""
        with self._told("look"):
            paths = ("/api/v1/version", "/api/v1/me")
            version, me = (self._client.http_client.get(path).raise_for_status().json() for path in paths)
        return str(version["version"]), str(me["username"]), str(me["role"])

    def push(
        self,
        batch: Batch,
        vectors: Mapping[str, npt.NDArray[np.float32]],
        report: Callable[[int], None] = lambda done: None,
    ) -> int:
        """Send the records that are not there yet; return how many these were. `vectors` are by sample id.

        Raises InputError where the dataset there is not as it was made, or not of this round, and RunError where the
        server stops answering; the records that are there then stay.
        """
        with self._told(f"push {batch.name}"):
            dataset = self._patiently(self._whole, batch, len(next(iter(vectors.values()), ())))
            self._check(dataset)
            there = {item["external_id"] for item in self._items(dataset, [])}
            if there - {_key(record) for record in batch.records}:
                raise InputError(
                    f"the dataset {batch.name} at {self.url} has records of something else; is another run called the "
                    "same? Give this one another `review.workspace`, or delete that dataset"
                )
            missing = [record for record in batch.records if _key(record) not in there]
            report(len(there))
            for start in range(0, len(missing), BATCH):
                part = missing[start : start + BATCH]
                self._patiently(dataset.records.log, [_sent(record, vectors) for record in part], batch_size=BATCH)
                report(len(there) + start + len(part))
        return len(missing)

    def pull(
        self, name: str, records: Sequence[Record], report: Callable[[int], None] = lambda done: None
    ) -> list[Answer] | None:
        """Return every answer of every annotator, drafts and discarded ones too; None where the dataset is not there.

        Raises InputError where the dataset was changed by hand, and RunError as `push` does.
        """
        filled: list[Filled] = []
        with self._told(f"pull {name}"):
            dataset = self._dataset(name)
            if dataset is None:
                return None
            self._check(dataset)
            people, known = self._people(dataset), {_key(record): record for record in records}
            for number, item in enumerate(self._items(dataset, ["responses"]), start=1):
                report(number)
                record = known.get(item["external_id"])
                if record is None:
                    continue
                for response in item["responses"]:
                    annotator = people.get(response["user_id"], response["user_id"])
                    filled.append(_filled(response, record, annotator, f"{name}, record {record.sample_id}"))
        return answers_of(filled, records)

    def _place(self) -> Any:
        """Return the workspace; None where there is none yet."""
        return next((found for found in self._client.workspaces if found.name == self._workspace), None)

    def _dataset(self, name: str) -> Any:
        def look() -> Any:
            place = self._place()
            return next((found for found in place.datasets if found.name == name), None) if place else None

        return self._patiently(look)

    def _whole(self, batch: Batch, dimensions: int) -> Any:
        """Return the dataset of a batch; one whose making was interrupted is made anew."""
        dataset = self._dataset(batch.name)
        if dataset is not None and self._read(f"/api/v1/datasets/{dataset.id}", {})["status"] == "draft":
            dataset.delete()
            dataset = None
        return dataset or self._create(batch, dimensions)

    def _create(self, batch: Batch, dimensions: int) -> Any:
        import argilla

        settings = argilla.Settings(
            guidelines=guidelines(),
            fields=[argilla.TextField(name, title=title, use_markdown=True) for name, title in FIELDS.items()],
            questions=_questions(),
            metadata=[
                *(argilla.TermsMetadataProperty(name) for name in ("perspective", "task_type", "domain")),
                argilla.FloatMetadataProperty("difficulty"),
            ],
            vectors=[argilla.VectorField("wording", dimensions=dimensions)] if dimensions else [],
            distribution=argilla.TaskDistribution(min_submitted=batch.answers),
        )
        workspace = self._place() or argilla.Workspace(self._workspace, client=self._client).create()
        return argilla.Dataset(batch.name, workspace=workspace, settings=settings, client=self._client).create()

    def _check(self, dataset: Any) -> None:
        """Raise InputError where a field or a question was changed by hand."""
        there = self._patiently(dataset.settings.get)
        found = {part.name: type(part) for part in (*there.fields, *there.questions)}
        wanted = {question.name: type(question) for question in _questions()}
        changed = [name for name, kind in wanted.items() if found.get(name) is not kind]
        changed += [name for name in FIELDS if name not in found]
        if changed:
            raise InputError(
                f"the dataset {dataset.name} at {self.url} was changed by hand: {', '.join(changed)} is missing or of "
                "another type. Undo that, or delete the dataset and push the round again (verdicts pulled are kept)"
            )

    def _items(self, dataset: Any, include: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the records as the server holds them: the SDK's own reader leaves out when a response was given."""
        offset = 0
        while True:
            parameters = {"limit": PAGE, "offset": offset, "include": include}
            items = self._read(f"/api/v1/datasets/{dataset.id}/records", parameters)["items"]
            yield from items
            offset += len(items)
            if len(items) < PAGE:
                return

    def _people(self, dataset: Any) -> dict[str, str]:
        """Return the names of users by their ids."""
        me = self._read("/api/v1/me", {})
        path = "/api/v1/users" if me["role"] == "owner" else f"/api/v1/workspaces/{dataset.workspace.id}/users"
        return {user["id"]: user["username"] for user in [me, *self._read(path, {})["items"]]}

    def _read(self, path: str, parameters: dict[str, Any]) -> Any:
        def get() -> Any:
            return self._client.http_client.get(path, params=parameters).raise_for_status().json()

        return self._patiently(get)

    def _patiently(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call again, after waits that double, while the server does not answer."""
        import tenacity

        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            wait=tenacity.wait_exponential(multiplier=0.5, max=8),
            stop=tenacity.stop_after_delay(PATIENCE),
            reraise=True,
        )
        return again(call, *arguments, **options)

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Turn what the SDK and the connection raise into a cause and a remedy."""
        import httpx
        from argilla._exceptions import ArgillaError

        try:
            yield
        except (ArgillaError, httpx.HTTPError, ValueError) as error:
            status = _status(error)
            if status in (401, 403):
                raise InputError(
                    f"{doing}: the user of this API key may not do that in the workspace {self._workspace} at "
                    f"{self.url}. Use the key of an owner, or of an admin of the workspace"
                ) from error
            if status == 404:
                raise InputError(f"{doing}: it is gone from {self.url}; `review push` sends it again") from error
            if _passes(error) or isinstance(error, ValueError):
                raise RunError(
                    f"{doing}: {self.url} does not answer as an Argilla server does ({_cause(error)}). "
                    "What was done is kept; once it is up again, the same command goes on"
                ) from error
            raise RunError(f"{doing}: {self.url} refused: {_cause(error)}") from error


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what was behind it; what happened at first comes last."""
    return [error, *(_causes(error.__cause__) if error.__cause__ else [])]


def _cause(error: BaseException) -> str:
    first = _causes(error)[-1]
    return str(first).partition("\n")[0] or type(first).__name__


def _passes(error: BaseException) -> bool:
    """Say whether an error may pass by itself: no connection, or a fault of the server."""
    import httpx

    lost = any(isinstance(cause, httpx.TransportError) for cause in _causes(error))
    return lost or _status(error) in FAULTS_OF_A_SERVER


def _status(error: BaseException) -> int | None:
    """Return what the server answered; the SDK says 500 of all errors that it wraps, so the last cause counts."""
    told = [getattr(getattr(cause, "response", cause), "status_code", None) for cause in _causes(error)]
    return next(filter(None, reversed(told)), None)


def _questions() -> list[Any]:
    import argilla

    return [
        argilla.LabelQuestion("verdict", title=QUESTIONS["verdict"], labels=list(VERDICTS)),
        argilla.MultiLabelQuestion(
            "faults", title=QUESTIONS["faults"], labels=list(FAULTS), visible_labels=len(FAULTS), required=False
        ),
        argilla.RatingQuestion("rating", title=QUESTIONS["rating"], values=list(RATINGS), required=False),
        argilla.TextQuestion("correction", title=QUESTIONS["correction"], required=False),
        argilla.TextQuestion("comment", title=QUESTIONS["comment"], required=False),
    ]


def _key(record: Record) -> str:
    """Return the id of a record at the server: another answer to the same sample is another record."""
    return f"{record.sample_id}-{record.version}"


def _sent(record: Record, vectors: Mapping[str, npt.NDArray[np.float32]]) -> Any:
    import argilla

    vector = vectors.get(record.sample_id)
    metadata = {name: getattr(record, name) for name in ("perspective", "task_type", "domain", "difficulty")}
    return argilla.Record(
        id=_key(record),
        fields=_shown(record),
        metadata={name: value for name, value in metadata.items() if value is not None},
        suggestions=[argilla.Suggestion("correction", record.answer, agent="teacher")] if record.answer else [],
        vectors={} if vector is None else {"wording": [round(value, 5) for value in vector.tolist()]},
    )


def _shown(record: Record) -> dict[str, str]:
    """Return the fields as Markdown that is one HTML element each, so that nothing in it is read as Markdown.

    Argilla's custom fields would look better, but run scripts that stand in a record.
    """
    form = f"<br><small>{_escaped(record.form)}</small>" if record.form else ""
    text = "".join(
        f"<mark>{_escaped(part.text)}</mark>" if part.marked else _escaped(part.text) for part in record.parts
    )
    if record.fields:
        rows = (f"<tr><td>{_escaped(name)}</td><td><b>{_escaped(value)}</b></td></tr>" for name, value in record.fields)
        answer = f"<table border=1 cellpadding=6>{''.join(rows)}</table>"
    elif record.items:
        answer = f"<ul>{''.join(f'<li><b>{_escaped(item)}</b></li>' for item in record.items)}</ul>"
    else:
        answer = f"<div><b>{_escaped(record.answer)}</b></div>"
    return {
        "instruction": f"<div>{_escaped(record.instruction)}{form}</div>",
        "text": f"<div>{text}</div>",
        "answer": answer,
    }


def _escaped(text: str) -> str:
    """Return text without any syntax of HTML, Markdown or links: all but letters, digits and blanks as entities."""
    lines = re.sub(r"[^\w\s]|_", lambda found: f"&#{ord(found[0])};", text).splitlines()
    return "<br>".join(lines)


def _filled(response: dict[str, Any], record: Record, annotator: str, place: str) -> Filled:
    values = {name: given["value"] for name, given in (response["values"] or {}).items()}
    return Filled(
        place=place,
        sample_id=record.sample_id,
        version=record.version,
        annotator=annotator,
        status=response["status"],
        verdict=str(values.get("verdict") or ""),
        faults=tuple(map(str, values.get("faults") or ())),
        rating=str(values.get("rating") or ""),
        correction=correction_of(str(values.get("correction") or ""), record.answer),
        comment=str(values.get("comment") or ""),
        given_at=datetime.fromisoformat(response["updated_at"]).replace(tzinfo=UTC),
        saved=True,
    )
