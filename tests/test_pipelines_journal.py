"""The journal keeps every answer, once, also across processes that end at any moment."""

import asyncio
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pipelines.calls import Answer, Call
from pipelines.journal import Journal, Usage, Writer, answer_row, failure_row
from stillhouse.errors import RunError


def call(number: int) -> Call:
    return Call("m", None, "chat", f"prompt {number}", {"type": "string"}, 0.0, 5, 1)


def test_answers_come_back_and_the_first_one_stays(tmp_path: Path) -> None:
    first, second = Answer("one ü\x00", "stop", 3, 2, 0.5), Answer("two", "stop", 9, 9, 0.5)
    with Journal(tmp_path / "j") as journal:
        journal.write([answer_row("responses", call(1), first), answer_row("responses", call(1), second)])
    with Journal(tmp_path / "j") as journal:
        assert journal.answer(call(1).call_id) == first
        assert journal.answer(call(2).call_id) is None
        assert journal.usage() == Usage(calls=1, prompt_tokens=3, output_tokens=2)


def test_the_key_of_a_call_is_everything_that_is_sent() -> None:
    base = call(1)
    others = {"model": "n", "revision": "r", "api": "completion", "prompt": "p", "schema": None, "temperature": 0.1}
    others |= {"max_tokens": 6, "seed": 2, "options": {"top_p": 0.5}}
    changed = {replace(base, **{name: value}).call_id for name, value in others.items()}
    assert set(others) == {part.name for part in fields(Call)}
    assert len(changed | {base.call_id}) == len(others) + 1
    assert call(1).call_id == base.call_id


def test_answers_written_together_are_on_disk_before_they_are_used(tmp_path: Path) -> None:
    async def write() -> None:
        writer = Writer(tmp_path / "j", reserve_bytes=4096)

        async def put(number: int) -> None:
            await writer.put(answer_row("s", call(number), Answer(str(number), "stop", 1, 1, 0.1)))
            with Journal(tmp_path / "j") as reader:
                assert reader.answer(call(number).call_id)

        await asyncio.gather(*(put(number) for number in range(50)))
        await writer.close()

    asyncio.run(write())
    with Journal(tmp_path / "j") as journal:
        assert journal.usage().calls == 50
    assert not (tmp_path / "journal.reserve").exists()


def test_failures_are_kept_with_their_cause_and_asked_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.write([failure_row("s", call(1), "timeout"), failure_row("s", call(2), "no connection")])
        journal.write([answer_row("s", call(2), Answer("a", "stop", 1, 1, 0.1))])
        found = journal.failures()
        assert [(stage, cause, later) for stage, _, cause, _, later in found] == [
            ("s", "timeout", False),
            ("s", "no connection", True),
        ]
        assert journal.answer(call(1).call_id) is None


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(RunError, match="cannot be opened"):
        Journal(tmp_path / "j")
