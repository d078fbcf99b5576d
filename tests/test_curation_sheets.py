"""A round goes out as a spreadsheet and comes back: nothing is lost, nothing is executed, nothing wrong is silent."""

import csv
import io
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.audit.filled import legible
from curation.audit.handouts import read_answers, write_review_file
from curation.audit.records import Part, Record
from curation.audit.sheets import COLUMNS
from stillhouse.errors import InputError

NOW = datetime(2030, 5, 6, 7, 8, tzinfo=UTC)
KINDS = ["xlsx", "csv"]
HOSTILE = [
    '=HYPERLINK("http://evil.example/","click")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "'=1+1",
    "''",
    "＝1+1",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "{=1+1}",
    "\u202eright to left\u202c مرحبا",
    "bell \x07 and \x00 and \ufffe",
    "😀" * 50,
    'quote " comma , semicolon ; \r\n line',
    "_x0041_",
    "http://evil.example/",
    "007",
]


def record(number: int = 1, **changes: Any) -> Record:
    usual: dict[str, Any] = {
        "sample_id": f"s{number}",
        "version": f"v{number}",
        "parts": (Part("Good "), Part("screen", marked=True), Part(", bad support.")),
        "instruction": "Which part is good?",
        "form": "Answer with a short label.",
        "answer": "screen",
        "items": (),
        "fields": (),
        "perspective": "aspects",
        "task_type": "classification",
        "domain": "shop",
        "difficulty": 0.5,
        "stratum": "one",
        "population": "kept",
        "answers": 1,
    }
    return Record(**(usual | changes))


EVERY_TYPE = [
    record(1),
    record(2, task_type="scoring", answer="4"),
    record(3, task_type="extraction", answer='["a, b", "c"]', items=("a, b", "c")),
    record(4, task_type="structured", answer='{"aspect": "screen", "n": 1}', fields=(("aspect", "screen"), ("n", "1"))),
    record(5, task_type="analysis", answer="Because the screen is good.\n\nNothing else is."),
]


def cells(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".xlsx":
        frame = pl.read_excel(path, sheet_id=1, infer_schema_length=0)
        return [{name: value or "" for name, value in row.items()} for row in frame.iter_rows(named=True)]
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def save(path: Path, rows: list[dict[str, Any]], names: list[str] | None = None) -> None:
    """Write cells as a spreadsheet program does."""
    names = names or list(rows[0])
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return
    with xlsxwriter.Workbook(path, {"strings_to_formulas": False, "strings_to_urls": False}) as workbook:
        sheet = workbook.add_worksheet()
        for number, values in enumerate([names, *([row.get(name, "") for name in names] for row in rows)]):
            for column, value in enumerate(values):
                (sheet.write_number if isinstance(value, float) else sheet.write_string)(number, column, value)


def fill(path: Path, *answers: dict[str, Any]) -> None:
    rows = cells(path)
    save(path, [row | answer for row, answer in zip(rows, answers, strict=True)])


@pytest.fixture(params=KINDS)
def sheet(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[Record]], Path]:
    def write(records: list[Record]) -> Path:
        path = tmp_path / f"round.{request.param}"
        write_review_file(path, records, "Demo", 1)
        return path

    return write


def test_every_type_of_answer_goes_out_and_comes_back(sheet: Callable[[list[Record]], Path]) -> None:
    path = sheet(EVERY_TYPE)
    assert read_answers(path, EVERY_TYPE, "ada", NOW) == []
    given_answers: list[dict[str, Any]] = [
        {"verdict": "correct", "quality": "5"},
        {"verdict": " Wrong ", "what is wrong": "wrong answer, Bad  form", "corrected answer": "3", "quality": "2,0"},
        {"verdict": "UNCLEAR", "comment": "=what?", "annotator": "bob"},
        {
            "verdict": "wrong",
            "corrected answer": '{"aspect": "support", "n": 1}',
            "what is wrong": "invented;incomplete",
        },
        {"comment": "later"},
    ]
    fill(path, *given_answers)
    answers = read_answers(path, EVERY_TYPE, "ada", NOW)
    assert [answer.problem for answer in answers] == [None] * 5
    assert [(a.sample_id, a.version) for a in answers] == [(f"s{n}", f"v{n}") for n in range(1, 6)]
    assert [answer.annotator for answer in answers] == ["ada", "ada", "bob", "ada", "ada"]
    assert [answer.status for answer in answers] == ["submitted"] * 4 + ["draft"]
    assert [answer.verdict for answer in answers] == ["correct", "wrong", "unclear", "wrong", None]
    assert [answer.rating for answer in answers] == [5, 2, None, None, None]
    assert answers[1].faults == ("wrong answer", "bad form")
    assert answers[3].faults == ("invented", "incomplete")
    corrections = [None, "3", None, '{"aspect": "support", "n": 1}', None]
    assert [answer.correction for answer in answers] == corrections
    assert [answer.comment for answer in answers] == [None, None, "=what?", None, "later"]
    assert {answer.given_at for answer in answers} == {NOW}


def test_a_person_reads_parts_instruction_and_answer(sheet: Callable[[list[Record]], Path]) -> None:
    path = sheet(EVERY_TYPE)
    rows = cells(path)
    assert list(rows[0]) == list(COLUMNS)
    marked = "Good screen, bad support." if path.suffix == ".xlsx" else "Good «screen», bad support."
    assert rows[0]["text"] == marked
    assert rows[0]["instruction"] == "Which part is good?\n\nAnswer with a short label."
    assert [row["answer"] for row in rows][2:4] == ["• a, b\n• c", "aspect: screen\nn: 1"]
    assert [row["corrected answer"] for row in rows] == [record.answer for record in EVERY_TYPE]


def test_hostile_texts_stay_texts(sheet: Callable[[list[Record]], Path]) -> None:
    records = [
        record(
            number, parts=(Part(text), Part(text, marked=True)), instruction=text, answer=text, sample_id=f"{number}e5"
        )
        for number, text in enumerate(HOSTILE)
    ]
    path = sheet(records)
    if path.suffix == ".xlsx":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            assert b"<f>" not in archive.read("xl/worksheets/sheet1.xml")
            assert not [name for name in names if "rels" in name and b"evil" in archive.read(name)]
    else:
        texts = [value for row in cells(path) for value in row.values()]
        assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    rows = cells(path)
    fill(path, *({"verdict": "correct"} for _ in rows))
    answers = read_answers(path, records, "ada", NOW)
    assert [answer.sample_id for answer in answers] == [record.sample_id for record in records]
    assert [(answer.correction, answer.problem) for answer in answers] == [(None, None)] * len(HOSTILE)


def test_what_is_too_long_for_a_cell_is_cut_and_said_to_be(sheet: Callable[[list[Record]], Path]) -> None:
    long = "😀 word" * 8000
    records = [
        record(1, parts=(Part(long), Part("end", marked=True)), answer=long),
        record(2, parts=(Part("b" * 40000, marked=True),)),
    ]
    path = sheet(records)
    rows = cells(path)
    assert all(len(value.encode("utf-16-le")) // 2 <= 32767 for row in rows for value in row.values())
    assert [row["text"].rstrip("»")[-3:] for row in rows] == ["[…]", "[…]"]
    assert "from scratch" in rows[0]["answer"]
    assert rows[0]["corrected answer"] == ""
    fill(path, {"verdict": "wrong"}, {"verdict": "correct"})
    assert [answer.correction for answer in read_answers(path, records, "ada", NOW)] == [None, None]


# What a person can type into a cell: no control characters, and no surrogates.
TYPED = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=60)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(answer=st.text(max_size=60), typed=TYPED)
@example(answer="-1", typed="-2")
@example(answer="-1", typed="'tis")
@example(answer="'=1", typed="''=1")
@example(answer="a\rb\r\nc", typed="a\nb")
@example(answer="  padded\n", typed=" padded")
def test_what_was_not_edited_is_no_correction_and_an_edit_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, kind: str, answer: str, typed: str
) -> None:
    path = tmp_path_factory.mktemp("sheet") / f"round.{kind}"
    records = [record(1, answer=answer), record(2, answer=answer)]
    write_review_file(path, records, "Demo", 1)
    cell = cells(path)[0]["corrected answer"]
    fill(path, {"verdict": "wrong"}, {"verdict": "wrong", "corrected answer": f"{cell}.{typed}"})
    untouched, continued = read_answers(path, records, "ada", NOW)
    assert untouched.correction is None
    assert continued.correction == f"{legible(answer)}.{typed}"
    fill(path, {"verdict": "wrong"}, {"verdict": "wrong", "corrected answer": f"so: {typed}"})
    assert read_answers(path, records, "ada", NOW)[1].correction == f"so: {typed}"


def test_values_that_are_no_answer_do_not_stop_the_others(sheet: Callable[[list[Record]], Path]) -> None:
    path = sheet(EVERY_TYPE)
    fill(
        path,
        {"verdict": "korrekt", "quality": "4"},
        {"verdict": "wrong", "what is wrong": "wrong answer, silly", "quality": "7"},
        {"verdict": "correct"},
        {"verdict": "correct", "version": "older"},
        {"verdict": "correct", "sample_id": "s3", "version": "v3"},
    )
    answers = read_answers(path, EVERY_TYPE, "ada", NOW)
    problems = [answer.problem or "" for answer in answers]
    assert problems[0] == f"{path}, row 2: column verdict holds 'korrekt'; allowed: correct, wrong, unclear"
    assert (answers[0].verdict, answers[0].rating, answers[0].status) == (None, 4, "submitted")
    assert "row 3" in problems[1]
    assert "'silly'" in problems[1]
    assert "quality holds '7'; allowed: 1 to 5" in problems[1]
    assert (answers[1].verdict, answers[1].faults, answers[1].rating) == ("wrong", ("wrong answer",), None)
    assert problems[2] == ""
    assert "'s4' in version 'older' is not of this round" in problems[3]
    assert "answers this sample again; the first time is" in problems[4]


def test_rows_all_of_another_round_are_refused(sheet: Callable[[list[Record]], Path]) -> None:
    path = sheet(EVERY_TYPE)
    with pytest.raises(InputError, match=r"row 2: sample 's1' and all others .* not of this round; give the file"):
        read_answers(path, [record(9)], "ada", NOW)


def test_somebody_has_to_have_answered(sheet: Callable[[list[Record]], Path]) -> None:
    path = sheet([record(1), record(2)])
    fill(path, {"annotator": "bob"}, {"verdict": "correct"})
    with pytest.raises(InputError, match="row 3: who answered"):
        read_answers(path, [record(1), record(2)], None, NOW)


def test_order_case_extra_columns_floats_and_blank_rows_do_not_matter(sheet: Callable[[list[Record]], Path]) -> None:
    path = sheet([record(1), record(2)])
    rows: list[dict[str, Any]] = [
        {name.upper(): value for name, value in row.items()} | {"SEEN": "x", "VERDICT": "correct", "QUALITY": 4.0}
        for row in cells(path)
    ]
    rows += [dict.fromkeys(rows[0], ""), dict.fromkeys(rows[0], " ")]
    save(path, rows, sorted(rows[0], reverse=True))
    answers = read_answers(path, [record(1), record(2)], "ada", NOW)
    assert [(a.sample_id, a.verdict, a.rating, a.problem) for a in answers] == [
        ("s1", "correct", 4, None),
        ("s2", "correct", 4, None),
    ]


@pytest.mark.parametrize(("separator", "mark"), [(";", b"\xef\xbb\xbf"), ("\t", b""), (",", b"")])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_csv_files_of_other_countries_are_read(tmp_path: Path, separator: str, mark: bytes, end: str) -> None:
    path = tmp_path / "round.CSV"
    records = [record(1, answer="a;b,c\nd"), record(2)]
    write_review_file(path, records, "Demo", 1)
    rows = cells(path)
    rows[1] |= {"verdict": "wrong", "corrected answer": "b;c,\nd"}
    rows[0]["verdict"] = "correct"
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(mark + file.getvalue().encode())
    answers = read_answers(path, records, "ada", NOW)
    assert [(a.verdict, a.correction) for a in answers] == [("correct", None), ("wrong", "b;c,\nd")]


def test_missing_columns_are_named(sheet: Callable[[list[Record]], Path]) -> None:
    path = sheet([record(1)])
    rows = cells(path)
    save(path, rows, [name for name in rows[0] if name not in ("version", "quality")])
    with pytest.raises(InputError, match="has no column quality, version in its first row"):
        read_answers(path, [record(1)], "ada", NOW)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"PK\x03\x04 broken", "not a readable .xlsx file"),
        ("a.xlsx", b"", "not a readable .xlsx file"),
        ("a.csv", b"", "has no column"),
        ("a.csv", b"verdict\n\xe4\n", "not UTF-8"),
        ("a.csv", b'verdict\n"open\n', "not a readable CSV file"),
        ("a.ods", b"", "of no known kind"),
        ("a.html", b"", "Download answers"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_answers(path, [record(1)], "ada", NOW)
    with pytest.raises(InputError, match="does not exist"):
        read_answers(tmp_path / "other.csv", [record(1)], "ada", NOW)


def test_files_of_other_kinds_and_places_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"writable: \.xlsx, \.csv, \.html"):
        write_review_file(tmp_path / "round.ods", [record(1)], "Demo", 1)
    with pytest.raises(InputError, match=r"folder .* does not exist"):
        write_review_file(tmp_path / "none" / "round.csv", [record(1)], "Demo", 1)
    assert not list(tmp_path.iterdir())


def test_a_round_without_records_is_a_header(sheet: Callable[[list[Record]], Path]) -> None:
    assert read_answers(sheet([]), [], "ada", NOW) == []


def test_a_workbook_offers_choices_and_guidelines(tmp_path: Path) -> None:
    path = tmp_path / "round.xlsx"
    write_review_file(path, EVERY_TYPE, "Demo & sons", 3)
    with zipfile.ZipFile(path) as archive:
        sheet, guidelines = (archive.read(f"xl/worksheets/sheet{number}.xml").decode() for number in (1, 2))
        strings = archive.read("xl/sharedStrings.xml").decode()
    assert '"correct,wrong,unclear"' in sheet.replace("&quot;", '"')
    assert '"1,2,3,4,5"' in sheet.replace("&quot;", '"')
    assert 'state="frozen"' in sheet
    assert "&amp;LDemo &amp;&amp; sons, round 3" in sheet
    assert guidelines.count("<row") > 15
    assert "Demo &amp; sons, round 3" in strings
    assert "• <" not in strings
    assert "<b/>" in strings  # the marked words
