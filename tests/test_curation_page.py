"""One annotator and a browser: a round is answered by keyboard, survives a reload, and comes back as a file."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from curation.audit.handouts import read_answers, write_review_file
from curation.audit.page import COMMAND_KEYS, fault_keys
from curation.audit.questions import FAULTS, VERDICTS
from curation.audit.records import Answer, Part, Record
from stillhouse.errors import InputError
from tests.test_curation_sheets import EVERY_TYPE, HOSTILE, record

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def open_round(page: Page, path: Path, records: list[Record], name: str | None = "Ada L.") -> None:
    write_review_file(path, records, "Demo / shop", 2)
    page.goto(path.as_uri())
    if name:
        page.keyboard.type(name)
        page.keyboard.press("Enter")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def downloaded(page: Page, folder: Path) -> Path:
    with page.expect_download() as waiting:
        press(page, "d")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def short(answer: Answer) -> tuple[Any, ...]:
    return (
        answer.sample_id,
        answer.status,
        answer.verdict,
        answer.faults,
        answer.rating,
        answer.correction,
        answer.comment,
    )


def test_a_round_is_answered_by_keyboard_alone(page: Page, tmp_path: Path) -> None:
    open_round(page, tmp_path / "round.html", EVERY_TYPE)
    started = datetime.now(UTC)
    press(page, "1", "Shift+Digit5", "Enter")
    press(page, "w", "a", "f", "e", "ControlOrMeta+a")
    page.keyboard.type("3")
    press(page, "Enter")
    press(page, "3", "m")
    page.keyboard.type("1 and 2, says who?")
    press(page, "Shift+Enter")
    page.keyboard.type("me")
    press(page, "Control+Enter")
    press(page, "s")
    press(page, "v")  # wrong and invented in one
    expect(page.locator("#state")).to_have_text("Not saved")
    expect(page.locator("#counts")).to_contain_text("3 done · 1 skipped · 1 left")
    page.reload()
    expect(page.locator("#position")).to_have_value("5")  # the first without an answer
    expect(page.locator("[value=invented]")).to_be_checked()
    press(page, "Enter")
    expect(page.locator("#summary")).to_contain_text("4 answered, 1 skipped")
    path = downloaded(page, tmp_path)
    assert path.name == "Demo-shop-round-2-Ada-L-.json"
    answers = read_answers(path, EVERY_TYPE, None, LATER)
    assert [short(answer) for answer in answers] == [
        ("s1", "submitted", "correct", (), 5, None, None),
        ("s2", "submitted", "wrong", ("wrong answer", "bad form"), None, "3", None),
        ("s3", "submitted", "unclear", (), None, None, "1 and 2, says who?\nme"),
        ("s4", "discarded", None, (), None, None, None),
        ("s5", "submitted", "wrong", ("invented",), None, None, None),
    ]
    assert {answer.annotator for answer in answers} == {"Ada L."}
    assert all(started - timedelta(seconds=1) <= answer.given_at <= datetime.now(UTC) for answer in answers)
    assert not any(answer.problem for answer in answers)


def test_answers_can_be_changed_and_unsaid(page: Page, tmp_path: Path) -> None:
    open_round(page, tmp_path / "round.html", EVERY_TYPE)
    press(page, "Enter")
    expect(page.locator("#status")).to_contain_text("Choose a verdict first")
    press(page, "1", "Enter", "k", "2", "o", "Shift+Digit2")  # a saved answer stays saved
    expect(page.locator("#state")).to_have_text("Saved")
    press(page, "ArrowRight", "2", "Enter")
    expect(page.locator("#status")).to_contain_text("Say what is wrong")
    press(page, "Enter", "c", "j", "i", "1", "n")  # a fault of a correct answer does not count
    expect(page.locator("#position")).to_have_value("5")
    page.locator("#position").fill("1")
    press(page, "Enter", "Tab")
    expect(page.locator("#position")).to_have_value("1")
    answers = read_answers(downloaded(page, tmp_path), EVERY_TYPE, None, LATER)
    assert [short(answer)[1:5] for answer in answers] == [
        ("submitted", "wrong", ("wrong words",), 2),
        ("submitted", "wrong", (), None),
        ("draft", "correct", (), None),
        ("draft", "correct", (), None),
    ]


def test_answers_are_shown_by_their_type(page: Page, tmp_path: Path) -> None:
    open_round(page, tmp_path / "round.html", [*EVERY_TYPE, record(6, answer="[]")])
    expect(page.locator("#answer .chip")).to_have_text("screen")
    expect(page.locator("#text mark")).to_have_text("screen")
    press(page, "j", "j")
    expect(page.locator("#answer li")).to_have_text(["a, b", "c"])
    press(page, "j")
    expect(page.locator("#answer tr")).to_have_text(["aspectscreen", "n1"])
    press(page, "j")
    expect(page.locator("#answer")).to_contain_text("Because the screen is good.")
    press(page, "j")
    expect(page.locator("#answer")).to_have_text("an empty list")
    assert page.locator("#answer .chip").count() == 0


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_hostile_texts_are_shown_as_texts(page: Page, tmp_path: Path, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    texts = [
        *HOSTILE,
        '</script><script>alert(1)</script><img src="http://evil.example/x.png" onerror="alert(2)">',
        "<!--<script>",
        "{{ 7 * 7 }}{% raw %}",
        "\u2028\u2029\ud800",
        "x" * 40_000,
        "long words " * 4_000,
    ]
    records = [
        record(
            number,
            parts=(Part(text), Part(text, marked=True)),
            instruction=text,
            form=text,
            answer=text.replace("\ud800", ""),
            items=(text, text) if number % 3 == 1 else (),
            fields=((text, text),) if number % 3 == 2 else (),
        )
        for number, text in enumerate(texts)
    ]
    write_review_file(tmp_path / "round.html", records, texts[8], 1)
    page.goto((tmp_path / "round.html").as_uri())
    page.keyboard.type("<b>Ada</b>")
    press(page, "Enter")
    for text in texts:
        shown = text.replace("\ud800", "\ufffd")
        contents = page.locator("#text, #instruction").all_text_contents()
        assert [content.replace("\ud800", "\ufffd") for content in contents] == [shown, shown + shown]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("img, #record script, #record b").count() == 0
        press(page, "2", "a", "Enter")
    answers = read_answers(downloaded(page, tmp_path), records, None, LATER)
    assert [(a.verdict, a.correction, a.problem) for a in answers] == [("wrong", None, None)] * len(texts)
    assert {answer.annotator for answer in answers} == {"<b>Ada</b>"}


def test_the_page_allows_itself_nothing_but_its_own_script(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page()
    open_round(page, tmp_path / "round.html", EVERY_TYPE)
    content = (tmp_path / "round.html").read_text()
    assert "default-src 'none'" in content
    assert "unsafe" not in content
    assert "http://" not in content.replace("http-equiv", "")
    refused = page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } })()"
    )
    page.close()
    assert refused


def test_another_name_asks_whose_the_answers_are(page: Page, tmp_path: Path) -> None:
    open_round(page, tmp_path / "round.html", EVERY_TYPE)
    press(page, "1", "Enter")
    for name, whose in (("Bob", "theirs"), ("Ada L.", "theirs"), ("Ada Lovelace", "mine")):
        page.locator("#rename").click()
        page.locator("#name").fill(name)
        press(page, "Enter")
        if page.locator("#other").is_visible():
            page.locator(f"#other [value={whose}]").click()
        expect(page.locator("#rename")).to_have_text(name)
        done = "0 done" if name == "Bob" else "1 done"
        expect(page.locator("#counts")).to_contain_text(done)
    answers = read_answers(downloaded(page, tmp_path), EVERY_TYPE, None, LATER)
    assert [(answer.annotator, answer.verdict) for answer in answers] == [("Ada Lovelace", "correct")]


def test_leaving_with_answers_that_no_download_holds_asks_first(browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    open_round(page, tmp_path / "round.html", EVERY_TYPE)
    page.reload()
    assert asked == []
    press(page, "1", "Enter")
    page.reload()
    assert asked == ["beforeunload"]
    downloaded(page, tmp_path)
    page.reload()
    assert asked == ["beforeunload"]
    context.close()


def test_a_browser_that_keeps_nothing_is_told_of_and_works(page: Page, tmp_path: Path) -> None:
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused') } })")
    open_round(page, tmp_path / "round.html", EVERY_TYPE)
    expect(page.locator("#notice")).to_contain_text("download your answers before you leave")
    press(page, "1", "Enter", "k")
    page.locator("#rename").click()
    page.locator("#name").fill("Bob")
    press(page, "Enter")
    page.locator("#other [value=mine]").click()
    expect(page.locator("#rename")).to_have_text("Bob")  # a dialog closes before its answer is taken
    answers = read_answers(downloaded(page, tmp_path), EVERY_TYPE, None, LATER)
    assert [(answer.annotator, answer.verdict) for answer in answers] == [("Bob", "correct")]


def test_help_and_guidelines_open_by_key(page: Page, tmp_path: Path) -> None:
    open_round(page, tmp_path / "round.html", EVERY_TYPE)
    press(page, "?")
    expect(page.locator("#help")).to_be_visible()
    press(page, "1", "Escape", "g")
    expect(page.locator("#help")).to_be_hidden()
    expect(page.locator("#guidelines")).to_contain_text("Competent readers could disagree")
    expect(page.locator("#guidelines strong").first).to_be_visible()
    expect(page.locator("[name=verdict]:checked")).to_have_count(0)


def test_every_control_has_a_name_and_every_fault_a_key(page: Page, tmp_path: Path) -> None:
    open_round(page, tmp_path / "round.html", EVERY_TYPE)
    nameless = "[...document.querySelectorAll('input, textarea')].filter((box) => !box.labels.length).length"
    assert page.evaluate(nameless) == 0
    keys = list(fault_keys().values())
    assert len(set(keys)) == len(FAULTS)
    assert not COMMAND_KEYS.intersection(keys)
    assert {name[0] for name in VERDICTS} <= COMMAND_KEYS


def test_a_round_without_records_says_so(page: Page, tmp_path: Path) -> None:
    open_round(page, tmp_path / "round.html", [])
    expect(page.locator("#finished")).to_contain_text("This round has no records")


def test_five_thousand_records_answer_at_once(page: Page, tmp_path: Path) -> None:
    records = [record(number, parts=(Part(f"{number}: " + "Some words of a user. " * 20),)) for number in range(5000)]
    started = time.perf_counter()
    open_round(page, tmp_path / "round.html", records)
    expect(page.locator("#record")).to_be_visible()
    assert time.perf_counter() - started < 15
    started = time.perf_counter()
    for _ in range(20):
        press(page, "1", "Enter")
    expect(page.locator("#position")).to_have_value("21")
    assert (time.perf_counter() - started) / 20 < 0.5


def content_of(**changes: Any) -> dict[str, Any]:
    answer = {
        "sample_id": "s1",
        "version": "v1",
        "status": "submitted",
        "verdict": "correct",
        "faults": [],
        "rating": None,
        "correction": None,
        "comment": None,
        "given_at": "2030-01-02T03:04:05.678Z",
    }
    file = {"stillhouse_review": 1, "title": "Demo", "round": 2, "annotator": "ada"}
    return file | {"answers": [answer | changes]}


def read(path: Path, content: Any, annotator: str | None = None) -> Answer:
    path.write_text(json.dumps(content))
    return read_answers(path, [record(1)], annotator, LATER)[0]


def test_a_download_is_checked_like_a_sheet(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    answer = read(path, content_of(given_at="2030-01-02T03:04:05.678+02:00"))
    assert answer.given_at == datetime(2030, 1, 2, 1, 4, 5, 678000, tzinfo=UTC)
    assert read(path, content_of(given_at="2200-01-01T00:00:00Z")).given_at == LATER
    problem = read(path, content_of(verdict="korrekt", rating=7, faults=["silly", "invented"])).problem or ""
    assert problem.startswith(f"{path}, answer 1: column verdict holds 'korrekt'")
    assert "'silly'" in problem
    assert "'7'" in problem
    assert read(path, content_of(verdict=None)).problem == f"{path}, answer 1: no verdict"
    assert read(path, content_of() | {"annotator": " "}, "bob").annotator == "bob"
    with pytest.raises(InputError, match="who answered"):
        read(path, content_of() | {"annotator": " "})
    with pytest.raises(InputError, match="not of this round"):
        read(path, content_of(version="older"))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"answers": []},
        content_of() | {"stillhouse_review": 2},
        content_of(status="done"),
        content_of(given_at="2030-01-02T03:04:05"),
        content_of(given_at="yesterday"),
        content_of(rating="4"),
        content_of(more=1),
    ],
)
def test_a_damaged_download_is_named(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match=r"a\.json is not a download of the review page: .*Download the answers again"):
        read(tmp_path / "a.json", content)
    (tmp_path / "b.json").write_bytes(b'{"stillhouse_review": 1')
    with pytest.raises(InputError, match="not a download"):
        read_answers(tmp_path / "b.json", [record(1)], None, LATER)


@settings(max_examples=40, deadline=None)
@given(answer=st.text(max_size=60), typed=st.text(max_size=60))
def test_a_correction_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, answer: str, typed: str) -> None:
    path = tmp_path_factory.mktemp("page") / "a.json"
    for correction, expected in ((None, None), (answer, None), (f"{answer}.{typed}", f"{answer}.{typed}")):
        path.write_text(json.dumps(content_of(verdict="wrong", correction=correction)))
        assert read_answers(path, [record(1, answer=answer)], None, LATER)[0].correction == expected


# One browser for all examples.
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.text(max_size=60))
def test_an_untouched_box_is_no_correction(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, answer: str
) -> None:
    folder = tmp_path_factory.mktemp("page")
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    records = [record(1, answer=answer), record(2, answer=answer)]
    open_round(page, folder / "round.html", records)
    press(page, "a", "Enter", "a", "e", "x", "y", "Escape")
    untouched, continued = read_answers(downloaded(page, folder), records, None, LATER)
    context.close()
    assert untouched.correction is None
    assert (continued.correction or "").endswith("xy")
