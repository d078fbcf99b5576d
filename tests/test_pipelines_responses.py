"""Responses: rows come in the order of the pairs whatever the batch, and no row that has ended stays in memory."""

from pathlib import Path

import polars as pl
import pytest

from benchmarks.scale_run import open_instant
from pipelines.engine import Engine
from pipelines.pairing import Cell, pair_evenly
from pipelines.prompting import Asker
from pipelines.responses import answer_samples
from stillhouse import schemas
from stillhouse.progress import Counts, Unseen
from stillhouse.schemas import INSTRUCTIONS, table_of
from stillhouse.sections import Responses, Runtime, Teacher
from tests.measuring import bytes_per_row

LABELS = ["negative", "neutral", "positive"]


def answered(count: int, journal: Path) -> tuple[list[tuple[str, str]], pl.DataFrame, Counts]:
    """Return so many pairs, and how a teacher that answers at once answers them."""
    numbers = range(count // 2)
    texts = [
        {"text_id": f"t{n}", "text": f"Room {n} was cold, and nobody cared.", "domain": f"d{n % 2}"} for n in numbers
    ]
    shots = [{"text": f"The soup came late, {label} or not.", "output": label} for label in LABELS]
    instructions = [
        {
            "instruction_id": f"i{n}",
            "perspective_id": "p",
            "task_type": "classification",
            "labels": LABELS,
            "kept": True,
        }
        | {"instruction": f"Say, in tone {n}, how the text sounds.", "scale": [], "verbatim": False}
        | {"examples": shots, "demos": shots}
        for n in range(3)
    ]
    teacher = Teacher(backend="endpoint", base_url="http://localhost:1/v1", model="instant", api="chat")
    cells = [Cell(f"i{n}", "p", "classification") for n in range(3)]
    pairs = pair_evenly([(text["text_id"], text["domain"]) for text in texts], cells, count, 1)
    with Engine(teacher, Runtime(concurrency=4), journal, Unseen(), open_instant) as engine:
        settings, table = Responses(samples=count), table_of(instructions, INSTRUCTIONS, "instructions")
        return pairs, *answer_samples(pl.DataFrame(texts), table, settings, Asker(teacher, 1), engine)


def test_rows_come_pair_by_pair_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for batch in (1, 7, 1000):
        monkeypatch.setattr(schemas, "BATCH_ROWS", batch)
        pairs, table, counts = answered(120, tmp_path / "journal.sqlite")
        assert table.select("text_id", "instruction_id").rows() == pairs
        assert counts["valid"] == table.filter(pl.col("status") == "valid").height > 100
        assert sum(counts[status] for status in ("valid", "invalid", "failed")) == 120
        tables.append(table)
    assert all(table.equals(tables[0]) for table in tables)


def test_memory_holds_no_row_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "BATCH_ROWS", 50)

    grown = bytes_per_row(lambda count: answered(count, tmp_path / f"{count}.sqlite"))
    assert grown < 850, "bytes per pair; outcomes and rows took 1,250"
