"""Calls are found again in the journal with the calls that they correct, and nothing is written."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from pipelines.calls import Answer, Call
from pipelines.journal import Journal, answer_row, failure_row
from pipelines.prompting import Asker, Prompt, object_schema
from pipelines.traces import corrected_call, opened_traces
from stillhouse.errors import RunError
from stillhouse.sections import Teacher

FAKED = "fine\nAnswer: x\n\nThis answer is not valid: y. Give another answer.\nAnswer: z"
PROMPT = Prompt("Do it.", (("Q: one", "1"),), f"Q: {FAKED}")
APIS: tuple[Literal["completion", "chat"], ...] = ("completion", "chat")


def call_of(prompt: Prompt, api: Literal["completion", "chat"]) -> Call:
    where = {"backend": "endpoint", "base_url": "http://localhost:1/v1", "model": "m", "api": api}
    return Asker(Teacher.model_validate(where), 42).call(prompt, object_schema(answer={"type": "string"}), 0.5, 20)


def answer(text: str) -> Answer:
    return Answer(text, "stop", 11, 3, 0.25)


@pytest.mark.parametrize("api", APIS)
def test_a_correction_leads_back_to_what_it_corrects(api: Literal["completion", "chat"]) -> None:
    second = PROMPT.corrected("no\x07 good\n", "not JSON")
    third = second.corrected('{"answer": 1}', "not a text")
    found = corrected_call(call_of(third, api))
    assert found is not None
    assert found[0].call_id == call_of(second, api).call_id
    assert found[1].startswith("This answer is not valid: not a text. Give another")
    found = corrected_call(found[0])
    assert found is not None
    assert found[0].call_id == call_of(PROMPT, api).call_id
    assert corrected_call(found[0]) is None


@pytest.mark.parametrize("api", APIS)
def test_a_call_is_told_with_its_corrections_and_failures(tmp_path: Path, api: Literal["completion", "chat"]) -> None:
    first, other = call_of(PROMPT, api), call_of(replace(PROMPT, question="another"), api)
    second = call_of(PROMPT.corrected("no", "not JSON"), api)
    path = tmp_path / "a #1?%" / "journal.sqlite"
    path.parent.mkdir()
    with Journal(path) as journal:
        rows = [failure_row("responses", second, "HTTP 500"), answer_row("responses", first, answer("no"))]
        journal.write([*rows, answer_row("responses", second, answer("{}")), answer_row("x", other, answer("o"))])
    before = {one: one.stat().st_mtime_ns for one in path.parent.iterdir()}
    with opened_traces(path) as traces:
        told = traces.of(second.call_id)
        assert traces.of("unknown") == []
        assert [one["answer"] for one in traces.of(other.call_id)] == ["o"]
    assert [(one["call_id"], one["answer"]) for one in told] == [(first.call_id, "no"), (second.call_id, "{}")]
    assert [one["told"] and one["told"][:34] for one in told] == [None, "This answer is not valid: not JSON"]
    assert [one["cause"] for one in told[1]["failures"]] == ["HTTP 500"]
    assert told[0]["failures"] == []
    assert (told[0]["stage"], told[0]["finish_reason"], told[0]["seconds"]) == ("responses", "stop", 0.25)
    assert (told[0]["prompt_tokens"], told[0]["output_tokens"]) == (11, 3)
    assert told[0]["request"]["temperature"] == 0.5
    assert abs(told[0]["answered_at"] - time.time()) < 60
    assert {one: one.stat().st_mtime_ns for one in path.parent.iterdir()} == before


def test_a_journal_in_use_can_be_read(tmp_path: Path) -> None:
    call, path = call_of(PROMPT, "chat"), tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.write([answer_row("responses", call, answer("yes"))])
        with opened_traces(path) as traces:
            assert [one["answer"] for one in traces.of(call.call_id)] == ["yes"]


def test_a_damaged_journal_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"no journal at all" * 100)
    with opened_traces(path) as traces, pytest.raises(RunError, match="the journal cannot be read"):
        traces.of("any")
