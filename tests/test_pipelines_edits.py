"""Instructions leave as YAML and come back: unchanged, edited, added, deleted; a fault is named, nothing is lost."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipelines.definitions import instruction_id
from pipelines.edits import LEFT_OUT, apply_entries, export_instructions, kept_edits, read_entries, read_kept_edits
from stillhouse.errors import InputError
from stillhouse.store import RunFolder
from tests.conftest import endpoint_teacher, in_process, write_recipe
from tests.teacher_server import TeacherServer

NEW = {
    "type": "classification",
    "name": "season",
    "instruction": "Decide which season the text speaks of",
    "labels": ["summer", "winter", "none"],
    "examples": [{"text": "Snow again.", "output": "winter"}],
}


def exported(run: Path, to: Path) -> list[dict[str, Any]]:
    tables = RunFolder(run)
    to.write_text(export_instructions(tables.read_table("instructions"), tables.read_table("perspectives")), "utf-8")
    entries: list[dict[str, Any]] = yaml.safe_load(to.read_text("utf-8"))
    return entries


def applied(run: Path, entries: list[dict[str, Any]], to: Path) -> pl.DataFrame:
    to.write_text(yaml.safe_dump(entries, allow_unicode=True), "utf-8")
    tables = RunFolder(run)
    return apply_entries(read_entries(to), tables.read_table("instructions"), tables.read_table("perspectives"))


def test_what_is_exported_comes_back_as_it_was(answered_run: Path, tmp_path: Path) -> None:
    entries = exported(answered_run, tmp_path / "i.yaml")
    before = RunFolder(answered_run).read_table("instructions")
    assert {entry["type"] for entry in entries} >= {"analysis", "classification", "scoring", "extraction"}
    assert len(entries) == before.filter("kept").height
    after = applied(answered_run, entries, tmp_path / "i.yaml")
    assert after.sort("instruction_id").equals(before.sort("instruction_id"))


def test_edits_make_new_instructions_and_deleted_ones_stay_with_a_reason(answered_run: Path, tmp_path: Path) -> None:
    entries = exported(answered_run, tmp_path / "i.yaml")
    deleted, changed = entries.pop(0), next(entry for entry in entries if entry["type"] == "scoring")
    changed.update(scale=[0, 100], examples=[], demos=[])
    entries.append({**NEW, "perspective": deleted["perspective"]})
    after = applied(answered_run, entries, tmp_path / "i.yaml")
    rows = {row["instruction_id"]: row for row in after.to_dicts()}
    gone = rows[deleted["id"]]
    assert (gone["kept"], gone["reason"]) == (False, LEFT_OUT)
    wording = f"{changed['instruction']} Answer with a whole number from 0 (lowest) to 100 (highest)."
    edited = next(row for row in rows.values() if row["instruction"] == wording)
    assert edited["lineage"]["edited"] is True
    assert edited["lineage"]["calls"] == rows[changed["id"]]["lineage"]["calls"], "it stems from the teacher's"
    assert (rows[changed["id"]]["kept"], rows[changed["id"]]["reason"]) == (False, LEFT_OUT)
    added = next(row for row in rows.values() if row["name"] == "season")
    assert added["instruction"].endswith("Answer with one of: summer, winter, none.")
    assert added["instruction_id"] == instruction_id(added["perspective_id"], "classification", added["instruction"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"type": "structured", "labels": [], "fields": {"a b": "text", "a  b": "text"}, "examples": []},
            "field given twice",
        ),
        (
            {"type": "structured", "labels": [], "fields": {"a": ["x", "x"], "b": "text"}, "examples": []},
            "label set of one",
        ),
        ({"labels": ["a", " A", "b"]}, "`labels` needs at least two different"),
        ({"scale": [1, 5]}, "`scale` does not go with type classification"),
        ({"type": "scoring", "labels": [], "scale": [0, 10**9], "examples": []}, "at most 100 apart"),
        ({"labels": ["one"]}, r"entry 1 \(season\): `labels` needs at least two"),
        ({"colour": 1}, r"entry 1 \(season\): colour: Extra inputs are not permitted"),
        ({"type": "poem"}, r"type: Input should be 'analysis'"),
        (
            {"type": "scoring", "labels": [], "scale": [5, 1], "examples": []},
            "`scale` needs the lowest and the highest",
        ),
        (
            {"type": "structured", "labels": [], "fields": {"a": "date", "b": "text"}, "examples": []},
            "field of unknown kind",
        ),
        ({"type": "structured", "labels": [], "fields": {"a": "text"}, "examples": []}, "record of one field"),
        ({"examples": [{"text": "Snow.", "output": "autumn"}]}, "'autumn' does not fit the task: label not in the set"),
        ({"instruction": " ?! "}, "the instruction has no words"),
        ({"perspective": "nonsense"}, "no perspective is called nonsense; known: "),
    ],
)
def test_faults_are_named(answered_run: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    head = RunFolder(answered_run).read_table("perspectives")["head"][0]
    with pytest.raises(InputError, match=message):
        applied(answered_run, [{**NEW, "perspective": head, **change}], tmp_path / "i.yaml")


def test_an_entry_twice_is_refused(answered_run: Path, tmp_path: Path) -> None:
    head = RunFolder(answered_run).read_table("perspectives")["head"][0]
    with pytest.raises(InputError, match=r"`season` of .* is in the file twice"):
        applied(answered_run, [{**NEW, "perspective": head}] * 2, tmp_path / "i.yaml")


def test_what_a_person_has_not_seen_is_kept(answered_run: Path, tmp_path: Path) -> None:
    tables = RunFolder(answered_run)
    instructions, perspectives = tables.read_table("instructions"), tables.read_table("perspectives")
    ids = instructions.filter("kept")["instruction_id"].to_list()
    entries = [entry for entry in exported(answered_run, tmp_path / "i.yaml") if entry["id"] not in ids[:2]]
    (tmp_path / "i.yaml").write_text(yaml.safe_dump(entries), "utf-8")
    shown = instructions.filter(pl.col("instruction_id") != ids[0])
    (tmp_path / "kept.yaml").write_text(kept_edits(read_entries(tmp_path / "i.yaml"), shown), "utf-8")
    again, seen = read_kept_edits(tmp_path / "kept.yaml")
    after = apply_entries(again, instructions, perspectives, seen)
    rows = {row["instruction_id"]: row for row in after.to_dicts()}
    assert rows[ids[0]]["kept"], "new since the import"
    assert rows[ids[1]]["reason"] == LEFT_OUT
    assert all(rows[key]["kept"] and not rows[key]["lineage"]["edited"] for key in ids[2:])


@pytest.mark.parametrize("content", ["", "a: b", "seen: []\ninstructions: [{name: x}]", "- ["])
def test_damaged_edits_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "edits.yaml").write_text(content)
    with pytest.raises(InputError, match=r"edits\.yaml is damaged .* import the edited instructions again"):
        read_kept_edits(tmp_path / "edits.yaml")


@pytest.mark.parametrize("content", ["", "[]", "a: b", "- !!python/object/apply:os.system [id]", "- [", "\xff"])
def test_what_is_no_list_of_instructions_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "i.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"i\.yaml"):
        read_entries(tmp_path / "i.yaml")


def test_a_run_goes_on_from_the_edited_instructions(
    answered_run: Path, tmp_path: Path, teacher_server: TeacherServer
) -> None:
    run, file = Path(shutil.copytree(answered_run, tmp_path / "run")), tmp_path / "edited.yaml"
    assert in_process("instructions", "export", run, "--to", file).returncode == 0
    assert in_process("instructions", "export", run, "--to", file).returncode == 2, "an edited file is not overwritten"
    entries = yaml.safe_load(file.read_text("utf-8"))
    kept, deleted = entries[:-1], entries[-1]
    file.write_text(yaml.safe_dump([*kept, {**NEW, "perspective": deleted["perspective"]}]), "utf-8")
    bad = tmp_path / "bad.yaml"
    bad.write_text("- {name: half}", "utf-8")
    refused = in_process("instructions", "import", run, bad)
    assert refused.returncode == 2
    assert "entry 1 (half): perspective: Field required" in refused.stderr
    assert RunFolder(run).read_table("responses").height == 24, "a refused file changes nothing"

    done = in_process("instructions", "import", run, file)
    assert done.returncode == 0, done.stderr
    assert f"kept: {len(entries)}, edited: 1, left out: 1" in done.stdout
    recipe = write_recipe(tmp_path, teacher=endpoint_teacher(teacher_server))
    again = in_process("run", recipe, "--out", run, "--until", "responses")
    assert again.returncode == 0, again.stderr
    tables = RunFolder(run)
    used = set(tables.read_table("responses")["instruction_id"])
    instructions = tables.read_table("instructions")
    assert used == set(instructions.filter("kept")["instruction_id"])
    assert deleted["id"] not in used
    # What the teacher had answered before is not asked again: only the new instruction's samples, and pairs that moved.
    answers = tables.read_table("responses")["call_id"].to_list()
    before = set(RunFolder(answered_run).read_table("responses")["call_id"])
    assert sum(teacher_server.requests.values()) < len(answers)
    assert before & set(answers)
    assert in_process("run", recipe, "--out", run, "--until", "responses").stdout.count("done before") == 5

    # Exported and imported once more, as it is: an edited instruction keeps its lineage and nothing is lost.
    more = tmp_path / "more.yaml"
    assert in_process("instructions", "export", run, "--to", more).returncode == 0
    assert in_process("instructions", "import", run, more).returncode == 0
    assert in_process("run", recipe, "--out", run, "--until", "instructions").returncode == 0
    assert (
        RunFolder(run)
        .read_table("instructions")
        .filter("kept")
        .sort("instruction_id")
        .equals(instructions.filter("kept").sort("instruction_id"))
    )
