"""Tables can be read, paged, drawn from, exported and counted, and what others wrote cannot steer the terminal."""

import csv
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pexpect
import polars as pl
import pytest
from rich.console import Console

from stillhouse.errors import InputError
from stillhouse.exporting import write_rows
from stillhouse.inspection import cards, choose, counts_by, page, plain, with_id
from stillhouse.store import RunFolder
from tests.conftest import COMMAND, in_process

ROWS = pl.DataFrame(
    {"id": ["a", "b", "c"], "status": ["valid", "invalid", "invalid"], "reason": [None, "not JSON", "x"]}
)
HOSTILE = "\x1b]0;owned\x07 [bold]x[/bold] \u202edlrow\u202c [link=http://x]y[/link] \x1b[2J\x9b31m"
MANY = 50_000


def shown(rows: pl.DataFrame, **options: Any) -> str:
    console = Console(file=io.StringIO(), **options)
    page(cards(rows, console), console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def responses_of(run: Path) -> pl.DataFrame:
    return RunFolder(run).read_table("responses")


def printed_rows(*arguments: object) -> list[dict[str, Any]]:
    done = in_process("inspect", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def terminal(*arguments: object, **variables: str) -> Iterator["pexpect.spawn[str]"]:
    """Run the command in a terminal of 24 lines and 80 columns."""
    settings = {name: value for name, value in os.environ.items() if name not in ("PAGER", "LESS", "NO_COLOR")}
    command = [COMMAND, *map(str, arguments)]
    child = pexpect.spawn(
        command[0], command[1:], env={**settings, "TERM": "xterm", **variables}, dimensions=(24, 80), encoding="utf-8"
    )
    yield child
    child.close(force=True)


@pytest.fixture
def hostile_run(answered_run: Path, tmp_path: Path) -> RunFolder:
    """A run with very many answers that want to steer the terminal."""
    folder = RunFolder(Path(shutil.copytree(answered_run, tmp_path / "run")))
    one = folder.read_table("responses").head(1)
    ids = pl.format("s{}", pl.int_range(MANY).cast(pl.String).str.zfill(15))
    folder.write_table("responses", one.select(pl.all().repeat_by(MANY).explode()).with_columns(
        sample_id=ids, output=pl.lit(HOSTILE)
    ))  # fmt: skip
    return folder


def test_rows_are_chosen_by_a_condition() -> None:
    assert choose(ROWS, "status = 'invalid'")["id"].to_list() == ["b", "c"]
    assert choose(ROWS, "reason LIKE '%select%' OR id = 'a'")["id"].to_list() == ["a"]
    assert choose(ROWS, None).equals(ROWS)
    for wrong in ("colour = 1", "status ==", "1; DROP", "id", "id = 'a' LIMIT 1", "id = 'a' UNION"):
        with pytest.raises(InputError, match=r"--where: .*Columns: id, status, reason"):
            choose(ROWS, wrong)


@pytest.mark.parametrize("kind", ["csv", "parquet", "ipc", "json"])
def test_a_condition_cannot_read_files_or_other_tables(tmp_path: Path, kind: str) -> None:
    secret, path = ROWS.select("id"), tmp_path / f"secret.{kind}"
    {"csv": secret.write_csv, "parquet": secret.write_parquet, "ipc": secret.write_ipc, "json": secret.write_ndjson}[
        kind
    ](path)
    conditions = (
        "id IN (SELECT id FROM {})",
        "EXISTS (select 1 from {})",
        "id = (SELECT max(id) FROM {})",
        "id IN (FROM {})",
        "id = {}",
        "status = 'it''s' OR id IN (SELECT id FROM {}) OR id = ''",
        "id IN (SELECT id FROM self)",
        "id IN (TABLE self)",
        "id IN (VALUES ('a'))",
    )
    for condition in conditions:
        with pytest.raises(InputError, match=r"a condition is about the columns of this table only"):
            choose(ROWS, condition.format(f"read_{kind}('{path}')"))


def test_rows_are_counted_by_a_column() -> None:
    assert counts_by(ROWS, "status").rows() == [("invalid", 2), ("valid", 1)]
    with pytest.raises(InputError, match=r"--by colour: no such column\. Columns: id"):
        counts_by(ROWS, "colour")
    with pytest.raises(InputError, match="holds List"):
        counts_by(ROWS.with_columns(pl.concat_list("id", "status").alias("both")), "both")


def test_rows_are_found_by_any_id() -> None:
    rows = pl.DataFrame({"key": ["k", "l"], "text_id": ["x", "k"], "text": ["y", "y"]})
    assert with_id(rows, "k").equals(rows)
    assert with_id(rows, "x")["key"].to_list() == ["k"]
    assert with_id(rows, "y").is_empty()
    assert with_id(rows.select("text"), "y").is_empty()


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    told = shown(
        pl.DataFrame({"id": [f"s1{HOSTILE}"], "text": [HOSTILE]}), force_terminal=True, color_system=None, width=200
    )
    assert not set("\x1b\x07\u202e\u202c\x9b") & set(told)
    assert told.count("\\x1b]0;owned\\x07 [bold]x[/bold]") == 3  # in the title, too
    assert plain("a\nb\tc é 漢") == "a\nb\\tc é 漢"


def test_cards_show_lists_of_records_one_a_line_and_leave_out_what_is_empty() -> None:
    row = {
        "id": "i1",
        "labels": [],
        "demos": [{"text": "Snow.", "output": "winter"}, {"text": "Sun.", "output": "summer"}],
    }
    told = shown(pl.DataFrame([row], schema_overrides={"labels": pl.List(pl.String)}), width=100)
    assert "Snow. → winter" in told
    assert "Sun. → summer" in told
    assert "labels" not in told


def test_the_command_shows_cards_counts_and_coverage(answered_run: Path) -> None:
    shown = in_process("inspect", answered_run, "--limit", "3", "--where", "task_type = 'scoring'")
    assert shown.returncode == 0, shown.stderr
    assert "Answer with a whole number from" in " ".join(shown.stdout.replace("│", " ").split())
    assert "rows of instructions where task_type = 'scoring'" in shown.stdout
    told = {row["status"]: row["rows"] for row in printed_rows(answered_run, "responses", "--by", "status")}
    responses = responses_of(answered_run)
    assert told == dict(responses["status"].value_counts().iter_rows())
    cells = printed_rows(answered_run, "coverage")
    assert sum(cell["paired"] for cell in cells) == len(responses)
    assert set(cells[0]) == {"perspective", "task_type", "domain", "paired", "valid"}


def test_rows_are_drawn_by_lot_and_drawn_again(answered_run: Path) -> None:
    drawn = [printed_rows(answered_run, "responses", "--random", 5, "--seed", seed) for seed in (1, 1, 2)]
    ids = [[row["sample_id"] for row in rows] for rows in drawn]
    assert [len(set(some)) for some in ids] == [5, 5, 5]
    assert ids[0] == ids[1] != ids[2]
    known = responses_of(answered_run)
    assert set(ids[0]) <= set(known["sample_id"])
    chosen = printed_rows(answered_run, "responses", "--where", "attempts > 1", "--random", 1000)
    assert len(chosen) == known.filter(pl.col("attempts") > 1).height
    cards = in_process("inspect", answered_run, "responses", "--random", "12")
    assert "12 of 12 rows of responses" in cards.stdout


def test_an_id_finds_the_rows_of_a_table(answered_run: Path) -> None:
    responses, instruction = responses_of(answered_run), responses_of(answered_run)["instruction_id"][0]
    mine = responses.filter(pl.col("instruction_id") == instruction)["sample_id"].to_list()
    found = printed_rows(answered_run, "responses", "--id", instruction)
    assert [row["sample_id"] for row in found] == mine
    (row,) = printed_rows(answered_run, "--id", instruction)
    assert row["instruction_id"] == instruction
    assert "examples" in row
    (row,) = printed_rows(answered_run, "--id", responses["text_id"][0])
    assert set(row) == {"text_id", "text", "domain", "source", "licence", "language"}


def test_rows_are_written_as_they_are(answered_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    done = in_process("inspect", answered_run, "responses", "--where", "attempts = 1", "--to", path)
    assert done.stdout == f"{len(pl.read_parquet(path))} rows written to {path}\n"
    assert pl.read_parquet(path).equals(responses_of(answered_run).filter(pl.col("attempts") == 1))
    in_process("inspect", answered_run, "instructions", "--to", tmp_path / "rows.jsonl", "--limit", 2)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    table = RunFolder(answered_run).read_table("instructions").head(2)
    assert [json.loads(line) for line in lines] == table.to_dicts()
    in_process("inspect", answered_run, "responses", "--by", "status", "--to", tmp_path / "counts.csv")
    assert pl.read_csv(tmp_path / "counts.csv").columns == ["status", "rows"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["counts.csv", "rows.jsonl", "rows.parquet"]


def test_a_spreadsheet_runs_no_cell_of_a_csv_file(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "'=1", "a=1", "", None, 'quo"te\nline']
    rows = pl.DataFrame(
        {
            "text": texts,
            "number": [-1.5] * len(texts),
            "names": [["=a", "é"]] * len(texts),
            "given_at": [datetime(2026, 1, 2, tzinfo=UTC)] * len(texts),
        }
    )
    write_rows(tmp_path / "rows.csv", rows)
    content = (tmp_path / "rows.csv").read_bytes().decode("utf-8-sig")
    read = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["text"] for row in read] == [
        *("'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "'\r=1", "'＝1", "''=1", "a=1", "", "", 'quo"te\nline'),
    ]
    assert {(row["number"], row["names"]) for row in read} == {("-1.5", '["=a", "é"]')}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no table is called nonsense; tables: texts"),
        (["scores"], "has no table scores"),
        (["responses", "--by", "spans"], "choose one of single values"),
        (["responses", "--id", "nothing"], "--id nothing: no row of responses has this id"),
        (["--id", "nothing"], "no sample, text, instruction or perspective of"),
        (["--seed", "3"], "--seed goes with --random only"),
        (["--random", "3", "--limit", "3"], "--random says how many rows"),
        (["--random", "3", "--by", "name"], "--by counts all rows; leave out --random"),
        (["--random", "3", "--id", "x"], "--id names the rows"),
        (["--to", "new.csv", "--json"], "--to writes a file and --json prints"),
        (["--to", "new.xlsx"], "new.xlsx: of no known kind; writable: .jsonl, .csv, .parquet"),
        (["--to", "nowhere/new.csv"], "there is no folder nowhere"),
        (["--where", "id IN (SELECT id FROM read_csv('x.csv'))"], "--where: SELECT is not possible"),
    ],
)
def test_a_wrong_question_is_answered_with_the_right_ones(
    answered_run: Path, arguments: list[str], message: str
) -> None:
    done = in_process("inspect", answered_run, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_file_that_is_there_stays(answered_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("mine")
    done = in_process("inspect", answered_run, "--to", path)
    assert done.returncode == 2
    assert "exists; give another file, or delete it first" in " ".join(done.stderr.split())
    assert path.read_text() == "mine"


def test_a_terminal_pages_searches_and_leaves(hostile_run: RunFolder) -> None:
    with terminal("inspect", hostile_run.path, "responses") as child:
        child.expect_exact("1/50,000 · s000000000000000", timeout=60)
        child.expect_exact("SPACE on, b back, /word search, n next, q leave")
        first = child.before
        child.send(" ")
        child.expect_exact("3/50,000 · s000000000000002")
        child.send("/s000000000000123\r")
        child.expect_exact("124/50,000")
        started = time.monotonic()
        child.send("q")
        child.expect(pexpect.EOF)
        child.wait()
    assert child.exitstatus == 0
    assert time.monotonic() - started < 5  # the other cards were never made
    assert first is not None
    assert "\\x1b]0;owned\\x07" in first
    assert "\x1b[2m" in first  # labels are dim: colours pass
    escapes = set(re.findall(r"\x1b(?:\[[0-9;?]*[A-Za-z]|.)", first))
    assert escapes
    assert "\x1b]" not in escapes
    assert "\x1b[2J" not in escapes
    assert not set("\x07\u202e\x9b") & set(first)


def test_what_fits_on_the_screen_is_not_paged(answered_run: Path) -> None:
    with terminal("inspect", answered_run, "texts", "--limit", 1) as child:
        child.expect_exact("1 of 14 rows of texts", timeout=60)
        child.expect(pexpect.EOF)
        child.wait()
    assert child.exitstatus == 0
    assert child.before is not None
    assert "SPACE" not in child.before


def test_another_pager_may_show_the_beginning_only(hostile_run: RunFolder) -> None:
    with terminal("inspect", hostile_run.path, "responses", PAGER="head -n 2") as child:
        child.expect_exact("s000000000000000", timeout=60)
        child.expect(pexpect.EOF)
        child.wait()
    assert child.exitstatus == 0


def test_without_a_pager_the_first_cards_are_printed(hostile_run: RunFolder, tmp_path: Path) -> None:
    piped = in_process("inspect", hostile_run.path, "responses")
    assert piped.stdout.count("╭") == 10
    assert "10 of 50,000 rows of responses" in piped.stdout
    assert "\x1b" not in piped.stdout
    with terminal("inspect", hostile_run.path, "responses", PATH=str(tmp_path)) as child:
        child.expect_exact("10 of 50,000 rows of responses", timeout=60)
        child.expect(pexpect.EOF)
        child.wait()
    assert child.exitstatus == 0


def test_status_shows_the_coverage(answered_run: Path) -> None:
    told = in_process("status", answered_run).stdout
    assert "Coverage: valid of paired samples" in told
    assert "Coverage: domains" in told
    report = json.loads(in_process("status", answered_run, "--json").stdout)
    assert sum(cell["paired"] for cell in report["coverage"]) == report["funnel"]["responses"]
