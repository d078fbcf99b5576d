"""The journal keeps every answer, once, also across processes that end at any moment."""

from pathlib import Path

import pytest

from pipelines.calls import Answer, Call
from pipelines.journal import Journal, Usage
from stillhouse.errors import RunError


def call(number: int) -> Call:
    return Call("endpoint", "m", None, "chat", f"prompt {number}", {"type": "string"}, 0.0, 5, 1)


def test_answers_come_back_and_the_first_one_stays(tmp_path: Path) -> None:
    first, second = Answer("one ü\x00", "stop", 3, 2, 0.5), Answer("two", "stop", 9, 9, 0.5)
    with Journal(tmp_path / "j") as journal:
        journal.record("responses", call(1), first)
        journal.record("responses", call(1), second)
    with Journal(tmp_path / "j") as journal:
        assert journal.answers([call(1).call_id, call(2).call_id]) == {call(1).call_id: first}
        assert journal.usage() == Usage(calls=1, prompt_tokens=3, output_tokens=2)
        assert journal.usage(journal.last_row()) == Usage()
        assert Usage(1, 2, 3).plus([first, first]) == Usage(3, 8, 7)


def test_an_answer_is_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    writer = Journal(tmp_path / "j")
    writer.record("s", call(1), Answer("a", "stop", 1, 1, 0.1))
    with Journal(tmp_path / "j") as reader:
        assert call(1).call_id in reader.answers([call(1).call_id])


def test_failures_are_kept_with_their_cause_and_asked_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.record_failure("s", call(1), "timeout")
        assert journal.failures_since(0) == {call(1).call_id: "timeout"}
        assert journal.answers([call(1).call_id]) == {}


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(RunError, match="cannot be opened"):
        Journal(tmp_path / "j")
