"""A run is cut anew from its stored scores: every sample accounted for, controls as large, nothing overwritten."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pytest

from curation.diversity import k_center
from curation.vectors import SampleVectors
from stillhouse.recipe import Recipe
from stillhouse.schemas import DECISIONS, INSTRUCTIONS, RESPONSES, SCORES, TEXTS
from stillhouse.store import RunFolder
from tests.conftest import in_process

COUNT = 300


def filled(schema: pl.Schema, **columns: Any) -> pl.DataFrame:
    given = pl.DataFrame(columns)
    return given.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in columns)


def scored_run(path: Path, order: Any = slice(None)) -> RunFolder:
    """A run folder with scores: sample 0 invalid, 1 a near-duplicate, 2 unscored, the rest eligible."""
    folder, rng = RunFolder(path), np.random.default_rng(0)
    path.mkdir(parents=True)
    folder.write_recipe(Recipe.model_validate({"name": "cuts", "texts": {"sources": [{"path": "texts.jsonl"}]}}))
    folder.write_manifest({"stages": {"responses": {}, "scores": {}}, "seconds": {}})
    ids = np.array([f"s{number:03}" for number in range(COUNT)])
    difficulty = [None if number == 2 else float(value) for number, value in enumerate(rng.random(COUNT))]
    texts = filled(TEXTS, text_id=["t0", "t1"], domain=["film", "food"])
    instructions = filled(INSTRUCTIONS, instruction_id=["i0", "i1"], perspective_id=["p", "q"], task_type=["a", "b"])
    responses = filled(
        RESPONSES, sample_id=ids, text_id=[f"t{n % 2}" for n in range(COUNT)],
        instruction_id=[f"i{n % 3 // 2}" for n in range(COUNT)],
        status=["invalid"] + ["valid"] * (COUNT - 1), reason=["not JSON"] + [None] * (COUNT - 1),
    )  # fmt: skip
    scores = filled(
        SCORES, sample_id=ids[1:], difficulty=difficulty[1:], nearest_id=["s000"] + [None] * (COUNT - 2),
        nearest_similarity=[0.97] + [None] * (COUNT - 2), unscored_reason=[None, "empty output"] + [None] * (COUNT - 3),
    )  # fmt: skip
    tables = {"texts": texts, "instructions": instructions, "responses": responses[order], "scores": scores}
    for name, table in tables.items():
        folder.write_table(name, table)
    vectors = rng.normal(size=(COUNT, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    SampleVectors(ids.tolist(), [(vectors, np.arange(COUNT))]).save(folder.vectors_path, "test")
    return folder


def select(folder: RunFolder, *options: object) -> list[dict[str, Any]]:
    done = in_process("select", folder.path, *options, "--json")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def decisions_of(folder: RunFolder, name: str) -> pl.DataFrame:
    table = pl.read_parquet(folder.cut_path(name) / "decisions.parquet")
    assert table.schema == DECISIONS
    return table


def kept(folder: RunFolder, name: str) -> set[str]:
    return set(decisions_of(folder, name).filter("kept")["sample_id"])


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return scored_run(tmp_path / "run")


def test_every_count_of_a_cut_is_that_of_its_ledger(folder: RunFolder) -> None:
    (report,) = select(folder, "--rate", 0.3)
    table = decisions_of(folder, "soft-0.3")
    assert table["sample_id"].to_list() == folder.read_table("responses")["sample_id"].to_list()
    for stage in ("validity", "near_duplicate", "difficulty", "selection"):
        dropped = table.filter(~pl.col("kept"), pl.col("stage") == stage)
        assert report["counts"][f"dropped by {stage}"] == len(dropped)
        assert dropped["reason"].null_count() == 0
    assert sum(report["counts"].values()) == COUNT
    assert report["counts"]["kept"] == table["kept"].sum() == sum(report["kept"]) == report["came_in"]
    assert sum(report["scored"]) == COUNT - 2, "all but the invalid and the unscored one"
    near = table.row(1, named=True)
    assert (near["stage"], near["reason"]) == ("near_duplicate", "similarity 0.97 to s000")
    assert near["similarity"] >= near["threshold"] == 0.9
    judged = table.filter(pl.col("stage") == "selection")
    assert judged["kept"].to_list() == (judged["draw"] < judged["threshold"]).to_list()
    scores = folder.read_table("scores").select("sample_id", "difficulty")
    assert judged.join(scores, on=["sample_id", "difficulty"]).height == len(judged)
    assert json.loads((folder.cut_path("soft-0.3") / "cut.json").read_text())["counts"] == report["counts"]


def test_the_difference_to_the_last_cut_is_that_of_the_sets(folder: RunFolder) -> None:
    select(folder, "--rate", 0.3, "--controls", "random")
    (report,) = select(folder, "--rate", 0.3, "--strategy", "hard")
    before, after = kept(folder, "soft-0.3"), kept(folder, "hard-0.3")
    assert report["before"] == "soft-0.3", "a control is not what one goes on from"
    assert (report["came_in"], report["went_out"]) == (len(after - before), len(before - after))
    assert sum(report["kept_before"]) == len(before)
    assert report["kept"][0] == 0, "the easiest are not kept by `hard`"


def test_the_difference_to_the_run_itself(folder: RunFolder) -> None:
    select(folder, "--rate", 0.3, "--name", "first")
    folder.write_table("decisions", decisions_of(folder, "first"))
    folder.write_manifest({"stages": {"scores": {}, "decisions": {}}, "seconds": {}})
    for path in (folder.path / "cuts" / "first").iterdir():
        path.unlink()
    (report,) = select(folder, "--rate", 0.3, "--name", "again")
    assert (report["before"], report["came_in"], report["went_out"]) == ("the run", 0, 0)


def test_controls_are_as_many_and_what_they_say(folder: RunFolder) -> None:
    reports = select(folder, "--rate", 0.2, "--controls", "random,top,diverse")
    count = reports[0]["counts"]["kept"]
    assert [report["counts"]["kept"] for report in reports] == [count] * 4
    eligible = decisions_of(folder, "soft-0.2").filter(pl.col("stage") == "selection").sort("sample_id")
    hardest = eligible.sort("difficulty", descending=True).head(count)
    assert kept(folder, "soft-0.2-top") == set(hardest["sample_id"])
    ids = eligible["sample_id"].to_list()
    vectors = np.load(folder.vectors_path)["vectors_0"][[int(name[1:]) for name in ids]]
    assert kept(folder, "soft-0.2-diverse") == {ids[row] for row in k_center(vectors, count)}
    drawn = kept(folder, "soft-0.2-random")
    assert drawn not in (kept(folder, "soft-0.2"), kept(folder, "soft-0.2-top"))
    mean = eligible.filter(pl.col("sample_id").is_in(drawn))["difficulty"].mean()
    assert mean == pytest.approx(0.5, abs=0.15), "blind to difficulty"
    diverse = reports[3]["diversity"]
    assert diverse["vendi_after"] > reports[1]["diversity"]["vendi_after"]
    assert diverse["distance_after"] > diverse["distance_before"]


@pytest.mark.parametrize("options", [["soft"], ["k-center"], ["facility"], ["facility", "--scope", "task"]])
def test_a_cut_is_the_same_again_and_in_any_order_of_rows(tmp_path: Path, options: list[str]) -> None:
    one = scored_run(tmp_path / "one")
    other = scored_run(tmp_path / "other", np.random.default_rng(1).permutation(COUNT))
    for folder in (one, other):
        select(folder, "--rate", 0.3, "--name", "cut", "--strategy", *options)
    assert kept(one, "cut") == kept(other, "cut")
    content = (one.cut_path("cut") / "decisions.parquet").read_bytes()
    select(one, "--rate", 0.3, "--name", "cut", "--strategy", *options)
    assert (one.cut_path("cut") / "decisions.parquet").read_bytes() == content
    assert len(kept(one, "cut")) == pytest.approx(0.3 * (COUNT - 3), abs=2 if options != ["soft"] else 25)


def test_a_cut_can_be_trained_on(private_run: Path) -> None:
    before = (private_run / "decisions.parquet").read_bytes()
    (report,) = select(RunFolder(private_run), "--rate", 0.9, "--name", "large", "--dataset")
    dataset = private_run / "cuts" / "large" / "dataset"
    loaded = datasets.load_dataset(str(dataset))
    assert sum(map(len, loaded.values())) == report["counts"]["kept"]
    assert json.loads((dataset / "facts.json").read_text())["curation"]["rate"] == 0.9
    select(RunFolder(private_run), "--rate", 0.9, "--name", "large", "--dataset", "--controls", "top")
    made = json.loads((private_run / "cuts" / "large-top" / "dataset" / "facts.json").read_text())
    assert made["curation"]["strategy"] == "top, as many as in the cut large"
    assert (private_run / "decisions.parquet").read_bytes() == before, "the run's own cut stays"
    shown = in_process("select", private_run, "--rate", 0.9, "--name", "large", "--controls", "top")
    assert "Cut large: kept by difficulty" in shown.stdout
    assert "large-top" in shown.stdout


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["--rate", "2"], "--rate: Input should be less than or equal to 1", 2),
        (["--strategy", "best"], "--strategy: Input should be 'soft'", 2),
        (["--controls", "worst"], "no control is called worst; there are: random, top, diverse", 2),
        (["--name", "x" * 68, "--controls", "top"], "letters, digits, dot, dash and underscore make a name", 2),
        (["--name", "../elsewhere"], "letters, digits, dot, dash and underscore make a name", 2),
        (["--rate", "0.000001", "--strategy", "random"], "filter selection dropped the last of 300 samples", 1),
    ],
)
def test_wrong_options_are_named_and_leave_nothing(
    folder: RunFolder, options: list[str], message: str, code: int
) -> None:
    done = in_process("select", folder.path, *options)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(folder.path.glob("cuts/**/*.parquet"))


def test_a_name_is_not_taken_twice(folder: RunFolder) -> None:
    select(folder, "--rate", 0.3, "--name", "mine")
    content = (folder.cut_path("mine") / "decisions.parquet").read_bytes()
    done = in_process("select", folder.path, "--rate", 0.4, "--name", "mine")
    assert done.returncode == 2
    assert "holds a cut with other settings; give this one another --name" in done.stderr
    assert (folder.cut_path("mine") / "decisions.parquet").read_bytes() == content


def test_what_is_missing_is_said(folder: RunFolder) -> None:
    folder.vectors_path.unlink()
    (report,) = select(folder, "--rate", 0.3)
    assert report["diversity"] is None
    folder.vectors_path.write_bytes(b"PK\x03\x04 cut off")
    assert select(folder, "--rate", 0.3)[0]["diversity"] is None
    done = in_process("select", folder.path, "--strategy", "k-center")
    assert (done.returncode, "vectors.npz is not there, or damaged" in done.stderr) == (1, True)
    folder.write_manifest({"stages": {"responses": {}}, "seconds": {}})  # as after an update that was stopped
    done = in_process("select", folder.path, "--rate", 0.3)
    assert (done.returncode, "has no scores of its present responses" in done.stderr) == (2, True)
