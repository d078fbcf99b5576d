"""Recipes: what is accepted, and that every fault is named with its key and remedy."""

from pathlib import Path

import pytest

from stillhouse.errors import InputError
from stillhouse.recipe import load_recipe
from stillhouse.texts import read_texts
from tests.conftest import ROOT, write_recipe


@pytest.mark.parametrize("name", ["demo", "sentiment", "support"])
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert recipe.name == name


def test_the_support_recipe_uses_all_its_texts() -> None:
    texts = load_recipe(ROOT / "recipes" / "support.yaml").texts
    assert texts.similarity == 0.9
    table, counts = read_texts(texts.sources, texts.similarity)
    assert len(table) == 160
    assert counts == {"read": 160, "blank": 0, "duplicate": 0, "near_duplicate": 0}


def test_paths_start_at_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, texts={"sources": [{"path": "mine/texts.csv"}]}))
    assert recipe.texts.sources[0].path == str(tmp_path / "mine" / "texts.csv")
    recipe = load_recipe(
        write_recipe(tmp_path, teacher={"model": "m.gguf"}, curation={"student": "./s", "encoder": "a/b"})
    )
    assert recipe.teacher.model == str(tmp_path / "m.gguf")
    assert recipe.curation.student == str(tmp_path / "s")
    assert recipe.curation.encoder == "a/b"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"curation": {"rat": 0.1}}, r"curation\.rat: unknown key; did you mean `rate`\?"),
        ({"colour": 1}, r"colour: unknown key; known keys: name, seed, texts"),
        ({"curation": {"quotas": [{"over": ["domain", "domain"], "minimum": 1}]}}, "`over` names a dimension twice"),
        (
            {"curation": {"quotas": [{"over": ["domain"], "least": 1}]}},
            r"quotas\.0\.least: unknown key; known keys: over",
        ),
        ({"domain": {"kind": "attributes of tickets"}}, "at least one text with its attributes goes into `examples`"),
        ({"perspectives": {"method": "kmeans"}}, "method `kmeans` needs `clusters`"),
        ({"attributes": {"min_share": "rare"}}, r"attributes\.min_share"),
        ({"curation": {"rate": 0}}, r"curation\.rate: .*greater than 0 \(given: 0\)"),
        ({"curation": {"rate": 1.5}}, r"curation\.rate: .*less than or equal to 1 \(given: 1\.5\)"),
        ({"curation": {"rate": float("nan")}}, r"curation\.rate"),
        ({"name": "../../etc"}, r"name: .*pattern"),
        ({"teacher": {"backend": "endpoint", "model": "m"}}, r"teacher: .*needs `base_url`"),
        ({"teacher": {"api_key": "secret"}}, r"teacher\.api_key: unknown key; did you mean `api_key_env`\?"),
        ({"teacher": {"api_key_env": "sk-12 34"}}, r"teacher: `api_key_env` is the name of an environment variable"),
        ({"teacher": {"backend": "endpoint", "base_url": "http://a:b@c/v1"}}, r"teacher: `base_url` .*secret"),
        ({"teacher": {"backend": "endpoint", "base_url": "http://c/v1?key=k"}}, r"teacher: `base_url` .*secret"),
        ({"teacher": {"backend": "batch", "base_url": ["http://a/v1", "http://b/v1"]}}, r"teacher: .*one `base_url`"),
        ({"teacher": {"backend": "vllm", "base_url": "http://a/v1"}}, r"teacher: `base_url` goes with backend"),
        ({"teacher": {"series": "qwen-2"}}, r"teacher\.series: .*'llama-3', 'qwen-3' or 'gemma-3'"),
        ({"runtime": {"max_cost": 1.0}}, r"`runtime\.max_cost` needs `teacher\.price`"),
        ({"teacher": {"backend": "endpoint", "base_url": "http://[::1/v1"}}, r"teacher: `base_url` is no web address"),
        ({"runtime": {"device": "gpu"}}, r"runtime\.device: .*pattern"),
        ({"seed": -1}, r"seed: "),
        ({"texts": {"similarity": 0.1}}, r"texts\.similarity: .*greater than or equal to 0\.5"),
        ({"texts": {"sources": []}}, r"texts\.sources: .*at least 1"),
        ({"texts": {"sources": [{"column": "text"}]}}, r"texts\.sources\.0: give either `path` or `dataset`"),
        ({"texts": {"sources": [{"path": "x", "colum": "t"}]}}, r"texts\.sources\.0\.colum: .*`column`"),
        ({"instructions": {"task_types": [], "analysis_per_perspective": 0}}, r"instructions: .*no instruction"),
    ],
)
def test_faults_name_key_and_remedy(tmp_path: Path, sections: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(write_recipe(tmp_path, **sections))


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 3 fault\(s\)"):
        load_recipe(write_recipe(tmp_path, curation={"rate": 2, "x": 1}, responses={"samples": 0}))


def test_a_key_in_the_place_of_its_name_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(write_recipe(tmp_path, teacher={"api_key_env": "sk-secret"}))
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "- a", "name: [", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match="recipe"):
        load_recipe(path)
