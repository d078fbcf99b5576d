"""The commands as Python calls: tables and figures of a run as frames, and runs from a notebook's own event loop."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
import yaml
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

import stillhouse
from pipelines.journal import Journal
from stillhouse.errors import InputError
from stillhouse.job import funnel_of
from stillhouse.store import RunFolder
from tests.conftest import endpoint_teacher, write_recipe
from tests.teacher_server import TeacherServer
from tests.tiny_student import write_student


def sections(folder: Path, server: TeacherServer) -> dict[str, Any]:
    """Return a small recipe as a dict."""
    recipe = write_recipe(folder, teacher=endpoint_teacher(server))
    found: dict[str, Any] = yaml.safe_load(recipe.read_text("utf-8"))
    return found


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, stillhouse; print(sorted({'polars', 'pydantic', 'torch', 'rich', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {"open_run", "run", "plan", "curate", "score", "train", "Run"} <= set(dir(stillhouse))
    with pytest.raises(AttributeError, match="has no attribute 'opn_run'"):
        _ = stillhouse.opn_run


def test_a_run_gives_its_tables_and_figures(offline_run: Path) -> None:
    run = stillhouse.open_run(str(offline_run))
    folder = RunFolder(offline_run)
    assert run.funnel == funnel_of(folder)
    assert run.table("decisions").equals(folder.read_table("decisions"))
    assert run.table("failures").is_empty()
    kept = run.table("decisions").filter("kept")["sample_id"]
    assert set(run.dataset()["id"]) == set(kept)
    assert len(run.dataset("rejected")) == run.funnel["responses"] - len(kept)
    assert run.coverage()["kept"].sum() == len(kept)
    assert run.status()["missing"] == []
    assert repr(run).startswith(f"<Run {offline_run}: texts 14, ")
    assert repr(run).endswith(f"kept {len(kept)}>")


def test_a_run_tells_lineages_differences_and_a_report(private_run: Path, tmp_path: Path) -> None:
    run = stillhouse.open_run(private_run)
    first = run.table("responses").row(0, named=True)
    lineage = run.lineage(first["sample_id"][:10])
    assert lineage["checks"]["output"] == first["output"]
    assert lineage["text"]["text_id"] == first["text_id"]
    with pytest.raises(InputError, match=r"no sample of .* has the id nobody"):
        run.lineage("nobody")
    cut = run.select("few", rate=0.2, strategy="hard").filter("kept")
    kept = run.diff(private_run / "cuts" / "few")["kept"]
    assert kept["both"] + kept["came_in"] == len(cut)
    assert kept["both"] + kept["went_out"] == run.funnel["kept"]
    page = run.report(against=private_run / "cuts" / "few", to=tmp_path / "report")
    assert page == tmp_path / "report" / "report.html"
    assert "Compared with run/few" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.table("teas"), "no table is called teas; tables: texts, "),
        (lambda run: run.table("scores"), "has no table scores; `stillhouse run` makes it"),
        (lambda run: run.dataset(), "has no config default; `stillhouse run` makes the dataset"),
        (lambda run: run.select(rate=2), "has no scores of its present responses"),
        (lambda run: stillhouse.open_run("nowhere"), "nowhere is not a run folder"),
    ],
)
def test_what_is_not_there_is_said(answered_run: Path, ask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(stillhouse.open_run(answered_run))


def test_another_cut_is_made(private_run: Path) -> None:
    run = stillhouse.open_run(private_run)
    cut = run.select(rate=0.2, strategy="hard", name="top", dataset=True)
    assert cut.columns == run.table("decisions").columns
    assert 0 < cut["kept"].sum() < run.table("decisions")["kept"].sum()
    assert (private_run / "cuts" / "top" / "dataset" / "README.md").exists()
    with pytest.raises(InputError, match="--rate"):
        run.select(rate=2)


def test_what_others_wrote_is_escaped(private_run: Path) -> None:
    folder = RunFolder(private_run)
    manifest = folder.manifest()
    manifest["name"] = "<script>alert(1)</script>"
    folder.write_manifest(manifest)
    shown = stillhouse.open_run(private_run)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert f"<td>responses</td><td>{folder.read_table('responses').height}</td>" in shown


def test_a_dict_is_a_recipe_whose_paths_start_here(
    tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = sections(tmp_path, teacher_server)
    (tmp_path / "mine.csv").write_text("text\nWarm tea and kind staff.\nCold soup and a wrong bill.\n", "utf-8")
    recipe["texts"] = {"sources": [{"path": "mine.csv"}]}
    run = stillhouse.run(recipe, until="texts")
    assert (run.path, run.funnel) == (Path("runs/tiny"), {"texts": 2})
    assert stillhouse.plan(recipe)["texts"] == 2
    with pytest.raises(
        InputError, match=r"recipe has 1 fault\(s\):\n  curation\.rat: unknown key; did you mean `rate`"
    ):
        stillhouse.run({**recipe, "curation": {"rat": 1}})


def test_a_run_goes_where_an_event_loop_runs_already(tmp_path: Path, teacher_server: TeacherServer) -> None:
    async def cell() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        made = stillhouse.run(
            write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server)), tmp_path / "run", "attributes"
        )
        return made, loop is asyncio.get_running_loop()

    run, is_back = asyncio.run(cell())
    assert run.table("attributes")["text_id"].n_unique() == 14
    assert is_back


def test_a_notebook_shows_lines_and_no_control_characters(tmp_path: Path, teacher_server: TeacherServer) -> None:
    code = f"import stillhouse\nrun = stillhouse.run({sections(tmp_path, teacher_server)!r}, until='attributes')\nrun"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])  # type: ignore[no-untyped-call]
    NotebookClient(book, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = book.cells[0].outputs
    assert {output.output_type for output in outputs} == {"display_data", "execute_result"}
    pages = "".join(output["data"]["text/html"] for output in outputs)
    assert "\x1b" not in pages
    assert "✓" in pages
    assert pages.endswith("perspectives, instructions, responses, scores, decisions, audit, gates, dataset")


def test_interrupting_a_cell_stops_a_run_as_ctrl_c_does(tmp_path: Path, teacher_server: TeacherServer) -> None:
    teacher_server.delay = 1.0
    code = f"import stillhouse; stillhouse.run({sections(tmp_path, teacher_server)!r}, 'run', until='attributes')"
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        asked = client.execute(code)
        deadline = time.monotonic() + 60
        while teacher_server.requests.total() < 14 and time.monotonic() < deadline:
            time.sleep(0.05)
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)
        assert reply["parent_header"]["msg_id"] == asked
        assert (reply["content"]["ename"], reply["content"]["evalue"][:8]) == ("RunError", "stopped.")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    with Journal(tmp_path / "run" / "journal.sqlite") as journal:
        assert journal.usage().calls == 14  # what was in flight is kept


def test_data_of_others_is_scored_and_curated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    student = str(write_student(tmp_path / "student"))
    rows = pl.DataFrame({"question": [f"Is tea {n} warm?" for n in range(6)], "answer": ["yes", "no"] * 3})
    rows.write_ndjson("pairs.jsonl")
    scored = stillhouse.score("pairs.jsonl", student, prompt="question", completion="answer", limit=4)
    assert scored.columns[:3] == ["question", "answer", "difficulty"]
    assert len(scored) == len(scored.drop_nulls("difficulty")) == 4
    run = stillhouse.curate(
        "pairs.jsonl", prompt="question", completion="answer", student=student, rate=0.5, similarity=1.0, seed=7
    )
    assert run.path == Path("runs/pairs")
    assert run.funnel["responses"] == 6
    assert run.status()["missing"] == []
    with pytest.raises(InputError, match="--ratio"):
        stillhouse.curate("pairs.jsonl", ratio=0.5)


def test_a_student_is_trained(tmp_path: Path, offline_run: Path) -> None:
    student = str(write_student(tmp_path / "student"))
    report = stillhouse.train(offline_run / "dataset", student, tmp_path / "trained", max_steps=1, batch_size=1)
    assert (len(report.losses), report.folder) == (1, tmp_path / "trained")
    with pytest.raises(InputError, match="--preset nonsense: there are "):
        stillhouse.train("x", student, "y", preset="nonsense")
