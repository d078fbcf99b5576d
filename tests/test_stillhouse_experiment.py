"""An experiment: cuts of one pool of the right rows and sizes, equal trainings, points that are made once."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from stillhouse.errors import InputError
from stillhouse.experiment import Experiment, Point, _cut, markdown, run_experiment
from stillhouse.progress import Unseen
from tests.conftest import stillhouse
from tests.sentibench_data import write_sentibench
from tests.tiny_student import published_rows, rejected_rows, write_published, write_student
from training.data import find_dataset, load_pool
from training.settings import load_training

pytestmark = pytest.mark.xdist_group("experiment")  # one experiment for all


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 kept rows and 30 that the selection left out; two more of a text in `test`, one that was invalid."""
    kept, out = published_rows(30), published_rows(30, first=30)
    test = published_rows(4, first=100)
    leaked = test.head(2).with_columns(id=pl.col("id") + "b")
    rejected = pl.concat([rejected_rows(out), rejected_rows(leaked), rejected_rows(published_rows(1, 200), "validity")])
    return write_published(tmp_path_factory.mktemp("pool") / "moods", rejected=rejected, train=kept, test=test)


@pytest.fixture(scope="module")
def places(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("places")
    return {"pool": pool, "student": write_student(folder / "student"), "data": write_sentibench(folder / "senti")}


def settings_of(places: dict[str, Any], out: Path, training: dict[str, Any] | None = None, **given: Any) -> Experiment:
    how = {"dataset": str(places["pool"]), "student": str(places["student"]), "out": str(out), "epochs": 1.0}
    few = {"rates": (0.25, 1), "controls": ("random",), "tasks": "sc/sst2", "shots": 1, "demonstrations": (1, 2)}
    training_settings = load_training({**how, **(training or {})})
    return Experiment.model_validate({"training": training_settings, "data": places["data"], **few, **given})


@pytest.fixture(scope="module")
def done(places: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("done") / "out"
    return out, run_experiment(settings_of(places, out, seeds=(1, 2)), Unseen())


def test_the_pool_is_what_was_selected_from_less_what_is_tested_on(pool: Path) -> None:
    rows, test = load_pool(find_dataset(str(pool), None))
    assert set(rows["id"]) == {f"s{number}" for number in range(60)}
    assert test is not None
    assert test["id"].to_list() == [f"s{number}" for number in range(100, 104)]


def test_cuts_are_of_their_share_and_controls_of_their_size(places: dict[str, Any], tmp_path: Path) -> None:
    rows, _ = load_pool(find_dataset(str(places["pool"]), None))
    settings = settings_of(places, tmp_path, strategy="hard", controls=("random", "top"))
    cuts = {kind: _cut(rows, Point(kind, 0.25, 1), settings) for kind in ("hard", "random", "top")}
    assert {kind: len(cut) for kind, cut in cuts.items()} == dict.fromkeys(cuts, len(cuts["hard"]))
    assert abs(len(cuts["hard"]) - 15) <= 3, "ties are drawn for"
    hardest = rows.sort("difficulty", descending=True).head(len(cuts["top"]))["difficulty"].sum()
    assert cuts["top"]["difficulty"].sum() == pytest.approx(hardest)
    assert cuts["random"]["difficulty"].sum() < hardest
    other = _cut(rows, Point("random", 0.25, 2), settings)
    assert set(other["id"]) != set(cuts["random"]["id"]), "each seed draws anew"
    assert len(_cut(rows, Point("all", 1.0, 1), settings)) == 60


def test_every_point_is_trained_and_measured(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    points = {(one["kind"], one["rate"], one["seed"]): one for one in results["points"]}
    assert set(points) == {
        ("before", 0.0, 1),
        *(("soft", 0.25, seed) for seed in (1, 2)),
        *(("random", 0.25, seed) for seed in (1, 2)),
        *(("all", 1.0, seed) for seed in (1, 2)),
    }
    assert results["pool"] == 60
    for (kind, _, seed), point in points.items():
        assert point["steps"] == math.ceil(point["rows"] / 4), "one epoch of batches of 4"
        assert (point["tokens"] > 0) == (kind != "before")
        if kind == "random":
            assert point["rows"] == points["soft", 0.25, seed]["rows"]
    groups = {(group["kind"], group["rate"]): group for group in results["groups"]}
    for group in groups.values():
        assert group["f1"]["low"] <= group["f1"]["value"] <= group["f1"]["high"]
        assert group["f1"]["value"] == pytest.approx(sum(group["by_seed"].values()) / len(group["by_seed"]))
    assert set(groups["soft", 0.25]["by_seed"]) == {1, 2}
    assert not list(out.glob("points/*/student")), "students are not kept unless asked for"


def test_equal_steps_are_those_of_the_whole_pool(places: dict[str, Any], tmp_path: Path) -> None:
    settings = settings_of(places, tmp_path / "out", {"batch_size": 10}, equal="steps", keep=True)
    results = run_experiment(settings, Unseen())
    assert {one["steps"] for one in results["points"] if one["kind"] != "before"} == {6}
    assert (tmp_path / "out" / "points" / "all-1-seed-42" / "student" / "model.safetensors").exists()
    with pytest.raises(InputError, match="--equal steps with packing"):
        run_experiment(settings_of(places, tmp_path / "packed", {"packing": True}, equal="steps"), Unseen())


DIE = """
import json, os, signal, sys
from stillhouse.experiment import Experiment, run_experiment
from stillhouse.progress import Unseen
class Deadly(Unseen):
    def warn(self, message):
        if "point {at} " in message:
            os.kill(os.getpid(), signal.SIGKILL)
run_experiment(Experiment.model_validate(json.loads(sys.argv[1])), Deadly())
"""


def test_a_killed_experiment_goes_on_with_the_missing_points(
    places: dict[str, Any], tmp_path: Path, done: tuple[Path, dict[str, Any]]
) -> None:
    settings = settings_of(places, tmp_path / "out", seeds=(1, 2))
    command = [sys.executable, "-c", DIE.format(at=4), settings.model_dump_json()]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("points/*/point.json")}
    assert len(before) == 3
    results = run_experiment(settings, Unseen())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    scores = [{(one["kind"], one["rate"]): one["f1"] for one in each["groups"]} for each in (results, done[1])]
    assert scores[0] == scores[1], "as if it had not been killed"
    with pytest.raises(InputError, match="holds an experiment with another equal, rates"):
        run_experiment(settings_of(places, tmp_path / "out", seeds=(1, 2), rates=(0.5,), equal="steps"), Unseen())


def test_the_table_has_a_line_for_each_cut(done: tuple[Path, dict[str, Any]]) -> None:
    lines = markdown(done[1]).splitlines()
    assert lines == (done[0] / "results.md").read_text("utf-8").splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| cut", "| ---", "| before", "| soft", "| random", "| all"]


@pytest.mark.parametrize(
    ("rejected", "wrong"),
    [
        (rejected_rows(published_rows(2, 50), "validity"), "its selection left nothing out"),
        (rejected_rows(published_rows(2, 50, difficulty=None)), "some rows have no difficulty"),
        (None, "rejected"),
    ],
)
def test_a_dataset_without_a_pool_is_said(
    places: dict[str, Any], tmp_path: Path, rejected: pl.DataFrame | None, wrong: str
) -> None:
    pool = write_published(tmp_path / "pool", rejected=rejected, train=published_rows(4))
    with pytest.raises(InputError, match=wrong):
        run_experiment(settings_of({**places, "pool": pool}, tmp_path / "out"), Unseen())


def test_the_command_shows_table_and_pictures(places: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["experiment", places["pool"], "--student", places["student"], "--data", places["data"]]
    arguments += ["--rates", "0.5,1", "--controls", "top", "--epochs", 1, "--tasks", "sc/sst2", "--shots", 1]
    arguments += ["--demonstrations", "1", "--out", tmp_path / "out"]
    shown = stillhouse(*arguments)
    assert shown.returncode == 0, shown.stderr
    assert "Pool of 60 rows, equal epochs" in shown.stdout
    assert all(kind in shown.stdout for kind in ("before", "soft", "top", "all"))
    with Image.open(tmp_path / "out" / "figures" / "share.png") as picture:
        assert picture.size[0] > 1000
    assert "<svg" in (tmp_path / "out" / "figures" / "share.svg").read_text("utf-8")
    again = stillhouse(*arguments, "--json")
    assert [group["kind"] for group in json.loads(again.stdout)["groups"]] == ["before", "soft", "top", "all"]
    refused = stillhouse("experiment", places["pool"], "--student", "s", "--data", places["data"], "--controls", "best")
    assert refused.returncode == 2
    assert "--controls.0" in refused.stderr
