"""The example notebook runs on any finished run, and what it was committed with is what a reader should see."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
from nbclient import NotebookClient

import stillhouse
from tests.conftest import ROOT

BOOK = ROOT / "examples" / "first_look.ipynb"


def outputs_of(book: Any) -> list[Any]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def test_it_runs_on_a_finished_run(private_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_RUN", str(private_run))
    book = nbformat.read(BOOK, as_version=4)  # type: ignore[no-untyped-call]
    for cell in book.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(book, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output["data"] for output in outputs_of(book) if "data" in output]
    told = "\n".join(data["text/plain"] for data in shown)
    run = stillhouse.open_run(private_run)
    assert shown[0]["text/plain"] == repr(run)
    kept = run.table("decisions").filter("kept")
    assert f"│ run   ┆ {len(kept):<7} ┆ {kept['difficulty'].mean():<15.6f} │" in told
    train = pl.read_parquet(sorted((private_run / "dataset" / "default").glob("train-*")), glob=False)
    assert f"num_rows: {len(train)}" in told
    assert ast.literal_eval(shown[-1]["text/plain"]) == train["messages"][0].to_list()
    assert sum("image/png" in data for data in shown) == 1
    assert "IProgress" not in str(outputs_of(book))


def test_it_was_committed_as_it_runs() -> None:
    book = nbformat.read(BOOK, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(book)  # type: ignore[no-untyped-call]
    assert BOOK.stat().st_size < 200_000
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    assert [output for output in outputs_of(book) if output.output_type in ("error", "stream")] == []
    assert outputs_of(book)[0]["data"]["text/plain"].startswith("<Run runs/demo: texts 210, ")
    assert str(Path.home()) not in str(book)
