"""One sample's way from its text to the dataset: every step there, with the values of the tables."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from curation.audit.rounds import Rounds
from pipelines.traces import opened_traces
from stillhouse.imported import import_pairs
from stillhouse.lineage import Beside, as_json, lineage_of
from stillhouse.schemas import AUDIT, GATES, REVIEWS, SCORES, table_of
from stillhouse.scored import import_recipe
from stillhouse.sections import Imported, TextSource
from stillhouse.store import RunFolder
from tests.conftest import in_process

STEPS = [
    *("text", "attributes", "perspective", "instruction", "calls", "checks"),
    *("scores", "decision", "reviews", "audit", "gates", "published"),
]
GIVEN_AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
REVIEW = {
    "round": 1, "version": "v1", "annotator": "ann", "status": "submitted", "verdict": "wrong",
    "faults": ["wrong label"], "rating": 2, "correction": "positive", "comment": "\x1b[31mno", "given_at": GIVEN_AT,
    "source": "argilla",
}  # fmt: skip


def lineage(run: Path, key: str) -> dict[str, Any]:
    done = in_process("inspect", run, "--id", key, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def row(folder: RunFolder, name: str, column: str, key: str) -> dict[str, Any]:
    return folder.read_table(name).row(by_predicate=pl.col(column) == key, named=True)


def told(*arguments: object) -> str:
    done = in_process("inspect", *arguments)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.replace("│", " ").split())


def test_every_step_of_every_sample_is_what_the_tables_say(offline_run: Path) -> None:
    folder = RunFolder(offline_run)
    tables = {name: folder.scan_table(name) for name in folder.made()}
    attributes, decisions = folder.read_table("attributes"), folder.read_table("decisions")
    with opened_traces(folder.journal_path) as traces:
        for answer in folder.read_table("responses").iter_rows(named=True):
            steps = lineage_of(tables, answer["sample_id"], Beside(traces.of))
            assert [step.name for step in steps] == STEPS
            found = as_json(steps)
            assert found["text"] == row(folder, "texts", "text_id", answer["text_id"])
            named = attributes.filter(pl.col("text_id") == answer["text_id"]).drop_nulls("name")
            assert [one["name"] for one in found["attributes"]["attributes"]] == named["name"].to_list()
            instruction = row(folder, "instructions", "instruction_id", answer["instruction_id"])
            for name in ("instruction", "task_type", "labels", "perspective_id"):
                assert found["instruction"][name] == instruction[name]
            assert found["instruction"]["attributes"] == instruction["lineage"]["attributes"]
            assert found["perspective"]["perspective_id"] == instruction["perspective_id"]
            calls = found["calls"]["responses"]
            assert [len(calls), calls[-1]["call_id"]] == [answer["attempts"], answer["call_id"]]
            assert [one["told"] is None for one in calls] == [True] + [False] * (len(calls) - 1)
            made = {one["call_id"] for one in found["calls"]["instructions"]}
            assert made == set(instruction["lineage"]["calls"])
            assert (found["checks"]["output"], found["checks"]["status"]) == (answer["output"], answer["status"])
            assert len(found["checks"]["quotes"]) == len(answer["spans"])
            decision = decisions.row(by_predicate=pl.col("sample_id") == answer["sample_id"], named=True)
            assert {"sample_id": answer["sample_id"], **found["decision"]} == decision
            if answer["status"] == "valid":
                assert found["scores"] == {
                    name: value
                    for name, value in row(folder, "scores", "sample_id", answer["sample_id"]).items()
                    if name != "sample_id"
                }
            else:
                assert found["scores"] == {"missing": "not scored: the answer is invalid"}


def test_corrected_answers_are_among_the_runs(offline_run: Path) -> None:
    assert RunFolder(offline_run).read_table("responses")["attempts"].max() == 3  # or the test above shows less


def test_the_command_shows_where_a_sample_is_published(private_run: Path) -> None:
    recipe = yaml.safe_load((private_run / "recipe.yaml").read_text("utf-8"))
    recipe["publish"]["test_share"] = 0.4
    (private_run.parent / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    split = in_process("run", private_run.parent / "recipe.yaml", "--out", private_run, "--update")
    assert split.returncode == 0, split.stderr
    files = sorted((private_run / "dataset").glob("[dr]e*/*-*.parquet"))
    places = [f"{file.parent.name}/{file.name.partition('-')[0]}" for file in files]
    assert places == ["default/test", "default/train", "rejected/train"]
    for file, place in zip(files, places, strict=True):
        key = pl.read_parquet(file)["id"][0]
        assert lineage(private_run, key)["published"] == {"in": [place]}
    shown = told(private_run, "--id", key)
    titles = [f"{number} · {name}" for number, name in enumerate(STEPS, start=1)]
    assert [shown.index(title) for title in titles] == sorted(shown.index(title) for title in titles)
    assert shown.startswith(f"Sample {key}")
    assert "nobody has answered so far" in shown
    assert "nothing was found in it" in shown
    assert "in rejected/train" in shown


def test_the_beginning_of_an_id_is_enough(offline_run: Path) -> None:
    ids = RunFolder(offline_run).read_table("responses")["sample_id"].sort().to_list()
    assert lineage(offline_run, ids[0][:8])["sample_id"] == ids[0]
    done = in_process("inspect", offline_run, "--id", "s")
    assert done.returncode == 2
    assert "--id s: give at least 4 characters of a sample id" in " ".join(done.stderr.split())


def test_an_ambiguous_beginning_and_options_of_rows_are_refused(answered_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(answered_run, tmp_path / "run")))
    responses = folder.read_table("responses")
    ids = [f"same{number}" for number in range(9)] + [f"o{number}" for number in range(len(responses) - 9)]
    folder.write_table("responses", responses.with_columns(sample_id=pl.Series(ids)))
    for arguments, message in (
        (["same"], "--id same: 9 samples begin like this: same0, same1, same2, same3, same4 …; give more of it"),
        (
            ["unknown"],
            f"--id unknown: no sample, text, instruction or perspective of {folder.path} has this id; `still",
        ),
        (["same3", "--by", "status"], "--id of a sample shows its lineage"),
        (["same3", "--to", tmp_path / "x.csv"], "are for rows of a table: name one"),
    ):
        done = in_process("inspect", folder.path, "--id", *arguments)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())
    assert lineage(folder.path, "same3")["sample_id"] == "same3"


def test_an_unfinished_run_says_which_stages_have_not_run(answered_run: Path) -> None:
    key = RunFolder(answered_run).read_table("responses")["sample_id"][0]
    found = lineage(answered_run, key)
    stages = {"scores": "scores", "decision": "decisions", "audit": "audit", "gates": "gates", "published": "dataset"}
    for step, stage in stages.items():
        assert found[step] == {"missing": f"not yet: stage {stage} has not run"}
    assert found["calls"]["responses"][-1]["request"]["model"] == "test-teacher"
    assert "not yet: stage scores has not run" in told(answered_run, "--id", key)


def test_tables_of_undone_stages_are_not_believed(private_run: Path) -> None:
    folder = RunFolder(private_run)
    manifest = folder.manifest()
    for stage in ("scores", "decisions", "audit", "gates", "dataset"):
        del manifest["stages"][stage]
    folder.write_manifest(manifest)
    found = lineage(private_run, folder.read_table("responses")["sample_id"][0])
    assert found["scores"] == {"missing": "not yet: stage scores has not run"}
    assert found["published"] == {"missing": "not yet: stage dataset has not run"}


def test_without_its_journal_a_run_has_all_but_the_calls(private_run: Path) -> None:
    for path in private_run.glob("journal.sqlite*"):
        path.unlink()
    key = RunFolder(private_run).read_table("responses")["sample_id"][0]
    found = lineage(private_run, key)
    assert found["calls"] == {"missing": "the journal does not know the calls; was it moved away?"}
    assert "difficulty" in found["scores"]
    assert not list(private_run.glob("journal.sqlite*"))


def test_a_call_that_failed_says_where_its_cause_is(answered_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(answered_run, tmp_path / "run")))
    failed = {"output": None, "status": "failed", "reason": "teacher call failed", "attempts": 0, "call_id": None}
    responses = folder.read_table("responses").with_columns(pl.lit(value).alias(key) for key, value in failed.items())
    folder.write_table("responses", responses)
    key = responses["sample_id"][0]
    found = lineage(folder.path, key)
    assert (found["checks"]["status"], "responses" in found["calls"]) == ("failed", False)
    assert "answer the call failed; `stillhouse inspect RUN failures` has its cause" in told(folder.path, "--id", key)


def test_what_people_and_gates_found_is_told(private_run: Path) -> None:
    folder = RunFolder(private_run)
    answer = folder.read_table("responses").filter(pl.col("status") == "valid").row(0, named=True)
    key, other = answer["sample_id"], folder.read_table("responses")["sample_id"][1]
    Rounds(folder.review_path).keep(
        table_of([{**REVIEW, "sample_id": key}, {**REVIEW, "sample_id": other}], REVIEWS, "reviews")
    )
    verdict = {"sample_id": key, "outcome": "corrected", "completion": "positive", "annotators": ["ann"]}
    folder.write_table("audit", table_of([{**verdict, "settled_at": GIVEN_AT}], AUDIT, "audit"))
    finding = {"outcome": "redacted", "gate": "privacy", "reason": "email in text", "completion": "[EMAIL]"}
    keys = (key, answer["instruction_id"], f"corrections/{key}", other)
    folder.write_table("gates", table_of([{"key": one, **finding} for one in keys], GATES, "gates"))
    near = {"sample_id": key, "nearest_id": other, "nearest_similarity": 0.9501}
    folder.write_table("scores", table_of([near], SCORES, "scores"))
    found = lineage(private_run, key)
    (review,) = found["reviews"]["answers"]
    assert review == {**REVIEW, "given_at": "2026-03-04T05:06:07.000000+00:00", "problem": None}
    assert found["audit"]["outcome"] == "corrected"
    assert [one["key"] for one in found["gates"]["findings"]] == list(keys[:3])
    assert found["scores"]["nearest_prompt"] == row(folder, "responses", "sample_id", other)["prompt"][:200]
    shown = told(private_run, "--id", key)
    assert "1 ann wrong, wrong label, quality 2, correction: positive, comment: \\x1b[31mno (round 1, argilla)" in shown
    assert f"nearest {other}, similarity 0.950: " in shown
    assert "redacted (privacy): email in text" in shown
    assert "outcome corrected completion positive" in shown


def test_a_hostile_sample_steers_nothing(private_run: Path) -> None:
    folder = RunFolder(private_run)
    hostile = "\x1b]0;owned\x07\u202e[red]x[/red]\x9b2J"
    for name, columns in (("responses", ("output", "reason")), ("texts", ("text", "source")), ("attributes", ("name",)),
                          ("perspectives", ("head",)), ("instructions", ("instruction", "name")),
                          ("decisions", ("reason",))):  # fmt: skip
        table = folder.read_table(name)
        folder.write_table(name, table.with_columns(pl.lit(hostile).alias(column) for column in columns))
    key = folder.read_table("responses")["sample_id"][0]
    done = in_process("inspect", private_run, "--id", key)
    assert not set("\x1b\x07\u202e\x9b") & set(done.stdout)
    assert done.stdout.count("\\x1b]0;owned\\x07\\u202e[red]x[/red]\\x9b2J") >= 8


@pytest.fixture
def imported_run(tmp_path: Path) -> RunFolder:
    path = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"Is {word} good?", "completion": "yes", "text": word} for word in ("tea", "rain")]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    folder, source = RunFolder(tmp_path / "run"), TextSource(path=str(path))
    folder.path.mkdir()
    for name, table in import_pairs([source], Imported())[0].items():
        folder.write_table(name, table)
    folder.write_manifest({"stages": {"responses": {}}, "seconds": {}})
    folder.write_recipe(import_recipe(source, {}, {}, 42, "cpu"))
    return folder


def test_imported_data_has_a_lineage(imported_run: RunFolder) -> None:
    key = imported_run.read_table("responses")["sample_id"][0]
    found = lineage(imported_run.path, key)
    assert (found["text"]["text"], found["checks"]["prompt"]) == ("tea", "Is tea good?")
    assert found["calls"] == {"missing": "none: the data was imported"}
    assert found["attributes"] == {"missing": "none: the data was imported, nothing was looked for"}
    assert found["scores"] == {"missing": "not yet: stage scores has not run"}
    shown = told(imported_run.path, "--id", key[:6])
    assert "prompt Is tea good? output yes status valid" in shown
