"""The card of a trained student: what the Hub reads in it, what stays text, what becomes of it on the way there."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from hub_cards.card import model_card
from hub_cards.model import write_model_card
from stillhouse.errors import InputError
from stillhouse.publishing import Publishing, publish
from tests.hub_server import serve_hub

HOSTILE = "a | b <script>alert(1)</script> {{ 7*7 }} ![x](http://x) [y](http://y) `z`\n---\nlicense: mit"
TOLD = {
    "name": "moods", "licence": "cc0-1.0", "languages": ["en"], "teacher": "acme/teacher-70b", "kept": 900,
    "teacher_terms": "Outputs may be trained on.", "audit": "accepted", "recipe_digest": "ab" * 32,
}  # fmt: skip
FACTS: dict[str, Any] = {
    "name": "moods-3b",
    "base_model": {"name": "acme/base-3b", "on_hub": True, "revision": "c" * 40},
    "dataset": {
        "name": "ann/moods", "on_hub": True, "revision": "d" * 40, "files": {"train": ["default/train-1.parquet"]},
        "facts": TOLD,
    },
    "has_chat_template": True, "parameters": 3_000_000_000, "dtype": "bfloat16", "device": "NVIDIA H100",
    "rows": 880, "too_long": 20, "losses": [2.0, 1.5, 1.25], "seconds": 61.5, "tokens": 123_456, "processes": 2,
    "peak_memory": 9_000_000_000, "unusable": {},
    "held_out": {"split": "test", "rows": 100, "before": 2.125, "after": 1.375, "by_step": [[0, 2.125], [3, 1.375]]},
    "settings": {"max_steps": 3, "learning_rate": 5e-05, "max_length": 2048},
    "versions": {"stillhouse": "0.1.0", "torch": "2.13.0"}, "repo": None,
}  # fmt: skip


def student_folder(folder: Path, facts: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "facts.json").write_text(json.dumps(facts), "utf-8")
    (folder / "config.json").write_text("{}", "utf-8")
    (folder / "model.safetensors").write_bytes(bytes(2_000_000))
    return folder


def test_the_hub_reads_base_model_dataset_and_results() -> None:
    card = ModelCard(model_card(FACTS, ["figures/loss.png"]))
    assert (card.data.base_model, card.data.datasets, card.data.language) == ("acme/base-3b", ["ann/moods"], ["en"])
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    (result,) = card.data.eval_results or []
    assert (result.dataset_type, result.dataset_revision, result.dataset_split) == ("ann/moods", "d" * 40, "test")
    assert (result.metric_type, result.metric_value) == ("loss", 1.375)
    assert card.data.model_name == "moods-3b"
    assert "license" not in card.data.to_dict(), "the licence of the base model is not known here"
    for told in ("880", "2.125", "1.375", "d" * 40, "c" * 40, "max_length | 2048", "accepted", "NVIDIA H100"):
        assert told in card.text
    again = f"stillhouse train ann/moods --revision {'d' * 40} --student acme/base-3b --student-revision {'c' * 40}"
    assert f"{again} --config training.yaml --out students/again\n" in card.text
    assert "2 processes" in card.text


def test_what_is_not_on_the_hub_is_no_metadata_and_what_is_unknown_is_called_so() -> None:
    dataset = {**FACTS["dataset"], "on_hub": False, "revision": None, "facts": dict.fromkeys(TOLD) | {"languages": []}}
    base = {"name": "base", "on_hub": False, "revision": None}
    card = ModelCard(model_card({**FACTS, "dataset": dataset, "base_model": base, "held_out": None}, []))
    assert card.data.base_model is card.data.datasets is card.data.language is card.data.eval_results is None
    assert "| teacher | unknown |" in card.text
    assert "| the dataset | unknown |" in card.text
    assert "the dataset has no split `test`" in card.text


def test_hostile_names_stay_text() -> None:
    told = dict.fromkeys(TOLD, HOSTILE) | {"languages": ["en", HOSTILE], "kept": 1}
    dataset = {**FACTS["dataset"], "name": HOSTILE, "on_hub": False, "facts": told}
    base = {"name": HOSTILE, "on_hub": False, "revision": HOSTILE}
    text = model_card({**FACTS, "name": HOSTILE, "dataset": dataset, "base_model": base}, [])
    card = ModelCard(text)
    assert (card.data.license, card.data.language) == (None, ["en"])
    shown = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(card.text)
    assert "<script" not in shown
    assert "<img" not in shown
    assert 'http://y"' not in shown
    assert "49" not in shown.partition("<h2>Quick start")[0]
    code = shown.partition("stillhouse train")[2].partition("</code>")[0]
    assert code.startswith(" 'a | b &lt;script&gt;"), "one quoted word of a command"


def test_a_student_is_published_as_a_model_with_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = student_folder(tmp_path / "moods-3b", FACTS)
    with serve_hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", server.url, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        made = publish(folder, "ann/moods-3b", Publishing(tag="v1"))
        tree = server.repositories["models", "ann/moods-3b"].tree("v1")
        again = publish(folder, "ann/moods-3b", Publishing())
    assert made is not None
    assert made.private
    assert set(tree) - {".gitattributes"} == {
        "README.md",
        "facts.json",
        "config.json",
        "model.safetensors",
        "figures/loss.png",
    }
    assert 'model="ann/moods-3b"' in tree["README.md"].content.decode()
    assert len(set(Image.open(io.BytesIO(tree["figures/loss.png"].content)).convert("RGB").getdata())) > 10
    assert again is not None
    assert not again.changed
    assert "moods-3b" in capsys.readouterr().out


def test_a_folder_that_is_no_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a student"):
        write_model_card(student_folder(tmp_path / "other", {"name": "x"}))
    with pytest.raises(InputError, match="--without-audit is for datasets"):
        publish(tmp_path / "other", str(tmp_path / "copy"), Publishing(waiver="x"))
