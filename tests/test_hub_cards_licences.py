"""The licence gate: sources without a licence are refused, and of teachers only what is known is said."""

import re
from typing import get_args

import pytest
import yaml
from huggingface_hub import DatasetCardData

from hub_cards.licences import (
    HUB_LICENCES,
    TERMS_FILE,
    Outputs,
    card_licence,
    check_source_licences,
    teacher_terms,
)
from stillhouse.errors import InputError
from stillhouse.sections import OFFLINE_LLM, TextSource

KNOWN = [
    ("meta-llama/Llama-3.3-70B-Instruct", "llama3.3", "restricted"),
    ("meta-llama/Meta-Llama-3.1-8B", "llama3.1", "restricted"),
    ("accounts/fireworks/models/llama-v3p1-405b-instruct", "llama3.1", "restricted"),
    ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "llama3.3", "restricted"),
    ("llama3.2:3b", "llama3.2", "restricted"),
    ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3", "forbidden"),
    ("llama3:8b", "llama3", "forbidden"),
    ("meta-llama/Llama-2-7b-chat-hf", "llama2", "forbidden"),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4", "restricted"),
    ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "other", "restricted"),
    ("google/gemma-3-27b-it", "gemma", "restricted"),
    ("google/gemma-2-9b-it", "gemma", "restricted"),
    ("google/gemma-7b", "gemma", "restricted"),
    (OFFLINE_LLM, "gemma", "restricted"),
    ("somebody/gemma-3-4b-tuned", "gemma", "restricted"),
    ("google/gemma-4-31b-it", "apache-2.0", "allowed"),
    ("Qwen/Qwen3-32B", "apache-2.0", "allowed"),
    ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "apache-2.0", "allowed"),
    ("Qwen/Qwen3-235B-A22B-Instruct-2507", "apache-2.0", "allowed"),
    ("qwen2.5:7b", "apache-2.0", "allowed"),
    ("Qwen/Qwen2.5-72B-Instruct", "other", "restricted"),
    ("Qwen/Qwen2.5-3B-Instruct", "other", "restricted"),
    ("Qwen/Qwen2-72B-Instruct", "other", "forbidden"),
    ("Qwen/Qwen1.5-14B-Chat", "other", "forbidden"),
    ("mistralai/Mistral-7B-Instruct-v0.3", "apache-2.0", "allowed"),
    ("mistralai/Mistral-Small-24B-Instruct-2501", "apache-2.0", "allowed"),
    ("mistralai/Mistral-Large-Instruct-2411", "other", "restricted"),
    ("mistralai/Codestral-22B-v0.1", "other", "restricted"),
    ("deepseek-ai/DeepSeek-R1", "mit", "allowed"),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "mit", "allowed"),
    ("deepseek-ai/DeepSeek-V3-0324", "mit", "allowed"),
    ("deepseek-ai/DeepSeek-V3", "other", "restricted"),
    ("openai/gpt-oss-120b", "apache-2.0", "allowed"),
    ("gpt-4o-mini", "other", "restricted"),
    ("openai/gpt-5", "other", "restricted"),
    ("o3-mini", "other", "restricted"),
    ("anthropic/claude-sonnet-4.5", "other", "restricted"),
    ("anthropic.claude-3-haiku-20240307-v1:0", "other", "restricted"),
    ("gemini-2.5-flash", "other", "restricted"),
    ("CohereLabs/c4ai-command-r-plus", "cc-by-nc-4.0", "restricted"),
    ("microsoft/phi-4", "mit", "allowed"),
    ("microsoft/Phi-3.5-mini-instruct", "mit", "allowed"),
    ("tiiuae/falcon-40b-instruct", "apache-2.0", "allowed"),
    ("tiiuae/Falcon3-10B-Instruct", "other", "unknown"),
    ("zai-org/GLM-4.6", "mit", "allowed"),
]
UNKNOWN_MODELS = [
    "acme/secret-model",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "EleutherAI/gpt-neox-20b",
    "openai-community/gpt2",
    "qwen3-max",
    "mistral-large-latest",
    "unsloth/Qwen3-32B-GGUF",
    "./models/qwen3-32b",
    "/srv/phi-4.gguf",
    "dolphin-o1",
    "",
]


@pytest.mark.parametrize(("model", "licence", "outputs"), KNOWN)
def test_terms_are_known_by_the_name(model: str, licence: str, outputs: Outputs) -> None:
    terms = teacher_terms(model, None)
    assert (terms.licence, terms.outputs, terms.source) == (licence, outputs, "list")


@pytest.mark.parametrize("model", UNKNOWN_MODELS)
def test_what_is_not_known_is_unknown(model: str) -> None:
    terms = teacher_terms(model, "unknown")
    assert (terms.licence, terms.outputs, terms.url, terms.source) == (None, "unknown", None, "unknown")


def test_what_the_recipe_states_counts() -> None:
    stated = teacher_terms("unsloth/Qwen3-32B-GGUF", "Apache-2.0")
    assert (stated.licence, stated.outputs, stated.source) == ("apache-2.0", "allowed", "recipe")
    assert teacher_terms("acme/model", "llama3.1").family == "Llama 3.1"
    own = teacher_terms("gpt-4o", "our contract of 2026")
    assert (own.licence, own.outputs, own.source) == ("our contract of 2026", "unknown", "recipe")
    assert teacher_terms("acme/model", "other").outputs == "unknown"


def test_llama_names_its_duties() -> None:
    note = teacher_terms("meta-llama/Llama-3.1-8B", None).note
    assert "Built with Llama" in note
    assert 'begins with "Llama"' in note


def test_the_list_is_whole() -> None:
    known = yaml.safe_load(TERMS_FILE.read_text("utf-8"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(known["compiled"]))
    assert set(known["permissive"]) <= HUB_LICENCES
    for family in known["families"]:
        assert set(family) == {"family", "name", "owners", "licence", "outputs", "note", "url"}
        assert family["outputs"] in get_args(Outputs)
        assert family["licence"] in HUB_LICENCES | {"other"}
        assert family["url"].startswith("https://")
        assert family["note"].endswith(".")
        assert family["outputs"] != "allowed" or family["licence"] in known["permissive"]
        assert family["owners"] == [owner.lower() for owner in family["owners"]]
    assert "no legal advice" in TERMS_FILE.read_text("utf-8").replace("\n# ", " ")


@pytest.mark.parametrize(
    ("licence", "metadata"),
    [
        ("CC0-1.0", {"license": "cc0-1.0"}),
        ("apache-2.0", {"license": "apache-2.0"}),
        ("ODC-By-1.0", {"license": "odc-by"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("Our Terms, v2", {"license": "other", "license_name": "our-terms-v2"}),
        ("unknown", {}),
        (" ", {}),
    ],
)
def test_a_card_names_the_licence_as_the_hub_does(licence: str, metadata: dict[str, str]) -> None:
    assert card_licence(licence) == metadata
    written = DatasetCardData(**metadata).to_dict()
    assert {key: written.get(key) for key in metadata} == metadata


def test_sources_without_a_licence_are_refused_by_name() -> None:
    stated = TextSource(path="a.jsonl", licence="CC-BY-4.0")
    check_source_licences([stated])
    with pytest.raises(InputError) as caught:
        check_source_licences([stated, TextSource(path="b.jsonl"), TextSource(dataset="x/y", licence=" Unknown ")])
    assert "texts.sources[1].licence: the licence of b.jsonl" in str(caught.value)
    assert "texts.sources[2].licence: the licence of x/y" in str(caught.value)
    assert "a.jsonl" not in str(caught.value)
    assert "SPDX" in str(caught.value)
