"""The gates: what leaks or is private is left out or replaced, and counted; everything else leaves as it was."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from curation.difficulty import Score
from hub_cards import gates
from stillhouse import schemas
from stillhouse.build import fingerprints
from stillhouse.encoder import Encoder
from stillhouse.errors import InputError
from stillhouse.progress import Unseen
from stillhouse.recipe import load_recipe
from stillhouse.schemas import GATES
from stillhouse.stages import build_of, stages_of
from stillhouse.store import RunFolder
from tests.conftest import write_recipe
from tests.gated_run import (
    CLEAN,
    EVALUATED,
    PLANTED,
    PRIVATE,
    Left,
    evaluation_set,
    kept_of,
    leave,
    planted_run,
    samples_with,
    set_rows,
)
from tests.written_dataset import Content, facts_of

pytestmark = pytest.mark.xdist_group("offline")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Content:
    return planted_run(tmp_path_factory.mktemp("gates") / "run")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluation_set(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def left(base: Content, evaluated: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Left:
    """All of PLANTED through the gates as they are by default."""
    return leave(base, tmp_path_factory.mktemp("left"), leaks=evaluated)


def test_rows_that_leak_are_left_out_and_their_words_too(base: Content, left: Left) -> None:
    leaking = samples_with(base, "leak", "sentibench")
    assert len(leaking) == 10
    assert not leaking & set(left.rows("default")["id"])
    out = left.rows("rejected").filter(pl.col("rejected_by") == "leak")
    assert set(out["id"]) == leaking
    assert out.select("prompt", "completion").null_count().row(0) == (10, 10)
    assert set(out["text"]) == {""}
    assert {message["content"] for messages in out["messages"] for message in messages} == {None}
    reasons = dict(out.select("id", "reason").iter_rows())
    assert all("in own/questions.jsonl" in reasons[key] for key in samples_with(base, "leak"))
    assert all("in sc/sst2" in reasons[key] for key in samples_with(base, "sentibench"))
    assert PLANTED["leak"] not in left.everything()
    assert PLANTED["sentibench"] not in left.everything()


def test_what_leaks_is_counted_in_facts_and_card(base: Content, left: Left) -> None:
    told = facts_of(left.folder)["gates"]["leaks"]
    assert told == left.found["leaks"]
    assert (told["action"], told["rows"], told["neighbours"]) == ("exclude", 10, False)
    assert {"own/questions.jsonl", "sc/sst2"} <= set(told["sets"])
    ways = {(row["set"], row["how"]): row["texts"] for row in told["found"]}
    assert ways["own/questions.jsonl", "exact"] == 1
    assert ways["own/questions.jsonl", "13-gram"] == 6, "the text, and the five prompts that hold it"
    assert f"| own/questions.jsonl | 13-gram | {ways['own/questions.jsonl', '13-gram']} |" in left.card
    assert "10 rows with such a text are left out." in left.card
    assert {match["key"] for match in told["matches"]} == samples_with(base, "leak", "sentibench")


def test_the_funnel_counts_each_row_where_it_was_dropped(base: Content, left: Left) -> None:
    facts, decisions = facts_of(left.folder), base.tables["decisions"]
    funnel = facts["funnel"]
    assert funnel["unique"] == decisions.filter(pl.col("stage") == "selection").height
    assert funnel["valid"] == base.tables["responses"].filter(pl.col("status") == "valid").height
    gone = kept_of(base, samples_with(base, *PLANTED) - samples_with(base, "email"))
    assert funnel["kept"] == decisions["kept"].sum() - len(gone) == len(left.rows("default"))
    for step in ("valid", "unique", "kept"):
        assert sum(cell[step] for cell in facts["coverage"]) == funnel[step]


def test_a_leak_that_is_only_reported_stays(base: Content, evaluated: dict[str, Any], tmp_path: Path) -> None:
    left = leave(base, tmp_path, leaks={**evaluated, "action": "report"})
    assert kept_of(base, samples_with(base, "leak", "sentibench")) <= set(left.rows("default")["id"])
    assert "leak" not in left.gates["gate"].to_list()
    assert "10 rows with such a text are in the data all the same." in left.card
    assert facts_of(left.folder)["gates"]["leaks"]["action"] == "report"


def test_reworded_texts_are_found_by_embedding(
    base: Content, evaluated: dict[str, Any], encoder: Encoder, tmp_path: Path
) -> None:
    file = tmp_path / "reworded.txt"
    file.write_text("Nobody at the shop could say to me why this kettle's lid pops open when it is boiling.", "utf-8")
    leaks = {"sentibench": False, "evaluation": [{"path": str(file)}], "similarity": 0.9}
    some = pl.col("sample_id").is_in([*samples_with(base, "leak"), *base.tables["responses"]["sample_id"][:5]])
    fewer = {name: base.tables[name].filter(some) for name in ("responses", "decisions", "scores")}
    left = leave(base, tmp_path, {**base.tables, **fewer}, encoder=encoder, leaks=leaks)
    assert samples_with(base, "leak") == set(left.gates.filter(pl.col("gate") == "leak")["key"])
    assert left.found["leaks"]["neighbours"]
    assert "embeddings were compared with none" not in left.card


def test_private_data_are_replaced_in_every_field(base: Content, left: Left) -> None:
    redacted = samples_with(base, "email")
    assert set(left.gates.filter(pl.col("outcome") == "redacted")["key"]) == redacted
    rows = left.rows("default").filter(pl.col("id").is_in(redacted))
    assert set(rows["id"]) == kept_of(base, redacted) != set()
    assert set(rows["text"]) == {PLANTED["email"].replace("ann.lee@mail.example.com", "[EMAIL]")}
    assert rows["prompt"].str.contains("[EMAIL] answered at once", literal=True).all()
    assert rows["completion"].str.contains('"[EMAIL]"', literal=True).any()
    before = dict(base.tables["responses"].select("sample_id", "prompt").iter_rows())
    for row in rows.iter_rows(named=True):
        assert row["prompt"] == before[row["id"]].replace("ann.lee@mail.example.com", "[EMAIL]")
        assert [message["content"] for message in row["messages"]] == [row["prompt"], row["completion"]]
    rejected = left.rows("rejected").filter(pl.col("id").is_in(redacted))
    assert "privacy" not in rejected["rejected_by"].to_list()
    assert not any(value in left.everything() for value in PRIVATE)


def test_a_redacted_row_is_scored_anew(base: Content, left: Left, tmp_path: Path) -> None:
    redacted = left.gates.filter(pl.col("outcome") == "redacted")
    assert left.scored == list(redacted.select("prompt", "completion").iter_rows())
    columns = ["difficulty", "perplexity", "ifd"]
    rows = left.rows("default")
    changed = pl.col("id").is_in(redacted["key"].to_list())
    assert set(rows.filter(changed).select(columns).iter_rows()) == {(0.25, 9.0, 0.75)}
    others = rows.filter(~changed).join(base.tables["scores"], left_on="id", right_on="sample_id")
    assert len(others) > 10
    assert others.select(columns).equals(others.select(pl.col(f"{name}_right").alias(name) for name in columns))
    unscored = leave(base, tmp_path, new=Score(unscored_reason="too long")).rows("default").filter(changed)
    assert set(unscored.select(columns).iter_rows()) == {(None, None, None)}


def test_nothing_depends_on_the_batch(
    base: Content, left: Left, evaluated: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in (1, 7):
        monkeypatch.setattr(gates, "BATCH_ROWS", batch)
        monkeypatch.setattr(schemas, "BATCH_ROWS", batch)
        again = leave(base, tmp_path / str(batch), leaks=evaluated)
        assert again.gates.equals(left.gates)
        assert (again.found, again.scored) == (left.found, left.scored)
        assert sorted(path.name for path in again.folder.glob("*/*.parquet")) == sorted(
            path.name for path in left.folder.glob("*/*.parquet")
        )


def test_rows_with_secrets_are_left_out(base: Content, left: Left) -> None:
    out = left.rows("rejected").filter(pl.col("rejected_by") == "privacy")
    assert set(out["id"]) == samples_with(base, "secret", "card", "both"), "an address besides a secret saves no row"
    assert out.select("prompt", "completion").null_count().row(0) == (15, 15)
    assert set(out["text"]) == {""}
    reasons = {name: out.filter(pl.col("id").is_in(samples_with(base, name)))["reason"] for name in ("secret", "card")}
    assert all(reason.startswith("secret in ") for reason in reasons["secret"])
    assert all(reason.startswith("card in ") for reason in reasons["card"])
    found = {row["kind"]: (row["texts"], row["action"]) for row in left.found["private"]["found"]}
    assert found["card"] == (6, "drop")
    assert found["phone"] == (0, "redact")
    assert "| card | 6 | row left out |" in left.card
    assert "| phone | 0 | replaced by a placeholder |" in left.card


def test_what_is_to_be_kept_is_kept(base: Content, tmp_path: Path) -> None:
    kinds = ("email", "phone", "card", "handle", "secret")
    left = leave(base, tmp_path, leaks={"sentibench": False}, private=dict.fromkeys(kinds, "keep"))
    assert left.gates.equals(GATES.to_frame())
    assert left.scored == []
    kept = base.tables["decisions"].filter("kept").select(id="sample_id")
    published = base.tables["responses"].select("prompt", id="sample_id", completion="output").join(kept, on="id")
    columns = ["id", "prompt", "completion"]
    assert left.rows("default").select(columns).sort("id").equals(published.select(columns).sort("id"))
    assert "| card | 6 | kept |" in left.card


def test_a_quote_is_redacted_though_alone_it_is_a_plain_word(base: Content, tmp_path: Path) -> None:
    left = leave(base, tmp_path, private={"secret": "redact"})
    rows = pl.concat([left.rows("default"), left.rows("rejected").drop("rejected_by", "reason")])
    rows = rows.filter(pl.col("id").is_in(samples_with(base, "secret")))
    assert len(rows) == 5
    assert '["[SECRET]"]' in rows["completion"].to_list()
    assert "letmein99" not in left.everything()


def test_nothing_found_and_a_single_row(base: Content, tmp_path: Path) -> None:
    key = sorted(kept_of(base, set(base.tables["responses"]["sample_id"]) - samples_with(base, *PLANTED)))[0]
    keys = ("responses", "decisions", "scores")
    one = {**base.tables, **{name: base.tables[name].filter(pl.col("sample_id") == key) for name in keys}}
    left = leave(base, tmp_path, one)
    assert left.gates.equals(GATES.to_frame())
    assert (left.found["leaks"]["found"], left.found["leaks"]["rows"], left.found["leaks"]["matches"]) == ([], 0, [])
    assert {row["texts"] for row in left.found["private"]["found"]} == {0}
    assert left.rows("default")["id"].to_list() == [key]
    assert not (left.folder / "rejected").exists()
    assert "None was found in them." in left.card


def test_numbers_are_read_as_the_language_of_the_text_writes_them(base: Content, tmp_path: Path) -> None:
    for language, shown in (("de", "Ruf an: [PHONE], bitte."), ("en", "Ruf an: 030 901820, bitte.")):
        texts = set_rows(base.tables["texts"], "text", CLEAN[0], text="Ruf an: 030 901820, bitte.", language=language)
        left = leave(base, tmp_path / language, {**base.tables, "texts": texts})
        assert shown in left.rows("default")["text"].to_list()


def test_evaluation_sets_are_files_of_the_run(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
        (place / "set.jsonl").write_text(json.dumps({"text": EVALUATED}), encoding="utf-8")
    leaks = {"leaks": {"evaluation": [{"path": "set.jsonl"}]}}
    first, second = (load_recipe(write_recipe(place, publish=leaks)) for place in places)
    assert first.publish.leaks.evaluation[0].path == str(places[0] / "set.jsonl")
    before = fingerprints(stages_of(first), first)
    assert fingerprints(stages_of(second), second) == before, "where it lies does not count"
    (places[0] / "set.jsonl").write_text(json.dumps({"text": CLEAN[0]}), encoding="utf-8")
    after = fingerprints(stages_of(first), first)
    assert [stage for stage in before if before[stage] != after[stage]] == ["gates", "dataset"]
    (places[0] / "set.jsonl").unlink()
    with pytest.raises(InputError, match=r"set\.jsonl does not exist"):
        build_of(first, RunFolder(tmp_path / "run"), Unseen()).check()


def test_a_finished_run_goes_through_the_gates_again(private_run: Path, tmp_path: Path) -> None:
    run = RunFolder(private_run)
    decisions, responses = run.read_table("decisions"), run.read_table("responses")
    kept = responses.join(decisions.filter("kept"), on="sample_id", how="semi")
    text_id = kept["text_id"][0]
    text = run.read_table("texts").filter(pl.col("text_id") == text_id)["text"].item()
    file = tmp_path / "bench.jsonl"
    data = yaml.safe_load(run.recipe_path.read_text("utf-8"))
    data["publish"]["leaks"] |= {"evaluation": [{"path": str(file)}], "similarity": None}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    for content, leaking in (
        (text, set(responses.filter(pl.col("text_id") == text_id)["sample_id"])),
        ("Other.", set()),
    ):
        file.write_text(json.dumps({"text": content}), encoding="utf-8")
        manifest = build_of(load_recipe(tmp_path / "recipe.yaml"), run, Unseen()).run(update=True)
        assert manifest["stages"]["gates"]["counts"]["excluded"] == len(leaking)
        published = Left(run.dataset_path, run.read_table("gates"), run.found_by_gates(), [])
        assert set(published.rows("default")["id"]) == set(kept["sample_id"]) - leaking
        out = published.rows("rejected").filter(pl.col("rejected_by") == "leak")
        assert set(out["id"]) == leaking
        assert (text in published.everything()) == (not leaking)
