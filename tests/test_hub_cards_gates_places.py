"""The gates look wherever words leave: demonstrations, wordings, attributes, people's corrections. Nothing gets by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import polars as pl
import pytest
from hypothesis import strategies as st

from stillhouse.schemas import AUDIT, table_of
from tests.gated_run import (
    CLEAN,
    EVALUATED,
    PLANTED,
    PRIVATE,
    Left,
    Tables,
    evaluation_set,
    kept_of,
    leave,
    planted_run,
    samples_with,
    set_rows,
)
from tests.written_dataset import Content

pytestmark = pytest.mark.xdist_group("offline")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Content:
    return planted_run(tmp_path_factory.mktemp("gates") / "run")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluation_set(tmp_path_factory.mktemp("sets"))


def test_demonstrations_go_alone(base: Content, evaluated: dict[str, Any], tmp_path: Path) -> None:
    tasks, everywhere = base.tables["instructions"], base.tables["instructions"]["instruction_id"].to_list()
    clean = [{"text": CLEAN[0], "output": "fine"}]
    tasks = tasks.with_columns(
        demos=pl.lit(clean, tasks.schema["demos"]), examples=pl.lit(clean, tasks.schema["demos"])
    )
    tasks = set_rows(tasks, "instruction_id", everywhere[0], demos=[*clean, {"text": EVALUATED, "output": "none"}])
    tasks = set_rows(tasks, "instruction_id", everywhere[1], examples=[{"text": "x", "output": "ann@example.com"}])
    left = leave(base, tmp_path, {**base.tables, "instructions": tasks}, leaks=evaluated)
    rows = left.rows("instructions")
    bare = rows.filter(pl.col("demos").list.len() + pl.col("examples").list.len() == 0)
    assert bare["instruction_id"].to_list() == everywhere[:2]
    others = [name for name in rows.columns if name not in ("demos", "examples")]
    assert rows.select(others).equals(tasks.select(others))
    assert rows[2:].equals(tasks[2:])
    assert set(left.gates.filter(pl.col("key").is_in(everywhere))["key"]) == set(everywhere[:2])
    plain = leave(base, tmp_path / "plain", leaks=evaluated)
    assert left.rows("default").equals(plain.rows("default")), "their rows stay as they are"
    assert left.scored == plain.scored


def test_wordings_and_meanings_of_attributes_are_looked_at(
    base: Content, evaluated: dict[str, Any], tmp_path: Path
) -> None:
    tasks, groups = base.tables["instructions"], base.tables["perspectives"]
    names = tasks["instruction_id"].to_list()
    address, labels = "Judge how it treats zoe@example.com. Answer with one of: a, b.", tasks["labels"][0].to_list()
    tasks = set_rows(tasks, "instruction_id", names[0], instruction=address)
    tasks = set_rows(tasks, "instruction_id", names[1], instruction=f"{EVALUATED} Judge that.")
    member = {"name": "tone", "description": "what zoe@example.com sounds like", "count": 2}
    groups = set_rows(groups, "perspective_id", "p0", members=[member])
    groups = set_rows(groups, "perspective_id", "p1", members=[{**member, "description": "how loud it is"}])
    left = leave(base, tmp_path, {**base.tables, "instructions": tasks, "perspectives": groups}, leaks=evaluated)
    rows = left.rows("instructions")
    assert rows["instruction"].to_list()[:2] == ["Judge how it treats [EMAIL]. Answer with one of: a, b.", ""]
    assert (labels != [], rows["labels"][0].to_list(), rows["schema"][0]) == (True, [], None)
    assert rows[2:].equals(tasks[2:])
    assert left.rows("perspectives")["members"].list.len().to_list() == [0, 1, *[0] * (len(groups) - 2)]
    assert "zoe@example.com" not in left.everything()


@pytest.fixture(scope="module")
def corrected(base: Content, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Left]:
    """Three kept samples that people corrected: with an address, away from an address, and neither."""
    clean = kept_of(base, set(base.tables["responses"]["sample_id"]) - samples_with(base, *PLANTED))
    ids = sorted(clean)[:3]
    rows = [
        {"sample_id": key, "outcome": "corrected", "reason": "wrong", "completion": answer, "difficulty": 0.5,
         "annotators": ["ann", "ben"]}
        for key, answer in zip(ids, ["Ask joe@example.com.", "Ask them.", "It is about price."], strict=True)
    ]  # fmt: skip
    responses = set_rows(base.tables["responses"], "sample_id", ids[1], output="Ask kim@example.com, or her boss.")
    tables = {**base.tables, "audit": table_of(rows, AUDIT, "audit"), "responses": responses}
    return ids, leave(base, tmp_path_factory.mktemp("corrected"), tables)


def test_of_corrected_answers_both_are_looked_at(corrected: tuple[list[str], Left]) -> None:
    ids, left = corrected
    answers = dict(left.rows("default").filter(pl.col("id").is_in(ids)).select("id", "completion").iter_rows())
    assert answers == dict(zip(ids, ["Ask [EMAIL].", "Ask them.", "It is about price."], strict=True))
    shown = left.rows("corrections")
    assert shown["id"].to_list() == [ids[2]]
    assert shown["annotators"].to_list() == [2]
    assert not any(name in left.everything() for name in ("joe@example.com", "kim@example.com"))
    assert ("[EMAIL]" in dict(left.scored).values(), "Ask [EMAIL]." in dict(left.scored).values()) == (False, True)


KINDS: dict[str, Callable[[int], str]] = {
    "email": lambda number: f"zoe.q{number}@corp.example.com",
    "phone": lambda number: f"+1 212 555 01{number:02}",
    "handle": lambda number: f"@quillon_{number}x",
    "card": lambda number: ("5555555555554444", "378282246310005", "6011 1111 1111 1117", "3530 1113 3330 0000")[
        number % 4
    ],
    "secret": lambda number: f"ghp_16C7e42F292c6912E7710c838347Ae178B{number:02}",
}
PLACES = ("text", "prompt", "completion", "examples", "demos", "wording", "member", "correction", "before")
MIXTURES = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(sorted(KINDS)), st.integers(0, 59)), max_size=8)


def plant(tables: Tables, place: str, value: str, number: int) -> Tables:
    """Return the tables with a private value in some place of sample `number`."""
    row = tables["responses"].row(number, named=True)
    key, task, said = row["sample_id"], row["instruction_id"], f"Ask for {value}, please."
    if place == "text":
        old = tables["texts"].filter(pl.col("text_id") == row["text_id"])["text"].item()
        prompt = pl.col("prompt").str.replace(old, f"{old} {said}", literal=True)
        texts = set_rows(tables["texts"], "text_id", row["text_id"], text=f"{old} {said}")
        return {**tables, "texts": texts, "responses": tables["responses"].with_columns(prompt)}
    if place in ("examples", "demos", "wording"):
        change = {"instruction": said} if place == "wording" else {place: [{"text": "x", "output": said}]}
        return {**tables, "instructions": set_rows(tables["instructions"], "instruction_id", task, **change)}
    if place == "member":
        members = [{"name": "tone", "description": said, "count": 1}]
        return {**tables, "perspectives": set_rows(tables["perspectives"], "perspective_id", "p0", members=members)}
    column = "prompt" if place == "prompt" else "output"
    if place != "correction":
        tables = {**tables, "responses": set_rows(tables["responses"], "sample_id", key, **{column: said})}
    if place in ("correction", "before"):
        answer = {"sample_id": key, "outcome": "corrected", "completion": said if place == "correction" else "Fine."}
        audit = tables["audit"].filter(pl.col("sample_id") != key)
        return {**tables, "audit": pl.concat([audit, table_of([answer], AUDIT, "audit")])}
    return tables


# To shrink a failure would take minutes, and says no more than which of the few values left.
@hypothesis.settings(deadline=None, max_examples=20, derandomize=True, phases=[hypothesis.Phase.generate])
@hypothesis.given(MIXTURES, st.fixed_dictionaries({kind: st.sampled_from(["redact", "drop"]) for kind in KINDS}))
def test_whatever_is_planted_does_not_leave(
    base: Content,
    tmp_path_factory: pytest.TempPathFactory,
    mixture: list[tuple[str, str, int]],
    actions: dict[str, str],
) -> None:
    tables, values = base.tables, []
    for place, kind, number in mixture:
        values.append(KINDS[kind](number))
        tables = plant(tables, place, values[-1], number)
    left = leave(base, tmp_path_factory.mktemp("planted"), tables, private=actions)
    everything = left.everything()
    assert [value for value in [*values, *PRIVATE] if value in everything] == []
    total = len(left.rows("default")) + len(left.rows("rejected"))
    assert total == len(tables["responses"]), "each row is still told"
