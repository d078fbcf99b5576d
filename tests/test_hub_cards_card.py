"""The card of a dataset: metadata that the Hub takes, and nothing of what others wrote is read as markup."""

import importlib.resources
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import polars as pl
import pytest
import yaml
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hub_cards.card import dataset_card, literal
from hub_cards.licences import HUB_LICENCES
from tests.written_dataset import Content, bytes_of, content_of, facts_of

pytestmark = pytest.mark.xdist_group("offline")
# Of the Hub's specification of dataset cards (datasetcard.md in huggingface_hub); the others are ours.
KEYS = {"language", "pretty_name", "size_categories", "task_categories", "source_datasets", "annotations_creators"}
OWN_KEYS = {"license", "library_name", "tags", "configs"}
MARKUP = (
    "{place} | a | <script>alert(1)</script> <img src=x onerror=alert(2)> {{{{ 7*7 }}}} {{% raw %}} ![x](http://x/y) "
    "[y](javascript:alert(3)) <a href=z>z</a> `code` **bold** $x$ &lt;b&gt; \\| ../../etc\n---\nlicense: mit\n---\n"
    "# Heading\n\n- item\n| b | c |\n|---|---|\n\n```python\nrun()\n```\n    indented\u2028line\x85end"
)


def parsed(card: str) -> list[Token]:
    """Return the tokens of a card's body as CommonMark with tables, raw HTML allowed."""
    return list(flat(MarkdownIt("commonmark").enable("table").parse(card.partition("\n---\n")[2])))


def flat(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from flat(token.children or [])


def structure(tokens: list[Token]) -> list[tuple[str, str, int]]:
    return [(token.type, token.tag, token.level) for token in tokens if token.type != "text"]


def texts(tokens: list[Token]) -> str:
    return "\n".join(token.content for token in tokens if token.type == "text")


def planted(content: Content, wording: Callable[[str], str]) -> dict[str, Any]:
    """Put a text into every place that somebody else words; return what else is found."""
    tables, recipe, gates = content.tables, content.recipe, json.loads(json.dumps(content.found.gates))
    every = {"texts": ("domain", "licence"), "perspectives": ("head",), "instructions": ("task_type", "name")}
    for table, columns in every.items():
        tables[table] = tables[table].with_columns(pl.lit(wording(column)).alias(column) for column in columns)
    tables["responses"] = tables["responses"].with_columns(
        reason=pl.when(pl.col("status") != "valid").then(pl.lit(wording("reason")))
    )
    source = {**recipe["texts"]["sources"][0], "licence": wording("source licence")}
    recipe["texts"]["sources"] = [
        {**source, "path": "/home/me/" + wording("file").replace("/", "_"), "revision": wording("revision")},
        {**source, "path": None, "dataset": wording("dataset")},
    ]
    recipe["name"] = wording("name")
    recipe["publish"] |= {"licence": wording("publish licence"), "teacher_licence": wording("teacher licence")}
    recipe["teacher"] |= {"model": wording("teacher"), "revision": wording("teacher revision")}
    models = ("student", "student_revision", "proxy", "proxy_revision", "encoder")
    recipe["curation"] |= {model: wording(model) for model in models}
    recipe["curation"]["quotas"] = [{"over": ["perspective", "task_type", "domain"], "minimum": 999}]
    gates["leaks"] |= {"sets": [wording("set")], "found": [{"set": wording("leaking set"), "how": "exact", "texts": 2}]}
    bounds = {"rate": 0.5, "low": 0.1, "high": 0.9, "rows": 9, "settled": 2, "wrong": 1}
    audit = {"rounds": [{"number": 1, "bar": 0.05}], "strata": [{"stratum": wording("stratum"), **bounds}]}
    return {
        "gates": gates,
        "audit": {**content.found.audit, **audit, "error_rate": bounds},
        "waiver": wording("waiver"),
        "former": {"licence": wording("before")},
    }


PLACES = (
    *("name", "waiver", "domain", "reason", "task_type", "head", "file", "dataset", "revision", "source licence"),
    *("publish licence", "teacher", "teacher revision", "teacher licence", "student", "student_revision", "proxy"),
    *("proxy_revision", "encoder", "set", "leaking set", "stratum", "before"),
)


@pytest.fixture(scope="module")
def two(offline_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The dataset folder of a run in which others wrote markup, and of one in which they wrote words."""
    folders = {}
    wordings: Mapping[str, Callable[[str], str]] = {
        "hostile": lambda place: MARKUP.format(place=f"{place}:"),
        "plain": lambda place: f"{place}: plain",
    }
    for kind, wording in wordings.items():
        content = content_of(offline_run)
        found = planted(content, wording)
        folders[kind] = content.write(tmp_path_factory.mktemp(kind) / "dataset", **found)
    return folders


def test_markup_of_others_is_shown_as_text(two: dict[str, Path]) -> None:
    hostile, plain = (parsed((two[kind] / "README.md").read_text("utf-8")) for kind in ("hostile", "plain"))
    kinds = {token.type for token in hostile}
    assert not kinds & {"html_inline", "html_block", "link_open"}
    assert [token.attrs["src"] for token in hostile if token.type == "image"] == [
        "figures/funnel.png",
        "figures/difficulty.png",
    ]
    assert structure(hostile) == structure(plain)
    shown = texts(hostile)
    for place in PLACES:
        wording = MARKUP.format(place=f"{place}:")
        wording = wording.replace("/", "_") if place == "file" else wording
        assert " ".join(wording.split()) in shown, f"{place} is shown word for word"
    changed = (" ".join(MARKUP.format(place=f"{place}:").split()) for place in ("before", "publish licence"))
    assert "licence\n" + "\n".join(changed) in shown, "before and now"


def test_metadata_keep_their_keys_whatever_is_in_their_values(two: dict[str, Path]) -> None:
    hostile, plain = (DatasetCard.load(two[kind] / "README.md").data.to_dict() for kind in ("hostile", "plain"))
    assert hostile.keys() == plain.keys() == KEYS | OWN_KEYS | {"license_name"}
    assert hostile["pretty_name"] == MARKUP.format(place="name:")
    assert hostile["source_datasets"] == [MARKUP.format(place="dataset:")]
    assert hostile["license"] == "other"
    same = KEYS - {"pretty_name", "source_datasets"}
    assert {key: hostile[key] for key in same} == {key: plain[key] for key in same}
    header = (two["hostile"] / "README.md").read_text("utf-8").partition("\n---\n")[0].removeprefix("---\n")
    assert yaml.safe_load(header) == hostile


def test_markup_of_others_reaches_no_other_file_as_markup(two: dict[str, Path]) -> None:
    facts, recipe = facts_of(two["hostile"]), yaml.safe_load((two["hostile"] / "recipe.yaml").read_text("utf-8"))
    assert facts["waiver"] == MARKUP.format(place="waiver:")
    assert facts["name"] == recipe["name"] == MARKUP.format(place="name:")
    assert "/home/me" not in json.dumps([facts, recipe])
    croissant = json.loads((two["hostile"] / "croissant.json").read_text("utf-8"))
    assert croissant["name"] == MARKUP.format(place="name:")
    assert croissant["license"] == MARKUP.format(place="publish licence:"), "no address is made of it"
    hostile, plain = (bytes_of(two[kind]) for kind in ("hostile", "plain"))
    for name in ("figures/funnel.png", "figures/difficulty.png"):
        assert hostile[name] == plain[name]
    names = {name.partition("-")[0] for name in hostile}
    assert names == {name.partition("-")[0] for name in plain}, "and no file lies elsewhere"


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(st.text(st.sampled_from("ab1 |\\`*_{}[]()<>!~$&#;:'\"-+=.\n\r\t\x85\u2028é")) | st.text())
def test_any_text_is_one_cell_of_a_table(text: str) -> None:
    hypothesis.assume("\0" not in text)  # which Markdown replaces
    tokens = parsed(f"---\n---\n| a | b |\n|---|---|\n| x{literal(text)} | y |\n")
    inside = [token for token in tokens if token.type not in ("inline", "text")]
    assert [token.tag for token in inside if token.nesting == 1] == [
        *("table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td")
    ]
    cells = [token.content for token in tokens if token.type == "text"]
    assert cells == ["a", "b", "x" + " ".join(text.split()), "y"]


def test_metadata_are_those_of_the_hub(offline_run: Path) -> None:
    card = DatasetCard.load(offline_run / "dataset" / "README.md")
    metadata = card.data.to_dict()
    assert metadata.keys() == KEYS | OWN_KEYS
    known = DatasetCardData(**metadata)
    assert known.to_dict() == metadata
    assert all(getattr(known, key) for key in KEYS), "the client knows these keys"
    assert metadata["license"] in HUB_LICENCES
    assert set(metadata["language"]) <= set(resource("languages"))
    assert set(metadata["size_categories"]) <= set(resource("size_categories"))
    assert set(metadata["annotations_creators"]) <= set(resource("creators")["annotations"])
    assert (metadata["pretty_name"], metadata["source_datasets"]) == ("tiny", ["original"])
    configs = MetadataConfigs.from_dataset_card_data(card.data)
    assert configs.get_default_config_name() == "default"
    files = [path for config in configs.values() for split in config["data_files"] for path in split["path"]]
    assert sorted(files) == sorted(name for name in bytes_of(offline_run / "dataset") if name.endswith(".parquet"))


def resource(name: str) -> Any:
    """Return a list of the Hub's specification, as `datasets` brings it along."""
    return json.loads((importlib.resources.files("datasets.utils.resources") / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("kept", "size"),
    [
        *((1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K"), (999_999, "100K<n<1M")),
        *((10**6, "1M<n<10M"), (10**7, "10M<n<100M"), (10**8, "100M<n<1B"), (10**9, "1B<n<10B")),
    ],
)
def test_the_size_is_that_of_the_kept_rows(offline_run: Path, kept: int, size: str) -> None:
    facts = facts_of(offline_run / "dataset")
    assert metadata_of({**facts, "funnel": {**facts["funnel"], "kept": kept}})["size_categories"] == [size]
    assert size in resource("size_categories")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"licence": None}, {"license": None, "license_name": None}),
        ({"licence": "CC-BY-SA-4.0"}, {"license": "cc-by-sa-4.0", "license_name": None}),
        ({"licence": "Our Terms, v2"}, {"license": "other", "license_name": "our-terms-v2"}),
        ({"languages": ["de", "en-US", "english", "nno", "<b>"]}, {"language": ["de", "nno"]}),
        ({"languages": []}, {"language": None}),
        ({"imported": True}, {"annotations_creators": None}),
        ({"name": "2024"}, {"pretty_name": "2024"}),
        ({"name": "null"}, {"pretty_name": "null"}),
    ],
)
def test_metadata_say_what_is_known(offline_run: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    metadata = metadata_of({**facts_of(offline_run / "dataset"), **changes})
    assert {key: metadata.get(key) for key in expected} == expected


def test_people_and_datasets_are_named(offline_run: Path) -> None:
    facts = facts_of(offline_run / "dataset")
    audit = {**facts["audit"], "answered": 3}
    sources = [
        {**facts["sources"][0], "name": name, "is_dataset": name == "ann/reviews"} for name in ("f", "ann/reviews")
    ]
    metadata = metadata_of({**facts, "audit": audit, "sources": sources})
    assert metadata["annotations_creators"] == ["machine-generated", "expert-generated"]
    assert metadata["source_datasets"] == ["ann/reviews"]


def test_without_rejected_rows_none_are_loaded(offline_run: Path) -> None:
    card = dataset_card(facts_of(offline_run / "dataset"), {"default": {"train": ["t.parquet"]}}, [])
    assert '"rejected"' not in card
    assert '"rejected"' in (offline_run / "dataset" / "README.md").read_text()


def metadata_of(facts: dict[str, Any]) -> dict[str, Any]:
    card = dataset_card(facts, {"default": {"train": ["train.parquet"]}}, [])
    metadata: dict[str, Any] = yaml.safe_load(card.partition("\n---\n")[0])
    return metadata
