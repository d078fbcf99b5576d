"""What `publish` refuses before it asks the Hub for anything, and what it puts into a folder instead."""

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl
import pytest
import yaml

from stillhouse.store import RunFolder
from tests.conftest import stillhouse
from tests.publishing import check_refused

pytestmark = pytest.mark.xdist_group("offline")


@pytest.fixture
def run(private_run: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished run; nobody answers where the Hub is looked for, and there is no token."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_HOME", str(private_run.parent / "home"))
    return RunFolder(private_run)


def publish(run: RunFolder, to: object, cwd: Path | None = None) -> "CompletedProcess[str]":
    return stillhouse("publish", run.path, "--to", to, "--without-audit", "For a test", cwd=cwd)


def published(run: RunFolder, to: object, cwd: Path | None = None) -> str:
    done = publish(run, to, cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def change_recipe(run: RunFolder, section: str, value: Any) -> None:
    recipe = yaml.safe_load(run.recipe_path.read_text(encoding="utf-8"))
    recipe[section] = value(recipe[section])
    run.recipe_path.write_text(yaml.safe_dump(recipe), encoding="utf-8")


def undo(run: RunFolder, *stages: str) -> None:
    manifest = run.manifest()
    for stage in stages:
        del manifest["stages"][stage]
    run.write_manifest(manifest)


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("moods", "'moods' does not say whose repository it is; write OWNER/moods, or ./moods for a folder"),
        ("a/b/c", "'a/b/c' is no repository, OWNER/NAME, and no folder, ./NAME: Repo id must be in the form"),
        ("x y/z", "'x y/z' is no repository"),
        ("x/../z", "'x/../z' is no repository"),
        ("", "'' is no repository"),
        ("~nobody-of-that-name/x", "give another folder"),
        ("ann/x.gguf/y", "'ann/x.gguf/y' is no repository"),
    ],
)
def test_what_is_no_target(run: RunFolder, to: str, words: str) -> None:
    check_refused(publish(run, to), 2, words)


def test_a_licence_that_is_not_stated(run: RunFolder) -> None:
    path = run.read_table("texts")["source"][0]
    change_recipe(run, "texts", lambda texts: {"sources": [{**texts["sources"][0], "licence": "unknown"}]})
    check_refused(publish(run, "ann/moods"), 2, "texts.sources[0].licence", path, "is not stated", "SPDX id")


def test_a_dataset_without_a_licence_gets_one_by_an_update(run: RunFolder, tmp_path: Path) -> None:
    change_recipe(run, "publish", lambda publish: {**publish, "licence": "unknown"})
    check_refused(publish(run, tmp_path / "out"), 2, "publish.licence", "run --update")
    change_recipe(run, "publish", lambda publish: {**publish, "licence": "CC-BY-4.0"})
    recipe = Path(shutil.copy(run.recipe_path, tmp_path / "licensed.yaml"))
    assert stillhouse("run", recipe, "--out", run.path, "--update").returncode == 0
    published(run, tmp_path / "out")
    assert "license: cc-by-4.0" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("stages", "remedy"),
    [
        (("dataset",), "`stillhouse review apply {run}` does that"),
        (("decisions", "audit", "gates", "dataset"), "`stillhouse run {run}/recipe.yaml --out {run}` does that"),
    ],
)
def test_a_run_that_is_not_finished_says_what_finishes_it(
    run: RunFolder, tmp_path: Path, stages: tuple[str, ...], remedy: str
) -> None:
    undo(run, *stages)
    remedy = remedy.format(run=run.path)
    check_refused(publish(run, tmp_path / "out"), 2, f"not done yet: {', '.join(stages)}; {remedy}")
    done = stillhouse(*remedy.split("`")[1].split()[1:])
    assert done.returncode == 0, done.stderr
    published(run, tmp_path / "out")


def test_a_run_of_which_every_text_leaks(run: RunFolder, tmp_path: Path) -> None:
    texts = [{"text": text} for text in run.read_table("texts")["text"]]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    leaks = {"evaluation": [{"path": str(tmp_path / "test.jsonl")}], "similarity": None}
    change_recipe(run, "publish", lambda publish: {**publish, "leaks": leaks})
    recipe = Path(shutil.copy(run.recipe_path, tmp_path / "leaking.yaml"))
    done = stillhouse("run", recipe, "--out", run.path, "--update")
    assert (done.returncode, "no row is left to publish" in done.stderr) == (1, True)
    assert set(run.read_table("gates").filter(pl.col("gate") == "leak")["key"]) >= set(
        run.read_table("responses")["sample_id"]
    )
    check_refused(publish(run, "ann/moods"), 2, "not done yet: dataset")


def test_a_run_without_a_kept_row(run: RunFolder, tmp_path: Path) -> None:
    run.write_table("decisions", run.read_table("decisions").with_columns(kept=pl.lit(False)))
    check_refused(publish(run, tmp_path / "out"), 1, "no row is left to publish")
    assert not (tmp_path / "out").exists()


def test_no_run_and_a_run_in_use(run: RunFolder, tmp_path: Path) -> None:
    check_refused(publish(RunFolder(tmp_path / "nothing"), "ann/moods"), 2, "is not a run folder")
    with run.locked():
        check_refused(publish(run, "ann/moods"), 1, "another process is working on", "wait for it")


def test_a_folder_of_somebody_else(run: RunFolder, tmp_path: Path) -> None:
    mine, damaged = tmp_path / "mine", tmp_path / "damaged"
    for folder, name in ((mine, "thesis.txt"), (damaged, "facts.json")):
        folder.mkdir()
        (folder / name).write_text("years of work", encoding="utf-8")
    check_refused(publish(run, mine), 2, "thesis.txt", "would be deleted", "another target")
    check_refused(publish(run, mine / "thesis.txt"), 2, "is a file; give a folder")
    check_refused(publish(run, damaged), 2, "facts.json has not the facts of a published dataset", "another target")
    check_refused(publish(run, run.path), 2, "give another folder")
    for folder in (mine, damaged):
        assert [path.read_text(encoding="utf-8") for path in folder.iterdir()] == ["years of work"]


def test_a_second_version_in_a_folder_tells_its_changes(run: RunFolder, tmp_path: Path) -> None:
    """The target is relative, and is the working directory itself."""
    here = tmp_path / "here"
    here.mkdir()
    told = published(run, ".", cwd=here)
    assert f".: {len([path for path in here.rglob('*') if path.is_file()])} files changed" in told
    assert "Changes since" not in (here / "README.md").read_text(encoding="utf-8")
    kept = run.read_table("decisions")["kept"].sum()
    assert pl.read_parquet(here / "default" / "*.parquet").height == kept
    dropped = run.read_table("decisions").filter("kept")["sample_id"][0]
    run.write_table(
        "decisions", run.read_table("decisions").with_columns(pl.col("kept") & (pl.col("sample_id") != dropped))
    )
    published(run, "../tmp/../here", cwd=Path(shutil.copytree(here, tmp_path / "tmp")))
    assert f"| funnel.kept | {kept} | {kept - 1} |" in (here / "README.md").read_text(encoding="utf-8")
    assert dropped not in set(pl.read_parquet(here / "default" / "*.parquet")["id"])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
