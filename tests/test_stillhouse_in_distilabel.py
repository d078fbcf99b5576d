"""Inside real distilabel pipelines: rows stay alone with their failures, nothing is asked twice, steps curate."""

import ast
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from pipelines.journal import Journal
from stillhouse.sections import OFFLINE_LLM
from tests.conftest import endpoint_teacher
from tests.teacher_server import TeacherServer


def _generate(teacher: dict[str, Any], journal: Path, texts: list[str], out: Path) -> None:
    """Run a pipeline in a process of its own: distilabel changes signal handlers and logging."""
    from distilabel.pipeline import Pipeline

    from stillhouse.in_distilabel import StillhouseLLM
    from tests.distilabel_task import Label

    llm = StillhouseLLM(
        teacher=teacher,
        journal_path=str(journal),
        runtime={"retries": 0, "max_failed_share": 1.0},
        generation_kwargs={"max_new_tokens": 20},
    )
    with Pipeline(name="p", cache_dir=out.parent / "cache") as pipeline:
        Label(llm=llm, input_batch_size=4, add_raw_input=False)
    rows = pipeline.run(dataset=Dataset.from_dict({"text": texts}), use_cache=False)
    found = rows["default"]["train"].to_list() if len(rows) else []
    out.write_text(json.dumps([row["answer"] for row in found]), encoding="utf-8")


def generate(teacher: dict[str, Any], folder: Path, texts: list[str]) -> list[str | None]:
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(
        target=_generate, args=(teacher, folder / "journal.sqlite", texts, out)
    )
    process.start()
    process.join(timeout=240)
    assert process.exitcode is not None, "the pipeline hangs"
    return list(json.loads(out.read_text(encoding="utf-8"))) if out.exists() else []


def test_an_endpoint_answers_in_a_pipeline_and_nothing_is_asked_twice(
    teacher_server: TeacherServer, tmp_path: Path
) -> None:
    texts = [f"text {number}" for number in range(10)]
    first = generate(endpoint_teacher(teacher_server), tmp_path, texts)
    assert len(first) == 10
    assert {json.loads(str(text))["label"] for text in first} <= {"positive", "negative"}
    assert sum(teacher_server.requests.values()) == 10
    assert generate(endpoint_teacher(teacher_server), tmp_path, texts) == first
    assert sum(teacher_server.requests.values()) == 10


def test_a_failed_call_costs_its_own_row_only(teacher_server: TeacherServer, tmp_path: Path) -> None:
    teacher_server.bad_words.add("poison")
    texts = [f"text {number}" for number in range(7)] + ["poison"]
    found = generate(endpoint_teacher(teacher_server), tmp_path, texts)
    assert [text is None for text in found] == [False] * 7 + [True]
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert [failure[2] for failure in journal.failures()] == ["HTTP 400: this endpoint is broken"]


def test_a_teacher_that_is_out_of_order_stops_the_pipeline(teacher_server: TeacherServer, tmp_path: Path) -> None:
    teacher_server.mode = "error"
    found = generate(endpoint_teacher(teacher_server), tmp_path, [f"text {number}" for number in range(200)])
    assert set(found) <= {None}
    assert sum(teacher_server.requests.values()) < 100, "the circuit breaker opened after 20 failures"


@pytest.mark.xdist_group("offline")
def test_the_embedded_teacher_answers_in_a_pipeline(tmp_path: Path) -> None:
    found = generate({"backend": "embedded", "model": OFFLINE_LLM}, tmp_path, ["I love it", "I hate it"])
    assert len(found) == 2
    assert all(json.loads(str(text))["label"] in ("positive", "negative") for text in found)


def test_the_example_of_curation_runs() -> None:
    example = Path(__file__).parent.parent / "examples" / "distilabel_curation.py"
    done = subprocess.run(
        [sys.executable, example], capture_output=True, text=True, check=True, timeout=300, cwd=example.parent.parent
    )
    rows = [ast.literal_eval(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(row["kept"], row["nearest"]) for row in rows] == [(True, None), (False, 0), (True, None), (True, None)]
    assert rows[1]["nearest_similarity"] > 0.95
    assert [row["unscored_reason"] for row in rows] == [None, None, None, "empty output"]
    assert all(row["difficulty"] is not None for row in rows[:3])
