"""The dataset folder: loads with the real clients, splits by text, and shows hostile content as text."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard

from hub_cards.dataset import render_card, write_dataset
from hub_cards.rows import split_by_text
from stillhouse.recipe import load_recipe
from stillhouse.schemas import PUBLISHED, REJECTED, TABLES
from stillhouse.store import RunFolder
from tests.conftest import write_recipe

HOSTILE = "| a | <script>alert(1)</script> {{ 7*7 }} ![x](http://x) \n---\nlicense: mit"


def content_of(run: Path) -> tuple[dict[str, pl.DataFrame], dict[str, Any], dict[str, Any]]:
    folder = RunFolder(run)
    return {name: folder.read_table(name) for name in TABLES}, folder.manifest(), folder.findings()


@pytest.mark.xdist_group("offline")
def test_datasets_loads_all_configs_with_the_columns_of_the_design(offline_run: Path) -> None:
    path = str(offline_run / "dataset")
    assert get_dataset_config_names(path) == ["default", "rejected", "instructions", "perspectives"]
    tables, _, _ = content_of(offline_run)
    kept = load_dataset(path)
    assert all(split.column_names == PUBLISHED.names() for split in kept.values())
    rejected = load_dataset(path, "rejected", split="train")
    assert rejected.column_names == REJECTED.names()
    assert sum(map(len, kept.values())) + len(rejected) == len(tables["responses"])
    assert len(load_dataset(path, "instructions", split="train")) == len(tables["instructions"])
    assert len(load_dataset(path, "perspectives", split="train")) == len(tables["perspectives"])


@pytest.mark.xdist_group("offline")
def test_polars_reads_the_rows_that_were_decided(offline_run: Path) -> None:
    rows = pl.read_parquet(offline_run / "dataset" / "default" / "*.parquet")
    tables, _, _ = content_of(offline_run)
    assert rows.schema == PUBLISHED
    assert set(rows["id"]) == set(tables["decisions"].filter("kept")["sample_id"])
    row = rows.to_dicts()[0]
    response = tables["responses"].filter(pl.col("sample_id") == row["id"]).to_dicts()[0]
    assert (row["prompt"], row["completion"]) == (response["prompt"], response["output"])
    assert row["messages"] == [
        {"role": "user", "content": response["prompt"]},
        {"role": "assistant", "content": response["output"]},
    ]
    assert row["text"] in row["prompt"]
    assert row["audit"] == "not_audited"


@pytest.mark.xdist_group("offline")
def test_the_card_says_what_was_measured(offline_run: Path) -> None:
    card = DatasetCard.load(offline_run / "dataset" / "README.md")
    facts = json.loads((offline_run / "dataset" / "facts.json").read_text())
    tables, _, _ = content_of(offline_run)
    assert card.data.license == "cc0-1.0"
    assert card.data.configs[0]["config_name"] == "default"
    assert facts["funnel"]["kept"] == tables["decisions"]["kept"].sum()
    assert f"| kept | {facts['funnel']['kept']} |" in card.text
    assert facts["tokens"]["responses"]["output_tokens"] > 0
    assert facts["attribute_answers"]["parsed"] <= facts["attribute_answers"]["asked"] == len(tables["texts"])
    assert facts["attribute_answers"]["per text"] > 0
    assert sum(cell["paired"] for cell in facts["coverage"]) == len(tables["responses"])
    assert sum(cell["kept"] for cell in facts["coverage"]) == facts["funnel"]["kept"]
    assert facts["audit"]["decision"] == "not audited"
    assert "No person has checked these rows." in card.text


def test_no_text_is_in_two_splits_and_splits_are_stable() -> None:
    rows = pl.DataFrame({"text": [f"text {number % 200}" for number in range(1000)]})
    splits = split_by_text(rows, 0.1)
    assert not set(splits["train"]["text"]) & set(splits["test"]["text"])
    assert len(splits["test"]) / len(rows) == pytest.approx(0.1, abs=0.06)
    part = split_by_text(rows.head(100), 0.1)
    assert set(part["test"]["text"]) <= set(splits["test"]["text"])
    assert list(split_by_text(rows, 0.0)) == ["train"]
    assert list(split_by_text(rows, 0.999999)) == ["train"]


@pytest.mark.xdist_group("offline")
def test_hostile_content_stays_content(offline_run: Path, tmp_path: Path) -> None:
    tables, manifest, findings = content_of(offline_run)
    tables["texts"] = tables["texts"].with_columns(
        pl.lit(HOSTILE).alias("domain"), pl.lit(HOSTILE).alias("licence"), pl.lit(HOSTILE).alias("text")
    )
    recipe = load_recipe(write_recipe(tmp_path)).model_dump(mode="json")
    write_dataset(tmp_path / "dataset", tables, manifest, recipe, findings)
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "<script>" not in card
    assert "![x]" not in card
    assert "{{ 7\\*7 }}" in card, "a template in a text is not run"
    assert DatasetCard.load(tmp_path / "dataset" / "README.md").data.license == "cc0-1.0"
    assert set(load_dataset(str(tmp_path / "dataset"), "rejected", split="train")["text"]) == {HOSTILE}


@pytest.mark.xdist_group("offline")
def test_a_rebuilt_folder_is_not_served_from_the_cache(offline_run: Path, tmp_path: Path) -> None:
    tables, manifest, findings = content_of(offline_run)
    recipe = load_recipe(write_recipe(tmp_path)).model_dump(mode="json")
    for kept in (3, 5):
        number = pl.int_range(pl.len())
        tables["decisions"] = tables["decisions"].with_columns((number < kept).alias("kept"))
        write_dataset(tmp_path / "dataset", tables, manifest, recipe, findings)
        assert sum(map(len, load_dataset(str(tmp_path / "dataset")).values())) == kept


@pytest.mark.xdist_group("offline")
def test_a_quota_that_is_not_met_is_in_the_card(offline_run: Path, tmp_path: Path) -> None:
    tables, manifest, findings = content_of(offline_run)
    quotas = [{"over": ["task_type"], "minimum": 10_000}]
    recipe = load_recipe(write_recipe(tmp_path, curation={"quotas": quotas})).model_dump(mode="json")
    write_dataset(tmp_path / "dataset", tables, manifest, recipe, findings)
    card = (tmp_path / "dataset" / "README.md").read_text()
    kept = json.loads((tmp_path / "dataset" / "facts.json").read_text())["task_types"]
    assert "Quotas that could not be met" in card
    for task_type, count in kept.items():
        assert f"- {count} of 10000 kept: {task_type}" in card


@pytest.mark.xdist_group("offline")
def test_what_is_unknown_is_called_unknown(offline_run: Path) -> None:
    facts = json.loads((offline_run / "dataset" / "facts.json").read_text())
    card = render_card({**facts, "licence": None}, {"default": {"train": "train.parquet"}}, 10)
    assert "This dataset: unknown." in card
    assert "license:" not in card.partition("\n---\n")[0]
    assert "revision unknown" in card
