"""An audit without a server: rounds go out and come back as files, what was found is applied, publishing waits."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets import get_dataset_config_names, load_dataset

from stillhouse.schemas import AUDIT, FRAME, REVIEWS
from stillhouse.store import RunFolder
from tests.audit_run import audited_run, copied
from tests.conftest import DEMO_TEXTS, in_process

TEXTS = [json.loads(line)["text"] for line in DEMO_TEXTS.read_text(encoding="utf-8").splitlines()]
Judge = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return audited_run(tmp_path_factory.mktemp("decided") / "run", 800, TEXTS, rejected=9, difficulty_bands=1)


@pytest.fixture
def run(decided: RunFolder, tmp_path: Path) -> RunFolder:
    return copied(decided, tmp_path / "run")


def review(command: str, run: RunFolder, *options: object, code: int = 0) -> str:
    done = in_process("review", command, run.path, *options)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def correct(row: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": "correct", "quality": "5"}


def answered(run: RunFolder, judge: Judge, who: str = "ann", *options: object) -> dict[str, Any]:
    """Push a round into a CSV file, fill it, pull it; return what `review pull --json` says."""
    file = run.path.parent / f"{who}-{len(list(run.path.parent.glob('*.csv')))}.csv"
    review("push", run, "--to", file, *options)
    rows = pl.read_csv(file, infer_schema_length=0).rename(str.casefold).to_dicts()
    filled = [{**row, **judge(row), "annotator": who} for row in rows]
    pl.DataFrame(filled, infer_schema_length=None).write_csv(file)
    return dict(json.loads(in_process("review", "pull", run.path, "--from", file, "--json").stdout))


def reviews_of(run: RunFolder) -> pl.DataFrame:
    table = pl.read_parquet(run.review_path / "reviews.parquet")
    assert table.schema == REVIEWS
    return table


def test_the_plan_is_shown_and_nothing_is_written(run: RunFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name != ".lock"}
    shown = review("push", run, "--plan")
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name != ".lock"} == before
    assert "plot | classification" in shown
    assert "dropped by validity" in shown
    assert "likely at 2.0% errors" in " ".join(shown.split())
    few = " ".join(review("push", run, "--plan", "--records", 20).split())
    assert "too few to be accepted even with none wrong" in few


def test_a_round_comes_back_and_is_accepted(run: RunFolder, tmp_path: Path) -> None:
    found = answered(run, correct)
    frame = pl.read_parquet(run.review_path / "round-1.parquet")
    assert frame.schema == FRAME
    assert len(frame) == 800
    drawn = frame.filter("drawn")
    reviews = reviews_of(run)
    assert set(reviews["sample_id"]) == set(drawn["sample_id"])
    assert set(reviews["annotator"]) == {"ann"}
    kept = run.read_table("decisions").filter("kept")
    assert set(drawn.filter(pl.col("population") == "kept")["sample_id"]) <= set(kept["sample_id"])
    assert drawn.filter(pl.col("population") == "dropped")["stratum"].value_counts().sort("stratum")[
        "count"
    ].to_list() == [3, 3, 3]
    assert found["decision"] == "accepted"
    assert found["error_rate"]["rate"] == 0
    assert found["error_rate"]["rows"] == len(kept)
    assert [row["rate"] for row in found["dropped"]] == [1, 1, 1]
    target = tmp_path / "published"
    assert "not done yet: audit, gates, dataset" in in_process("publish", run.path, "--to", target).stderr
    review("apply", run)
    done = in_process("publish", run.path, "--to", target)
    assert done.returncode == 0, done.stderr
    published = pl.read_parquet(target / "default" / "*.parquet")
    judged = drawn.filter(pl.col("population") == "kept").height
    assert dict(published["audit"].value_counts().iter_rows()) == {
        "not_audited": len(kept) - judged, "accepted": judged,
    }  # fmt: skip
    card = (target / "README.md").read_text()
    assert "**Accepted**: between 0.0% and" in card
    assert "Published although" not in card
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    again = in_process("publish", run.path, "--to", target)
    assert (again.returncode, "nothing has changed" in again.stdout) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before


def wrong_labels(row: dict[str, Any]) -> dict[str, Any]:
    """Find every second classification wrong, correct all labels but one kind, and be content with the rest."""
    if "one of:" not in row["instruction"] or row["answer"].startswith("tone") or int(row["sample_id"][1:], 16) % 2:
        return correct(row)
    fixed = {"negative": "Positive", "neutral": "no label", "positive": ""}[row["answer"]]
    return {
        "verdict": "wrong",
        "what is wrong": "wrong answer",
        "quality": "2",
        "corrected answer": fixed or row["answer"],
    }


def test_what_people_found_is_in_the_dataset(run: RunFolder) -> None:
    found = answered(run, wrong_labels, "ann", "--records", 250)
    assert found["decision"] in ("rejected", "undecided")
    blocked = in_process("publish", run.path, "--to", run.path.parent / "no")
    assert blocked.returncode == 2
    review("apply", run)
    blocked = in_process("publish", run.path, "--to", run.path.parent / "no")
    assert (blocked.returncode, f"{run.path} is " in blocked.stderr, "review status" in blocked.stderr) == (
        1,
        True,
        True,
    )
    assert not (run.path.parent / "no").exists()

    audit = run.read_table("audit")
    assert audit.schema == AUDIT
    reviews, responses, scores = reviews_of(run), run.read_table("responses"), run.read_table("scores")
    dropped = [failure["instruction_id"] for failure in _failures(run)]
    rows = (
        audit.join(reviews, on="sample_id", how="left")
        .join(responses, on="sample_id")
        .join(scores, on="sample_id", suffix="_old")
    )
    for row in rows.iter_rows(named=True):
        if row["instruction_id"] in dropped:
            assert row["outcome"] == "rejected"
        elif row["verdict"] == "correct":
            assert row["outcome"] == "accepted"
        elif row["output"] == "negative":
            assert (row["outcome"], row["completion"], row["faults"]) == ("corrected", "positive", ["wrong answer"])
            assert row["difficulty"] is not None
            assert row["perplexity"] > 0
            assert row["perplexity"] != row["perplexity_old"]
        else:
            reason = "no correction" if row["output"] == "positive" else "label not in the set"
            assert (row["outcome"], reason in row["reason"]) == ("rejected", True)
    assert {"accepted", "corrected", "rejected"} == set(audit["outcome"])

    folder = str(run.dataset_path)
    assert "corrections" in get_dataset_config_names(folder)
    corrections = load_dataset(folder, "corrections", split="train").to_polars()
    assert corrections.select("teacher_completion", "completion").unique().rows() == [("negative", "positive")]
    published = pl.concat(split.to_polars() for split in load_dataset(folder).values())
    assert set(published.filter(pl.col("audit") == "corrected")["id"]) == set(corrections["id"])
    assert set(published.filter(pl.col("audit") == "corrected")["completion"]) == {"positive"}
    assert all(row["messages"][1]["content"] == row["completion"] for row in published.to_dicts())
    rejected = load_dataset(folder, "rejected", split="train").to_polars().filter(pl.col("rejected_by") == "audit")
    assert set(rejected["id"]) == set(audit.filter(pl.col("outcome") == "rejected")["sample_id"])
    assert rejected["reason"].null_count() == 0
    assert len(published) + len(rejected) == run.read_table("decisions")["kept"].sum()
    facts = json.loads((run.dataset_path / "facts.json").read_text())
    assert facts["funnel"]["kept"] == len(published) == sum(cell["kept"] for cell in facts["coverage"])


def test_a_round_is_not_decided_before_it_is_answered(run: RunFolder) -> None:
    """Records of a file follow their instructions: those that are answered first are not a random part of them."""

    def first_ones(row: dict[str, Any]) -> dict[str, Any]:
        return correct(row) if "humour" in row["instruction"] or "intensity" in row["instruction"] else {}

    found = answered(run, first_ones, "ann", "--records", 300)
    assert found["waiting"] > 100
    assert (found["decision"], "still wait for an answer" in found["why"]) == ("undecided", True)


def test_a_correction_that_is_the_same_answer_is_none(run: RunFolder) -> None:
    def judge(row: dict[str, Any]) -> dict[str, Any]:
        again = {"verdict": "wrong", "corrected answer": str(row["answer"]).upper()}
        return (
            again
            if "one of: negative" in row["instruction"] and row["answer"] in ("negative", "neutral")
            else correct(row)
        )

    answered(run, judge, "ann", "--records", 150)
    review("apply", run)
    audit = run.read_table("audit")
    assert audit.filter(pl.col("outcome") == "corrected").is_empty()
    same = audit.filter(pl.col("reason").str.contains("their correction is the same answer"))
    assert len(same) > 3
    assert set(same["outcome"]) == {"rejected"}


def test_where_every_instruction_fails_none_is_dropped(run: RunFolder) -> None:
    answered(run, lambda row: {"verdict": "wrong"}, "ann", "--records", 400)
    assert "every instruction fails" in " ".join(review("apply", run).split())
    assert _failures(run) == []
    status = json.loads(review("status", run, "--json"))
    assert status["decision"] == "rejected"
    assert run.read_table("audit")["outcome"].unique().to_list() == ["rejected"]


def test_what_is_tied_is_asked_again(run: RunFolder, tmp_path: Path) -> None:
    answered(run, correct, "ann", "--records", 60)
    (file,) = tmp_path.glob("ann-*.csv")
    other = pl.read_csv(file, infer_schema_length=0).with_columns(annotator=pl.lit("ben"), verdict=pl.lit("wrong"))
    other.write_csv(tmp_path / "ben.csv")
    review("pull", run, "--from", tmp_path / "ben.csv")
    assert json.loads(review("status", run, "--json"))["conflict"] == len(other)
    review("push", run, "--records", 30, "--to", tmp_path / "more.csv")
    first, second = (
        pl.read_parquet(run.review_path / f"round-{number}.parquet").filter("drawn", population="kept")
        for number in (1, 2)
    )
    assert len(second) == 30
    assert set(second["sample_id"]) <= set(first["sample_id"]), "they come first in their strata"


def test_verdicts_that_are_not_applied_hold_publishing_up(run: RunFolder, tmp_path: Path) -> None:
    answered(run, correct)
    review("apply", run)
    review("push", run, "--to", tmp_path / "more.csv", "--records", 20)
    assert (
        "not done yet: audit, gates, dataset" in in_process("publish", run.path, "--to", tmp_path / "published").stderr
    )
    review("apply", run)
    waiting = in_process("publish", run.path, "--to", tmp_path / "published")
    assert (waiting.returncode, "20 records still wait" in " ".join(waiting.stderr.split())) == (1, True)
    # A crash in between leaves verdicts on disk, and the manifest as it was.
    manifest = run.manifest()
    file = tmp_path / "more.csv"
    rows = [{**row, **correct(row), "annotator": "ben"} for row in pl.read_csv(file, infer_schema_length=0).to_dicts()]
    pl.DataFrame(rows).write_csv(file)
    review("pull", run, "--from", file)
    run.write_manifest(manifest)
    stale = in_process("publish", run.path, "--to", tmp_path / "published")
    assert (stale.returncode, "verdicts that its dataset does not know" in " ".join(stale.stderr.split())) == (2, True)


def test_a_cut_follows_the_verdicts_too(run: RunFolder) -> None:
    def judge(row: dict[str, Any]) -> dict[str, Any]:
        return (
            {"verdict": "wrong"}
            if "whole number" in row["instruction"] and "plot" in row["instruction"]
            else correct(row)
        )

    answered(run, judge, "ann", "--records", 400)
    review("apply", run)
    done = in_process("select", run.path, "--rate", 1, "--name", "whole", "--dataset")
    assert done.returncode == 0, done.stderr
    folder = run.cut_path("whole") / "dataset"
    published = pl.read_parquet(folder / "default" / "*.parquet")
    failed = [failure["instruction_id"] for failure in _failures(run)]
    assert failed
    assert not set(published["instruction_id"]) & set(failed)
    rejected = pl.read_parquet(folder / "rejected" / "*.parquet")
    assert set(rejected.filter(pl.col("rejected_by") == "audit")["instruction_id"]) == set(failed)


@pytest.mark.parametrize("name", ["rounds.json", "reviews.parquet", "round-1.parquet", "round-1.json", "failures.json"])
@pytest.mark.parametrize("content", [b"", b'[{"a": 1}]', None])
def test_a_damaged_audit_is_said_and_not_overwritten(
    run: RunFolder, tmp_path: Path, name: str, content: bytes | None
) -> None:
    review("push", run, "--to", tmp_path / "a.csv", "--records", 20)
    rows = [
        {**row, **correct(row), "annotator": "ann"}
        for row in pl.read_csv(tmp_path / "a.csv", infer_schema_length=0).to_dicts()
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "b.csv")
    review("pull", run, "--from", tmp_path / "b.csv")
    path = run.review_path / name
    before = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    elif name in ("reviews.parquet", "failures.json"):
        return  # nothing tells that there were some
    told = " ".join(review("pull", run, "--from", tmp_path / "b.csv", code=2).split())
    assert "put back a copy" in told
    path.write_bytes(before) if before else path.unlink()
    assert "0 new or changed answers" in review("pull", run, "--from", tmp_path / "b.csv")


def _failures(run: RunFolder) -> list[dict[str, Any]]:
    path = run.review_path / "failures.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def test_publishing_all_the_same_is_told_in_the_card(run: RunFolder, tmp_path: Path) -> None:
    review("apply", run)
    words = "A trial for our own <b>team</b> | not for `use`"
    target = tmp_path / "published"
    assert in_process("publish", run.path, "--to", target, "--without-audit", "  ").returncode == 1
    done = in_process("publish", run.path, "--to", target, "--without-audit", words)
    assert done.returncode == 0, done.stderr
    card = (target / "README.md").read_text()
    assert "Published although no audit accepts it" in card
    assert "A trial for our own &#60;b&#62;team&#60;/b&#62; &#124; not for &#96;use&#96;" in card
    assert json.loads((target / "facts.json").read_text())["waiver"] == words


def test_an_instruction_that_fails_goes_with_all_its_rows(run: RunFolder) -> None:
    bad = "Judge the humour of this text. Answer with a whole number"

    def judge(row: dict[str, Any]) -> dict[str, Any]:
        return (
            {"verdict": "wrong"}
            if row["instruction"].startswith(bad[:30]) and "whole number" in row["instruction"]
            else correct(row)
        )

    found = answered(run, judge, "ann", "--records", 400)
    assert [row["instruction_id"] for row in found["failing"]] == ["i-humour-scoring"]
    review("apply", run)
    audit, responses = run.read_table("audit"), run.read_table("responses")
    kept = run.read_table("decisions").filter("kept")
    of_it = responses.filter(pl.col("instruction_id") == "i-humour-scoring").join(kept, on="sample_id", how="semi")
    assert len(of_it) > 8
    assert set(of_it["sample_id"]) == set(audit.filter(pl.col("outcome") == "rejected")["sample_id"])
    status = json.loads(review("status", run, "--json"))
    assert status["decision"] == "undecided"
    assert "a new round has to confirm the rest" in status["why"]
    review("apply", run)  # nothing more to do
    assert len(_failures(run)) == 1

    first = reviews_of(run)
    confirmed = answered(run, correct, "ben", "--records", 100)
    second = reviews_of(run).filter(pl.col("round") == 2)
    assert not set(second["sample_id"]) & set(first["sample_id"])
    assert not set(second["sample_id"]) & set(of_it["sample_id"])
    assert confirmed["error_rate"]["rows"] == len(kept) - len(of_it)
    assert (confirmed["decision"], confirmed["error_rate"]["wrong"]) == ("accepted", 0)


def test_requeued_instructions_learn_from_corrections(tmp_path: Path) -> None:
    run = audited_run(tmp_path / "again" / "run", 800, TEXTS, rejected=0, difficulty_bands=1, failing="requeue")

    def judge(row: dict[str, Any]) -> dict[str, Any]:
        if "Judge the plot" in row["instruction"] and "whole number" in row["instruction"]:
            return {"verdict": "wrong", "corrected answer": "3"}
        return (
            {"verdict": "wrong"}
            if "Judge the price" in row["instruction"] and "whole number" in row["instruction"]
            else correct(row)
        )

    before = run.read_table("instructions")
    answered(run, judge, "ann", "--records", 400)
    told = " ".join(review("apply", run).split())
    assert "stillhouse run" in told
    after = {row["name"]: row for row in run.read_table("instructions").filter("kept").iter_rows(named=True)}
    assert set(after) == set(before["name"])
    plot = after["plot scoring"]
    assert [name for name, row in after.items() if row["lineage"]["edited"]] == ["plot scoring"]
    assert plot["instruction"] == before.filter(pl.col("name") == "plot scoring")["instruction"].item()
    assert {demo["output"] for demo in plot["demos"]} == {"3"}
    assert {demo["text"] for demo in plot["demos"]} <= set(TEXTS)
    assert {failure["instruction_id"]: failure["action"] for failure in _failures(run)} == {
        "i-plot-scoring": "requeue", "i-price-scoring": "drop",
    }  # fmt: skip
    assert "responses" not in run.manifest()["stages"]


def test_answers_are_added_and_never_overwritten(run: RunFolder) -> None:
    answered(run, correct, "ann", "--records", 50)
    first = reviews_of(run)
    file = next(run.path.parent.glob("*.csv"))
    assert "0 new or changed answers" in review("pull", run, "--from", file)
    assert reviews_of(run).equals(first)
    old = file.with_name("old.csv")
    shutil.copy2(file, old)
    rows = pl.read_csv(file, infer_schema_length=0).to_dicts()
    rows[0]["verdict"] = "wrong"
    time.sleep(0.05)
    pl.DataFrame(rows).write_csv(file)
    assert "1 new or changed answers" in review("pull", run, "--from", file)
    second = reviews_of(run)
    assert second.head(len(first)).equals(first)
    assert second.tail(1)["verdict"].to_list() == ["wrong"]
    wrong = json.loads(review("status", run, "--json"))["found_wrong"]
    assert wrong == 1
    review("pull", run, "--from", old)  # what was saved before does not go before what was saved later
    assert json.loads(review("status", run, "--json"))["found_wrong"] == wrong


def test_a_round_that_is_not_answered_is_sent_again_and_not_drawn_anew(run: RunFolder, tmp_path: Path) -> None:
    review("push", run, "--to", tmp_path / "one.xlsx", "--records", 60)
    review("push", run, "--to", tmp_path / "two.csv", "--records", 60)
    assert not (run.review_path / "round-2.parquet").exists()
    ids = pl.read_csv(tmp_path / "two.csv", infer_schema_length=0)["sample_id"]
    assert set(ids) == set(pl.read_excel(tmp_path / "one.xlsx", sheet_id=1).rename(str.casefold)["sample_id"])
    review("push", run, "--to", tmp_path / "three.html", "--records", 60, "--next")
    assert (run.review_path / "round-2.parquet").exists()
    assert "exists" in review("push", run, "--to", tmp_path / "three.html", code=2)


def test_more_records_are_not_asked_where_they_cannot_help(run: RunFolder) -> None:
    answered(run, wrong_labels, "ann", "--records", 300)
    told = " ".join(review("push", run, "--to", run.path.parent / "more.csv", code=2).split())
    assert "not below the bar of 5.0%" in told
    assert "--records asks for more" in told
    review("push", run, "--to", run.path.parent / "more.csv", "--records", 30)


def test_the_rate_of_rows_that_came_in_later_is_not_known(run: RunFolder) -> None:
    answered(run, correct)
    decisions = run.read_table("decisions")
    drawn = pl.read_parquet(run.review_path / "round-1.parquet").filter("drawn")["sample_id"].to_list()
    late = decisions.filter(~pl.col("kept"), ~pl.col("sample_id").is_in(drawn)).head(60)["sample_id"]
    run.write_table("decisions", decisions.with_columns(pl.col("kept") | pl.col("sample_id").is_in(late.to_list())))
    found = json.loads(review("status", run, "--json"))
    unknown = next(row for row in found["strata"] if row["stratum"] == "came in after round 1")
    assert unknown["rows"] == 60
    assert found["error_rate"]["high"] >= unknown["rows"] / found["error_rate"]["rows"]
    assert found["decision"] == "undecided"


def test_a_verdict_on_another_answer_does_not_count(run: RunFolder) -> None:
    answered(run, correct, "ann", "--records", 100)
    judged = reviews_of(run)["sample_id"]
    responses = run.read_table("responses")
    fresh = pl.when(pl.col("sample_id").is_in(judged.to_list())).then(pl.col("output") + " ").otherwise("output")
    run.write_table("responses", responses.with_columns(fresh.alias("output")))
    found = json.loads(review("status", run, "--json"))
    assert found["error_rate"]["settled"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--records", "5", "--overlap", "2"], "--overlap"),
        (["--allocation", "fair"], "--allocation"),
        (["--to", "audit.pdf"], "no known kind"),
        (["--to", "nowhere/audit.csv"], "does not exist"),
        ([], "ARGILLA_API_URL"),
    ],
)
def test_wrong_options_are_named_and_leave_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.delenv("ARGILLA_API_URL", raising=False)
    assert message in review("push", run, *options, code=2)
    assert not (run.review_path / "rounds.json").exists()


def test_what_is_missing_is_said(run: RunFolder, tmp_path: Path) -> None:
    assert "no round" in review("pull", run, code=2)
    manifest = run.manifest()
    del manifest["stages"]["decisions"]
    run.write_manifest(manifest)
    assert "has no decisions" in review("push", run, "--plan", code=2)
    assert "is not a run folder" in review("status", RunFolder(tmp_path), code=2)
