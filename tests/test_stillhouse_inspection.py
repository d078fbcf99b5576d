"""Tables can be read and counted in the terminal, and what others wrote cannot steer it."""

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from stillhouse.errors import InputError
from stillhouse.inspection import choose, counts_by, plain, show_cards
from stillhouse.store import RunFolder
from tests.conftest import stillhouse

ROWS = pl.DataFrame(
    {"id": ["a", "b", "c"], "status": ["valid", "invalid", "invalid"], "reason": [None, "not JSON", "x"]}
)


def test_rows_are_chosen_by_a_condition() -> None:
    assert choose(ROWS, "status = 'invalid'")["id"].to_list() == ["b", "c"]
    assert choose(ROWS, None).equals(ROWS)
    for wrong in ("colour = 1", "status ==", "1; DROP"):
        with pytest.raises(InputError, match=r"--where: .*Columns: id, status, reason"):
            choose(ROWS, wrong)


def test_rows_are_counted_by_a_column() -> None:
    assert counts_by(ROWS, "status").rows() == [("invalid", 2), ("valid", 1)]
    with pytest.raises(InputError, match=r"--by colour: no such column\. Columns: id"):
        counts_by(ROWS, "colour")
    with pytest.raises(InputError, match="holds List"):
        counts_by(ROWS.with_columns(pl.concat_list("id", "status").alias("both")), "both")


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    out = io.StringIO()
    rows = pl.DataFrame(
        {"id": ["s1"], "text": ["\x1b]0;owned\x07 [bold]x[/bold] \u202edlrow\u202c [link=http://x]y[/link]"]}
    )
    show_cards(rows, Console(file=out, force_terminal=True, color_system=None, width=120))
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b]0;owned\\x07 [bold]x[/bold]" in shown
    assert plain("a\nb\tc é 漢") == "a\nb\\tc é 漢"


def test_cards_show_lists_of_records_one_a_line_and_leave_out_what_is_empty() -> None:
    out = io.StringIO()
    row = {
        "id": "i1",
        "labels": [],
        "demos": [{"text": "Snow.", "output": "winter"}, {"text": "Sun.", "output": "summer"}],
    }
    rows = pl.DataFrame([row], schema_overrides={"labels": pl.List(pl.String)})
    show_cards(rows, Console(file=out, width=100))
    assert "Snow. → winter" in out.getvalue()
    assert "Sun. → summer" in out.getvalue()
    assert "labels" not in out.getvalue()


def test_the_command_shows_cards_counts_and_coverage(answered_run: Path) -> None:
    cards = stillhouse("inspect", answered_run, "instructions", "--limit", "3", "--where", "task_type = 'scoring'")
    assert cards.returncode == 0, cards.stderr
    assert "Answer with a whole number from" in " ".join(cards.stdout.replace("│", " ").split())
    assert "rows of instructions where task_type = 'scoring'" in cards.stdout
    counts = stillhouse("inspect", answered_run, "responses", "--by", "status", "--json")
    responses = RunFolder(answered_run).read_table("responses")
    told = {row["status"]: row["rows"] for row in map(json.loads, counts.stdout.splitlines())}
    assert told == dict(responses["status"].value_counts().iter_rows())
    coverage = stillhouse("inspect", answered_run, "coverage", "--json")
    cells = [json.loads(line) for line in coverage.stdout.splitlines()]
    assert sum(cell["paired"] for cell in cells) == len(responses)
    assert set(cells[0]) == {"perspective", "task_type", "domain", "paired", "valid"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nonsense"], "no table is called nonsense; tables: texts"), (["scores"], "has no table scores"),
     (["responses", "--by", "spans"], "choose one of single values")],
)  # fmt: skip
def test_a_wrong_question_is_answered_with_the_right_ones(
    answered_run: Path, arguments: list[str], message: str
) -> None:
    done = stillhouse("inspect", answered_run, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_status_shows_the_coverage(answered_run: Path) -> None:
    told = stillhouse("status", answered_run).stdout
    assert "Coverage: valid of paired samples" in told
    assert "Coverage: domains" in told
    report = json.loads(stillhouse("status", answered_run, "--json").stdout)
    assert sum(cell["paired"] for cell in report["coverage"]) == report["funnel"]["responses"]
