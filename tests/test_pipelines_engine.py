"""The engine against a real local server: retries, limits, breaker, caps, and a window without batches."""

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.calls import Answer, Call
from pipelines.dispatch import REST_SECONDS, TIRED_AFTER, Lane
from pipelines.engine import Engine
from pipelines.journal import Journal, Writer, answer_row
from pipelines.teachers.backend import TransientError
from pipelines.teachers.embedded import serve_embedded
from pipelines.teachers.endpoint import Endpoint
from stillhouse.errors import InputError, RunError
from stillhouse.progress import BREAKER, Unseen
from stillhouse.sections import Runtime, Teacher
from tests.conftest import endpoint_teacher
from tests.teacher_server import MODEL, TeacherServer, serve_teacher

SCHEMA = {"enum": ["calm", "angry"]}
KEY = "sk-very-secret-key-of-the-test"


def call(word: object) -> Call:
    return Call(MODEL, None, "chat", [{"role": "user", "content": f"text {word}"}], SCHEMA, 0.5, 20, 1)


Ask = Callable[..., tuple[dict[object, Answer | None], Engine]]


@pytest.fixture
def ask(teacher_server: TeacherServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask for an answer per word; a dictionary of those that came, also where the engine raises."""
    monkeypatch.setenv("TEACHER_KEY", KEY)

    def asked(
        words: list[object],
        found: dict[object, Answer | None] | None = None,
        teacher: dict[str, Any] | None = None,
        **runtime: Any,
    ) -> tuple[dict[object, Answer | None], Engine]:
        answers = {} if found is None else found
        settings = Teacher(**{**endpoint_teacher(teacher_server), **(teacher or {})})
        with Engine(settings, Runtime(**runtime), tmp_path / "journal.sqlite", Unseen()) as engine:

            async def handle(word: object) -> bool | None:
                answers[word] = await engine.answer(call(word))
                return True if answers[word] else None

            engine.each(words, handle, "responses", len(words))
        return answers, engine

    return asked


def test_every_row_is_answered_once_and_kept(ask: Ask, teacher_server: TeacherServer, tmp_path: Path) -> None:
    found, engine = ask([*range(50), 0, 1, 2])
    assert all(json.loads(answer.text) in SCHEMA["enum"] for answer in found.values() if answer)
    assert set(teacher_server.requests.values()) == {1}
    assert len(teacher_server.requests) == 50
    assert engine.usage.calls == 53 - 3 or engine.usage.calls == 53  # those in flight together are one call
    again, _ = ask(list(range(50)))
    assert again == found
    assert sum(teacher_server.requests.values()) == 50
    assert teacher_server.probes == 1, "what was found out about the server is kept, too"
    assert not (tmp_path / "journal.reserve").exists()


def test_one_slow_row_holds_up_no_other(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.patience = 300
    found, _ = ask(["patience", *range(400)], concurrency=4)
    assert all(found.values())
    assert len(found) == 401


def test_failed_requests_are_sent_again(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.mode = "flaky"
    found, engine = ask(list(range(12)))
    assert all(found.values())
    assert engine.failed == 0
    assert set(teacher_server.requests.values()) == {2}


def test_refusals_lower_the_limit_until_the_server_is_content(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.most, teacher_server.delay = 4, 0.03
    found, _ = ask(list(range(200)), concurrency=32, retries=8)
    assert all(found.values())
    assert teacher_server.most_in_flight <= 32
    # The first round is refused but for four, then each round probes one more than the server takes.
    assert teacher_server.refused < 100, "a limit that did not adapt would be refused seven times out of eight"


def test_retry_after_is_honoured(ask: Ask, teacher_server: TeacherServer) -> None:
    error = TransientError("HTTP 429", retry_after=30.0, throttled=True)
    lane = _lane(limit=8)
    lane.failed(error, sent_at=1.0, now=2.0)
    assert not lane.is_free(31.9)
    assert lane.is_free(32.1)
    assert lane.limit == 4
    lane.failed(error, sent_at=1.5, now=2.1)
    assert lane.limit == 4, "requests that were out already do not halve it again"
    teacher_server.most, teacher_server.delay, teacher_server.retry_after = 1, 0.05, "0.2"
    found, _ = ask(list(range(4)), concurrency=2)
    assert all(found.values())


def test_a_tired_backend_rests_and_is_tried_with_one_request() -> None:
    lane = _lane(limit=8)
    for _ in range(TIRED_AFTER):
        lane.failed(TransientError("HTTP 500"), sent_at=0.0, now=1.0)
    assert not lane.is_free(1.0 + REST_SECONDS - 0.1)
    assert lane.is_free(1.0 + REST_SECONDS)
    assert lane.limit == 1
    assert lane.answered() == 1
    assert [lane.answered() for _ in range(8)] == [1, 1, 1, 1, 1, 1, 0, 0]


def _lane(limit: int) -> Lane:
    class Place:
        name, adapts = "place", True

        async def send(self, call: Call) -> Answer:
            raise NotImplementedError

    Place.limit = limit  # type: ignore[attr-defined]
    return Lane(Place())  # type: ignore[arg-type]


def test_endpoints_are_used_side_by_side_and_a_dead_one_costs_no_row(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.delay = 0.02
    with serve_teacher() as second:
        second.delay = 0.02
        both = [teacher_server.base_url, second.base_url]
        found, _ = ask(list(range(100)), teacher={"base_url": both}, concurrency=4)
        assert all(found.values())
        shares = [sum(server.requests.values()) for server in (teacher_server, second)]
        assert sum(shares) == 100
        assert min(shares) > 25
        second.mode = "down"
        found, engine = ask(list(range(100, 160)), teacher={"base_url": both}, concurrency=4)
        assert all(found.values())
        assert engine.failed == 0


def test_the_breaker_stops_a_run_that_only_fails(ask: Ask, teacher_server: TeacherServer, tmp_path: Path) -> None:
    teacher_server.mode = "error"
    with pytest.raises(RunError, match=f"stopped because {BREAKER}.*HTTP 400: this endpoint is broken"):
        ask(list(range(500)), concurrency=4)
    assert 20 <= sum(teacher_server.requests.values()) < 40
    teacher_server.mode = "good"
    found, _ = ask(list(range(500)), concurrency=16)
    assert all(found.values())
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert {failure[4] for failure in journal.failures()} == {True}, "failed, answered later"


def test_a_bad_row_fails_alone(ask: Ask, teacher_server: TeacherServer, tmp_path: Path) -> None:
    teacher_server.bad_words.add('text 7"')
    found, engine = ask(list(range(40)), max_failed_share=0.1)
    assert [word for word, answer in found.items() if answer is None] == [7]
    assert engine.failed == 1
    with pytest.raises(RunError, match=r"1 of 40 teacher calls failed, more than runtime.max_failed_share \(0\)"):
        ask(list(range(40)), max_failed_share=0.0)
    assert sum(teacher_server.requests.values()) == 41, "a refusal is not sent again in the same run"
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert len(journal.failures()) == 2


@pytest.mark.parametrize(
    ("cap", "most"), [({"max_calls": 30}, 30), ({"max_tokens": 3000}, 50), ({"max_cost": 0.003}, 50)]
)
def test_caps_stop_cleanly_and_a_higher_one_goes_on(
    ask: Ask, teacher_server: TeacherServer, cap: dict[str, Any], most: int
) -> None:
    found: dict[object, Answer | None] = {}
    price = {"price": {"prompt": 50.0, "output": 50.0}}  # 60 tokens a call: 0.003 is 60 tokens x 1
    (key,) = cap
    if key == "max_cost":
        cap = {"max_cost": 0.003 * most}
    with pytest.raises(RunError, match=rf"runtime\.{key} .* does not allow a further call"):
        ask(list(range(200)), found=found, teacher=price, concurrency=4, **cap)
    assert most / 3 < sum(teacher_server.requests.values()) <= most
    assert sum(1 for answer in found.values() if answer) == sum(teacher_server.requests.values())
    again, _ = ask(list(range(200)), teacher=price)
    assert all(again.values())
    assert sum(teacher_server.requests.values()) == 200


def test_a_cap_above_the_need_does_not_stop_a_run(ask: Ask) -> None:
    """32 in flight could use 32 x 20 output tokens and their prompts; all 40 together use 40 x 60."""
    found, _ = ask(list(range(40)), concurrency=32, max_tokens=40 * 60 + 400)
    assert all(found.values())


def test_a_server_that_tells_no_usage_cannot_be_capped_by_tokens(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.tells_usage = False
    with pytest.raises(RunError, match=r"does not say how many tokens .* use runtime\.max_calls instead"):
        ask(list(range(40)), concurrency=2, max_tokens=10_000)
    assert sum(teacher_server.requests.values()) < 10
    found, _ = ask(list(range(40)), max_calls=1000)
    assert all(found.values())


def test_half_a_character_hangs_nothing(ask: Ask, teacher_server: TeacherServer) -> None:
    ask([-1])
    teacher_server.surrogates = True
    found, _ = ask(list(range(20)))
    assert all(answer and "\\ud83d" in answer.text for answer in found.values())
    assert ask(list(range(20)))[0] == found
    assert sum(teacher_server.requests.values()) == 21


def test_a_row_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    async def write() -> list[Any]:
        writer = Writer(tmp_path / "j", reserve_bytes=4096)
        texts = ["a", "\ud83d", "b"]
        rows = (answer_row("s", call(text), Answer(text, "stop", 1, 1, 0.1)) for text in texts)
        found = await asyncio.gather(*(writer.put(row) for row in rows), return_exceptions=True)
        await writer.put(answer_row("s", call("later"), Answer("c", "stop", 1, 1, 0.1)))
        await writer.close()
        return list(found)

    first, bad, last = asyncio.run(write())
    assert (first, last) == (None, None)
    assert "cannot hold an answer" in str(bad)
    with Journal(tmp_path / "j") as journal:
        assert journal.usage().calls == 3


def test_a_server_that_is_out_of_order_with_503_rests(ask: Ask, teacher_server: TeacherServer) -> None:
    """A bare 503 is no wish for less: a dead server behind a proxy must not swallow the attempts."""
    teacher_server.delay = 0.05
    with serve_teacher() as second:
        both = [teacher_server.base_url, second.base_url]
        assert all(ask([-1], teacher={"base_url": both})[0].values())
        second.mode = "down"
        found, _ = ask(list(range(200)), teacher={"base_url": both}, concurrency=8)
        assert all(found.values())
        assert sum(second.requests.values()) < 50


def test_refusals_do_not_use_up_the_retries(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.most, teacher_server.delay = 1, 0.02
    found, _ = ask(list(range(12)), concurrency=4, retries=0)
    assert all(found.values())
    assert teacher_server.refused > 0


def test_a_hiccup_while_the_server_is_tried_out_ends_nothing(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.probe_faults = 2
    assert all(ask([1, 2])[0].values())


def test_a_server_that_ignores_the_schema_is_found_out(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.mode = "free"
    with pytest.raises(InputError, match=r"does not keep to a JSON Schema \(`response_format`: ignored"):
        ask([1])
    assert not teacher_server.requests
    found, _ = ask([1], teacher={"structured_output": False})
    assert found[1] is not None


def test_a_key_that_a_server_repeats_is_written_nowhere(
    ask: Ask, teacher_server: TeacherServer, tmp_path: Path
) -> None:
    teacher_server.mode = "leaky"
    with pytest.raises(RunError) as raised:
        ask([1])
    assert KEY not in str(raised.value)
    assert "***" in str(raised.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.xdist_group("offline")
def test_the_field_that_llama_cpp_obeys_is_found(tmp_path: Path) -> None:
    """Its completion API answers 200 and ignores `response_format`."""
    embedded = Teacher(api="completion")
    with serve_embedded(embedded, limit=2, timeout=60) as endpoint:
        teacher = Teacher(backend="endpoint", base_url=endpoint.base_url, model=_served(endpoint), api="completion")
        with Engine(teacher, Runtime(), tmp_path / "j", Unseen()) as engine:
            found: list[Answer | None] = []

            async def handle(number: int) -> bool:
                prompt = f"Review {number}: a calm day.\nMood:"
                found.append(
                    await engine.answer(Call(teacher.model, None, "completion", prompt, SCHEMA, 1.0, 20, number))
                )
                return True

            engine.each(range(4), handle, "responses", 4)
    assert {json.loads(answer.text) for answer in found if answer} <= set(SCHEMA["enum"])
    assert len(found) == 4
    with Journal(tmp_path / "j") as journal:
        assert [value for _, value in journal.notes("dialect ")] == ["json_schema"]


def _served(endpoint: Endpoint) -> str:
    with urllib.request.urlopen(f"{endpoint.base_url}/models", timeout=30) as reply:  # noqa: S310 # a loopback address
        return str(json.load(reply)["data"][0]["id"])


def test_no_answer_within_the_timeout_is_a_failure_of_its_row(ask: Ask, teacher_server: TeacherServer) -> None:
    teacher_server.patience = 1_000_000
    found, engine = ask(["patience", *range(30)], timeout=6.0, retries=0, concurrency=8)
    teacher_server.patience = 0
    assert [word for word, answer in found.items() if answer is None] == ["patience"]
    assert engine.failed == 1


def test_a_fault_of_our_own_loses_no_answer(ask: Ask, teacher_server: TeacherServer, tmp_path: Path) -> None:
    teacher_server.delay = 0.05
    with Engine(Teacher(**endpoint_teacher(teacher_server)), Runtime(), tmp_path / "j", Unseen()) as engine:

        async def handle(word: int) -> bool:
            return bool(1 / word) if word == 0 else bool(await engine.answer(call(word)))

        with pytest.raises(ZeroDivisionError):
            engine.each([1, 2, 3, 0, *range(4, 500)], handle, "responses", 500)
    with Journal(tmp_path / "j") as journal:
        assert journal.usage().calls == sum(teacher_server.requests.values()) < 500


def test_a_disk_without_room_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the disk of .* is full: .* MB must be free"):
        Writer(tmp_path / "j", reserve_bytes=10**15)
    assert not list(tmp_path.iterdir())


def test_rows_after_a_failed_write_use_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write() -> None:
        writer = Writer(tmp_path / "j", reserve_bytes=4096)
        monkeypatch.setattr(Journal, "write", _full_once(Journal.write))
        await writer.put(answer_row("s", call(1), Answer("a", "stop", 1, 1, 0.1)))
        assert "database or disk is full" in writer.fault
        assert not (tmp_path / "journal.reserve").exists()
        await writer.close()

    asyncio.run(write())
    with Journal(tmp_path / "j") as journal:
        assert journal.answer(call(1).call_id)


def _full_once(real: Any) -> Any:
    import sqlite3

    calls: list[int] = []

    def write(self: Journal, rows: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise sqlite3.OperationalError("database or disk is full")
        real(self, rows)

    return write
