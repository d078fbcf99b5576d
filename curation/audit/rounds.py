"""The audit of a run on disk: rounds with their frames and records, answers as pulled, instructions that failed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from curation.audit.records import Answer, Record, record_from
from curation.audit.verdicts import KEYS, latest, settle, standing
from stillhouse.errors import InputError
from stillhouse.schemas import FRAME, REVIEWS, conform, table_of
from stillhouse.sections import Review
from stillhouse.store import write_json, write_parquet

Entry = TypeVar("Entry")
ANSWER = ["verdict", "faults", "rating", "correction", "comment", "status", "problem"]
WHOSE = ["round", *KEYS, "annotator", "source"]


@dataclass(frozen=True)
class Round:
    """A sample that was drawn and sent. Rounds of one generation are one sample of the same rows.

    A generation ends where rows are dropped or asked again by what was found in it.
    """

    number: int
    generation: int
    made_at: str
    bar: float
    confidence: float
    arbiter: str | None
    records: int


@dataclass(frozen=True)
class Failure:
    """An instruction with wrong answers in a stratum that failed; `action` is drop or requeue."""

    instruction_id: str
    generation: int
    action: str
    reason: str


class Rounds:
    """Reads and writes the folder `review` of a run."""

    def __init__(self, path: Path) -> None:
        """Point at the folder; nothing is created before something is written."""
        self._path = path
        self.all = self._read("rounds.json", lambda entry: Round(**entry))
        self.failures = self._read("failures.json", lambda entry: Failure(**entry))
        if len(self.all) < len(list(path.glob("round-*.parquet"))):
            raise InputError(
                f"{path / 'rounds.json'} does not know all rounds that lie beside it; put back a copy of it"
            )

    @property
    def generation(self) -> int:
        """Number of the generation that goes on."""
        return 1 + max((failure.generation for failure in self.failures), default=0)

    @property
    def current(self) -> list[Round]:
        """The rounds of this generation."""
        return [made for made in self.all if made.generation == self.generation]

    @property
    def dropped(self) -> dict[str, str]:
        """Instructions that were dropped, with the reason."""
        return {failure.instruction_id: failure.reason for failure in self.failures if failure.action == "drop"}

    def frame(self, number: int) -> pl.DataFrame:
        """Return the sampling frame of a round."""
        return self._parquet(self._frame_path(number), FRAME)

    def drawn(self, rounds: Sequence[Round]) -> pl.DataFrame:
        """Return the drawn rows of the frames of rounds: each record once, with the most answers asked for."""
        frames = [self.frame(made.number).filter("drawn") for made in rounds]
        rows = pl.concat([FRAME.to_frame(), *frames]).with_columns(pl.col("answers").max().over(KEYS))
        return rows.unique(KEYS, keep="last", maintain_order=True)

    def records(self, made: Round) -> list[Record]:
        """Return the records of a round as annotators were shown them."""
        name = f"round-{made.number}.json"
        if not (self._path / name).exists():
            raise InputError(f"{self._path / name} is gone; put back a copy of it, verdicts depend on it")
        return self._read(name, record_from)

    def add(self, frame: pl.DataFrame, records: Sequence[Record], settings: Review) -> Round:
        """Put a round down, before anything of it is sent."""
        made = Round(
            len(self.all) + 1,
            self.generation,
            datetime.now(UTC).isoformat(timespec="seconds"),
            settings.bar,
            settings.confidence,
            settings.arbiter,
            len(records),
        )
        self._path.mkdir(exist_ok=True)
        self._write(f"round-{made.number}.json", [asdict(record) for record in records])
        write_parquet(self._frame_path(made.number), frame)
        self.all.append(made)
        self._write("rounds.json", [asdict(entry) for entry in self.all])
        return made

    def fail(self, failures: Sequence[Failure]) -> None:
        """Put down which instructions failed, which ends the generation."""
        self.failures += failures
        self._write("failures.json", [asdict(failure) for failure in self.failures])

    def reviews(self) -> pl.DataFrame:
        """Return every answer that was pulled (schema REVIEWS), in the order of pulling."""
        path = self._path / "reviews.parquet"
        return self._parquet(path, REVIEWS) if path.exists() else table_of([], REVIEWS, "reviews")

    def waiting(self, for_all: bool) -> pl.DataFrame:
        """Return the records of this generation that wait for an answer, or for all that were asked for.

        Columns: sample_id, version. A discarded record waits for nobody: whoever discarded it is not shown it again.
        """
        given = latest(self.reviews()).filter(pl.col("status") != "draft").group_by(KEYS).len("given")
        waits = pl.col("given").fill_null(0) < (pl.col("answers") if for_all else 1)
        return self.drawn(self.current).join(given, on=KEYS, how="left").filter(waits).select(KEYS)

    def settlement(self, arbiter: str | None) -> pl.DataFrame:
        """Return one verdict per record that was answered: see `verdicts.settle`."""
        return settle(standing(self.reviews()), arbiter)

    def fresh(self, made: Round, answers: Sequence[Answer], source: str) -> pl.DataFrame:
        """Return the answers that are new, or other than the last of that annotator, as rows of `reviews`."""
        rows = [
            {**asdict(answer), "faults": list(answer.faults), "round": made.number, "source": source}
            for answer in answers
        ]
        pulled = table_of(rows, REVIEWS, "reviews").unique(WHOSE, keep="first", maintain_order=True)
        last = self.reviews().unique(WHOSE, keep="last", maintain_order=True)
        return pulled.join(last, on=[*WHOSE, *ANSWER], how="anti", nulls_equal=True, maintain_order="left")

    def keep(self, fresh: pl.DataFrame) -> None:
        """Add answers to those that were pulled before."""
        self._path.mkdir(exist_ok=True)
        write_parquet(self._path / "reviews.parquet", pl.concat([self.reviews(), fresh]))

    def _frame_path(self, number: int) -> Path:
        return self._path / f"round-{number}.parquet"

    def _parquet(self, path: Path, schema: pl.Schema) -> pl.DataFrame:
        try:
            return conform(pl.read_parquet(path, glob=False), schema, path.name)
        except (OSError, pl.exceptions.PolarsError) as error:
            cause = str(error).partition("\n")[0]
            raise InputError(
                f"{path} cannot be read ({cause}); put back a copy of it, verdicts depend on it"
            ) from error

    def _read(self, name: str, make: Callable[[dict[str, Any]], Entry]) -> list[Entry]:
        path = self._path / name
        if not path.exists():
            return []
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            return [make(entry) for entry in entries]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); put back a copy of it, verdicts depend on it") from error

    def _write(self, name: str, entries: Sequence[dict[str, Any]]) -> None:
        write_json(self._path / name, entries)
