"""A round as a spreadsheet: one row a record, columns to read, columns to fill in, and what the rows are called."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import fastexcel
import polars as pl
import xlsxwriter
from markdown_it import MarkdownIt

from curation.audit.filled import Filled, answers_of, correction_of, legible
from curation.audit.questions import FAULTS, RATINGS, VERDICTS, guidelines
from curation.audit.records import Answer, Part, Record
from stillhouse.errors import InputError
from stillhouse.exporting import guarded, unguarded
from stillhouse.store import write_atomically

# Columns and their widths in characters.
SHOWN = {"number": 8, "text": 52, "instruction": 30, "answer": 30}
ASKED = {"verdict": 11, "what is wrong": 18, "quality": 9, "corrected answer": 30, "comment": 22, "annotator": 13}
KEYS = {"sample_id": 5, "version": 5}
COLUMNS = SHOWN | ASKED | KEYS
A4 = 9  # as Excel numbers papers
PAGE_WIDTH = 76  # characters that fit upright on A4

MAX_UNITS = 32_700  # UTF-16 units of a cell: Excel takes 32,767, marks and an apostrophe included
CUT = " […]"
TOO_LONG = f"{CUT} (too long for a cell: write the corrected answer from scratch, or say in the comment what to change)"

# A CSV cell has no type: Excel would read such a key as a number.
_NUMBER = re.compile(r"\d+(e\d+)?")

HOW_TO = (
    "Fill in the yellow columns of the sheet Records, one row a record. A verdict is all that a correct answer needs. "
    "Several names under 'what is wrong' are separated by commas. Your name under 'annotator' may be left out where "
    "nobody else fills in this file. The grey columns at the end have to stay as they are."
)


def write_sheet(path: Path, records: Sequence[Record], title: str, round_number: int) -> None:
    """Write a round as .xlsx or .csv, whole or not at all. Raises InputError for another suffix."""
    if path.suffix.lower() == ".xlsx":
        write_atomically(path, _workbook(records, title, round_number))
    elif path.suffix.lower() == ".csv":
        write_atomically(path, _csv(records))
    else:
        raise InputError(f"{path} is no spreadsheet; writable: .xlsx, .csv")


def read_sheet(path: Path, records: Sequence[Record], annotator: str | None, now: datetime) -> list[Answer]:
    """Return the answers of a filled spreadsheet; rows without any are left out.

    `annotator` answered where the column is empty; `now` is when the answers count as given.
    Raises InputError naming file, row or column where the file cannot be read or is of another round.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _workbook_rows(path)
    shown = {(record.sample_id, record.version): record for record in records}
    filled = [_filled(f"{path}, row {number}", row, shown, annotator or "", now) for number, row in rows]
    return answers_of(filled, records)


def _cells(record: Record) -> dict[str, str]:
    """Return the texts of a row, by column; those of the text itself and of the number are up to the kind of file."""
    answer = legible(record.answer)
    fits = _units(answer) <= MAX_UNITS
    return {
        "instruction": _cut("\n\n".join(filter(None, (record.instruction, record.form)))),
        "answer": _cut(_answer_lines(record)) if fits else _cut(answer, TOO_LONG),
        "corrected answer": answer if fits else "",
        "sample_id": record.sample_id,
        "version": record.version,
    }


def _answer_lines(record: Record) -> str:
    items = [f"• {item}" for item in record.items]
    return "\n".join(items + [f"{name}: {value}" for name, value in record.fields]) or record.answer


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _cut(text: str, end: str = CUT) -> str:
    text = legible(text)
    if _units(text) <= MAX_UNITS:
        return text
    return text.encode("utf-16-le")[: 2 * (MAX_UNITS - len(end))].decode("utf-16-le", "ignore") + end


def _cut_parts(parts: Sequence[Part], spare: int = 0) -> list[Part]:
    """Return the parts as far as they fit one cell that keeps `spare` units a part free."""
    left = MAX_UNITS - len(CUT)
    kept: list[Part] = []
    for part in parts:
        text = legible(part.text)
        if not text:
            continue
        units = _units(text) + spare
        if units > left:
            text = text.encode("utf-16-le")[: 2 * max(left - spare, 0)].decode("utf-16-le", "ignore")
            return [*kept, *([Part(text, part.marked)] if text else []), Part(CUT)]
        left -= units
        kept.append(Part(text, part.marked))
    return kept


# CSV


def _csv(records: Sequence[Record]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(COLUMNS), restval="")
    writer.writeheader()
    for number, record in enumerate(records, start=1):
        cells = _cells(record) | {"text": _marked_text(record.parts)}
        texts = {name: guarded(text) for name, text in cells.items()}
        keys = {name: _guarded_key(cells[name]) for name in KEYS}
        writer.writerow({"number": number} | texts | keys)
    return file.getvalue().encode("utf-8-sig")  # Excel takes a file without the mark for Latin-1


def _marked_text(parts: Sequence[Part]) -> str:
    return "".join(f"«{part.text}»" if part.marked else part.text for part in _cut_parts(parts, spare=2))


def _guarded_key(key: str) -> str:
    return f"'{key}" if _NUMBER.fullmatch(key) else key


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}), so letters would be lost; save it as 'CSV UTF-8' or as .xlsx"
        ) from error
    heading = content.partition("\n")[0]
    separator = max(",;\t", key=heading.count)  # a spreadsheet writes the one of its country
    try:
        rows = list(csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise InputError(f"{path} is not a readable CSV file ({error}); save it as .xlsx") from error
    return _named(path, [[unguarded(cell) for cell in row] for row in rows])


# XLSX


def _workbook(records: Sequence[Record], title: str, round_number: int) -> bytes:
    content = io.BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(content, options) as workbook:
        workbook.set_properties({"title": legible(title)})
        sheet = workbook.add_worksheet("Records")
        _lay_out(workbook, sheet, len(records), f"{title}, round {round_number}")
        styles = _styles(workbook)
        for row, record in enumerate(records, start=1):
            _write_row(sheet, row, record, styles)
        _write_guidelines(workbook, f"{title}, round {round_number}")
    return content.getvalue()


def _styles(workbook: xlsxwriter.Workbook) -> dict[str, Any]:
    """Return the formats by column; what is typed stays the text it is (`@`), also where it begins with `=`."""
    cell = {"text_wrap": True, "valign": "top", "border": 1, "border_color": "#D0D0D0"}
    asked = {name: cell | {"bg_color": "#FFFBE6", "num_format": "@"} for name in ASKED}
    asked["quality"]["num_format"] = "General"
    keys = {name: cell | {"font_color": "#A0A0A0", "num_format": "@", "text_wrap": False} for name in KEYS}
    every = dict.fromkeys(SHOWN, cell) | asked | keys
    mark = {"bold": True, "font_color": "#9C4A00"}
    return {name: workbook.add_format(style) for name, style in every.items()} | {
        "mark": workbook.add_format(mark),
        "marked cell": workbook.add_format(cell | mark),
    }


def _write_row(sheet: Any, row: int, record: Record, styles: dict[str, Any]) -> None:
    cells = _cells(record)
    text = "".join(part.text for part in record.parts)
    sheet.set_row(row, _height(cells | {"text": text}))
    for column, name in enumerate(COLUMNS):
        if name == "number":
            sheet.write_number(row, column, row, styles[name])
        elif name == "text":
            _write_parts(sheet, row, column, _cut_parts(record.parts), styles)
        elif cells.get(name):
            sheet.write_string(row, column, cells[name], styles[name])
        else:
            sheet.write_blank(row, column, None, styles[name])


def _height(cells: dict[str, str]) -> float:
    """Return the points that show the tallest cell, as far as a row can; not every program finds that out itself."""
    lines = (
        sum(1 + _breadth(line) // COLUMNS[name] for line in cells[name].split("\n")) for name in cells.keys() - KEYS
    )
    return min(15 * max(lines) + 4, 409)


def _breadth(line: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in line)


def _write_parts(sheet: Any, row: int, column: int, parts: Sequence[Part], styles: dict[str, Any]) -> None:
    if len(parts) > 1 and any(part.marked for part in parts):
        pieces = [piece for part in parts for piece in ((styles["mark"], part.text) if part.marked else (part.text,))]
        sheet.write_rich_string(row, column, *pieces, styles["text"])
    else:  # a rich string has several formats
        style = "marked cell" if parts and parts[0].marked else "text"
        sheet.write_string(row, column, "".join(part.text for part in parts), styles[style])


def _lay_out(workbook: xlsxwriter.Workbook, sheet: Any, rows: int, heading: str) -> None:
    """Write the header, the widths, what may be chosen, and how it prints."""
    fills = dict.fromkeys(SHOWN, "#E8EEF7") | dict.fromkeys(ASKED, "#FFE699") | dict.fromkeys(KEYS, "#E0E0E0")
    for column, (name, width) in enumerate(COLUMNS.items()):
        header = {"bold": True, "bg_color": fills[name], "border": 1, "border_color": "#B0B0B0", "valign": "vcenter"}
        sheet.write_string(0, column, name, workbook.add_format(header))
        sheet.set_column(column, column, width)
        if rows and name in _CHOICES:
            sheet.data_validation(1, column, rows, column, _CHOICES[name])
    sheet.set_row(0, 24)
    sheet.freeze_panes(1, 1)
    sheet.autofilter(0, 0, rows, len(COLUMNS) - 1)
    sheet.set_landscape()
    sheet.set_paper(A4)
    sheet.fit_to_pages(1, 0)
    sheet.repeat_rows(0)
    sheet.print_area(0, 0, rows, len(SHOWN | ASKED) - 1)
    sheet.set_header(f"&L{_header_text(heading)}&RPage &P of &N")


def _header_text(heading: str) -> str:
    return legible(heading).replace("&", "&&")[:200]  # Excel takes 255 characters of header, and & is its escape


_CHOICES: dict[str, dict[str, Any]] = {
    "verdict": {
        "validate": "list",
        "source": list(VERDICTS),
        "error_title": "No such verdict",
        "error_message": f"Choose one of: {', '.join(VERDICTS)}.",
    },
    "what is wrong": {
        "validate": "any",  # a list would allow one value only
        "input_title": "Several with commas",
        "input_message": "\n".join(FAULTS),
    },
    "quality": {
        "validate": "list",
        "source": list(RATINGS),
        "error_title": "No such rating",
        "error_message": f"Choose a whole number from {RATINGS[0]} (useless) to {RATINGS[-1]} (could not be better).",
    },
    **{key: {"validate": "any", "input_title": "Do not change", "input_message": "Names the record."} for key in KEYS},
}


def _write_guidelines(workbook: xlsxwriter.Workbook, heading: str) -> None:
    sheet = workbook.add_worksheet("Guidelines")
    sheet.set_column(0, 0, PAGE_WIDTH)
    wrapped = {"text_wrap": True, "valign": "top"}
    sheet.write_string(0, 0, legible(heading), workbook.add_format({"bold": True, "font_size": 14}))
    sheet.write_string(1, 0, HOW_TO, workbook.add_format(wrapped | {"bg_color": "#FFFBE6"}))
    sheet.set_row(1, 15 * (1 + len(HOW_TO) // PAGE_WIDTH))
    for row, (depth, line) in enumerate(_guideline_lines(), start=2):
        sheet.set_row(row, 15 * (1 + len(line) // PAGE_WIDTH) + 3)
        sheet.write_string(row, 0, line, workbook.add_format(wrapped | {"align": "left", "indent": 2 * depth}))
    sheet.set_paper(A4)


def _guideline_lines() -> Iterator[tuple[int, str]]:
    """Yield the paragraphs and items of the guidelines, each with its depth."""
    marker = ""
    for token in MarkdownIt("commonmark").parse(guidelines()):
        if token.type == "list_item_open":
            marker = f"{token.info}. " if token.info else "• "
        elif token.type == "inline":
            words = "".join("\n" if child.type == "softbreak" else child.content for child in token.children or ())
            yield token.level // 2, marker + words.replace("\n", " ")
            marker = ""


def _workbook_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        frame = pl.read_excel(
            path,
            sheet_id=1,
            has_header=False,
            infer_schema_length=0,
            drop_empty_rows=False,
            drop_empty_cols=False,
            raise_if_empty=False,
        )
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} is not a readable .xlsx file ({error}); save it again, without a password") from error
    return _named(path, [[value or "" for value in row] for row in frame.iter_rows()])


# What both kinds of file have in common


def _named(path: Path, rows: Sequence[Sequence[str]]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows that hold anything, by column, each with its number in the spreadsheet."""
    names = [" ".join(name.split()).casefold() for name in rows[0]] if rows else []
    missing = [name for name in (*ASKED, *KEYS) if name not in names]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)} in its first row; give the file that was written for the "
            "round, with its columns (their order does not matter)"
        )
    return [
        (number, dict(zip(names, row, strict=False)))
        for number, row in enumerate(rows[1:], start=2)
        if any(map(str.strip, row))
    ]


def _filled(
    place: str,
    row: dict[str, str],
    shown: dict[tuple[str, str], Record],
    annotator: str,
    now: datetime,
) -> Filled:
    cells = {name: row.get(name, "") for name in COLUMNS}
    key = tuple(cells[name].strip().removeprefix("'") for name in KEYS)
    record = shown.get((key[0], key[1]))
    verdict = cells["verdict"].strip()
    return Filled(
        place=place,
        sample_id=key[0],
        version=key[1],
        annotator=cells["annotator"].strip() or annotator,
        status="submitted" if verdict else "draft",
        verdict=verdict,
        faults=tuple(name.strip() for name in re.split(r"[,;\n]", cells["what is wrong"]) if name.strip()),
        rating=cells["quality"].strip(),
        correction=correction_of(cells["corrected answer"], record.answer) if record else None,
        comment=cells["comment"].strip(),
        given_at=now,
    )
