"""Anyone's prompts and completions: scored beside their rows, or curated into a run with a ledger."""

import json
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from curation.difficulty import score_samples
from curation.student import Student
from stillhouse.checkpoint import Checkpoint
from stillhouse.imported import import_pairs
from stillhouse.scored import import_recipe
from stillhouse.sections import OFFLINE_LLM, Imported, TextSource
from tests.conftest import in_process

QUESTION = "Is this positive or negative?\n\nText: {}\n\nAnswer:\n"
TEXTS = [
    "I love it",
    "Never again.",
    "Ein schöner Tag 😀",
    "The waiter smiled at us.",
    "Cold soup, warm beer",
    "漢字は美しい",
]
ROWS = [{"prompt": QUESTION.format(text), "completion": label, "mine": n} for n, (text, label) in enumerate(
    zip(TEXTS, ["positive", "negative"] * 3, strict=True))]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def score(data: Path, *options: object) -> Any:
    return in_process("score", data, "--student", OFFLINE_LLM, *options)


@pytest.mark.xdist_group("student")
def test_scores_stand_beside_the_rows(tmp_path: Path, student: tuple[Any, Any]) -> None:
    rows = [
        *ROWS,
        {"prompt": "p", "completion": "", "mine": 6},
        {"prompt": "x " * 50_000, "completion": "ok", "mine": 7},
    ]
    data = write(tmp_path / "pairs.jsonl", rows)
    done = score(data, "--out", tmp_path / "scored.jsonl", "--json", "--max-length", 256)
    assert done.returncode == 0, done.stderr
    table = pl.read_ndjson(tmp_path / "scored.jsonl")
    assert table["mine"].to_list() == list(range(8))
    wanted = score_samples([(row["prompt"], row["completion"]) for row in rows], Student(*student), 256, Checkpoint())
    for row, found in zip(table.iter_rows(named=True), wanted, strict=True):
        assert row["difficulty"] == pytest.approx(found.difficulty, abs=1e-3)
        assert row["ifd"] == (found.ifd and pytest.approx(found.ifd, rel=1e-3))
        assert (row["output_tokens"], row["unscored_reason"]) == (found.output_tokens, found.unscored_reason)
    report = json.loads(done.stdout)
    assert (report["rows"], report["scored"], report["unscored"]) == (8, 7, {"empty output": 1})
    assert report["quartiles"]["difficulty"][2] == pytest.approx(table["difficulty"].median())
    assert not list(tmp_path.glob("*.partial*")), "no checkpoint is left"


@pytest.mark.xdist_group("student")
def test_messages_are_scored_as_prompt_and_completion(tmp_path: Path) -> None:
    turns = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in ROWS
    ]
    for name, rows in (("pairs", ROWS), ("messages", turns)):
        pl.DataFrame(rows).write_parquet(tmp_path / f"{name}.parquet")
        assert score(tmp_path / f"{name}.parquet", "--out", tmp_path / f"{name}.scored.parquet").returncode == 0
    found = [pl.read_parquet(tmp_path / f"{name}.scored.parquet")["difficulty"] for name in ("pairs", "messages")]
    assert found[0].equals(found[1])
    assert found[0].null_count() == 0


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "is empty; give a file with at least one row"),
        (b'{"prompt": "p"}\n', [], "has no column `completion`; it has: prompt"),
        (b'{"question": "p", "completion": "c"}\n', [], "has no column `prompt`; it has: question, completion"),
        (
            b'{"messages": [{"said": "hello"}]}\n',
            [],
            "row 1: a prompt, completion or message is neither text nor turns",
        ),
        (b'{"prompt": "p", "completion": "c"}\n{oops\n', [], "line 2"),
        (b'{"prompt": "p", "completion": "c", "ifd": 1}\n', [], "already have columns ifd; rename or drop them"),
        (b'{"prompt": "p", "completion": "c"}\n', ["--out", "x.csv"], "its suffix must be one of .parquet, .jsonl"),
        (b'{"prompt": "p", "completion": "c"}\n', ["--out", "no/x.jsonl"], "there is no folder no"),
        (b'{"prompt": "p", "completion": "c"}\n', ["--series", "gpt-9"], "--series: Input should be"),
        (b'{"prompt": "p", "completion": "c"}\n', ["--proxy", "./nowhere"], "no such folder, and not a Hub id"),
    ],
)
def test_what_cannot_be_scored_is_named(tmp_path: Path, content: bytes, options: list[str], message: str) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(content)
    done = in_process("score", "pairs.jsonl", "--student", OFFLINE_LLM, *options, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    data, out = write(tmp_path / "pairs.jsonl", ROWS), tmp_path / "scored.jsonl"
    out.write_text("mine")
    done = score(data, "--out", out)
    assert (done.returncode, out.read_text()) == (2, "mine")
    assert "exists; give another file with --out" in done.stderr


CURATED = [
    *ROWS,
    ROWS[0],
    {"prompt": "A question?", "completion": "  ", "mine": 7},
    {"prompt": "", "completion": "An answer.", "mine": 8},
    {"prompt": "Too long?\n", "completion": "word " * 400, "mine": 9},
]


@pytest.mark.xdist_group("student")
def test_curating_accounts_for_every_row(tmp_path: Path) -> None:
    data, run = write(tmp_path / "my pairs.jsonl", CURATED), tmp_path / "run"
    done = in_process("curate", data, "--rate", 1, "--max-length", 128, "--out", run)
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(run / "decisions.parquet")
    assert table["stage"].to_list() == ["selection"] * 6 + ["near_duplicate", "validity", "validity", "difficulty"]
    too_long = "output of 401 tokens does not fit into 128 (max_length, or the model's own limit)"
    twin = f"similarity 1.0 to {table['sample_id'][0]}"
    assert table["reason"].to_list()[6:] == [twin, "empty completion", "empty prompt", too_long]
    assert table["sample_id"].n_unique() == 10
    kept = pl.read_parquet(run / "kept.parquet")
    assert kept["mine"].to_list() == list(range(6))
    assert kept.columns == [
        "prompt",
        "completion",
        "mine",
        "stillhouse_id",
        "difficulty",
        "perplexity",
        "ifd",
        "output_tokens",
        "stillhouse_audit",
        "stillhouse_corrected",
    ]
    loaded = datasets.load_dataset(str(run / "dataset"), "rejected", split="train")
    assert len(loaded) == 4
    card = (run / "dataset" / "README.md").read_text()
    assert "prompts and completions that existed before, curated" in card
    assert "teacher | unknown, revision unknown, unknown |" in card
    assert "machine-generated" not in card
    assert "language model's" not in card
    assert "\nlanguage:" not in card
    _the_run_can_be_used(data, run)


def _the_run_can_be_used(data: Path, run: Path) -> None:
    status = in_process("status", run, "--json")
    assert json.loads(status.stdout)["missing"] == []
    assert json.loads(status.stdout)["funnel"]["kept"] == 6
    cut = in_process("select", run, "--rate", 0.5, "--strategy", "hard", "--json")
    assert json.loads(cut.stdout)[0]["counts"]["kept"] == 3
    again = in_process("curate", data, "--rate", 1, "--max-length", 128, "--out", run)
    assert again.stdout.count("done before") == 6
    write(data, CURATED[:5])
    changed = in_process("curate", data, "--rate", 1, "--max-length", 128, "--out", run)
    assert changed.returncode == 2
    assert "was made with another input, from stage responses on" in " ".join(changed.stderr.split())
    rebuilt = in_process("curate", data, "--rate", 1, "--max-length", 128, "--out", run, "--update")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert pl.read_parquet(run / "kept.parquet")["mine"].to_list() == list(range(5))


@pytest.mark.xdist_group("student")
def test_columns_that_say_what_a_row_is_are_used(tmp_path: Path) -> None:
    rows = [
        {**row, "task_type": "classification", "perspective": "tone", "domain": f"d{n % 2}", "text": TEXTS[n]}
        for n, row in enumerate(ROWS)
    ]
    run = tmp_path / "run"
    data = write(tmp_path / "pairs.jsonl", rows)
    assert in_process("curate", data, "--rate", 1, "--out", run).returncode == 0
    published = pl.read_parquet(next((run / "dataset" / "default").glob("train-*")))
    assert set(published["task_type"]) == {"classification"}
    assert set(published["perspective"]) == {"tone"}
    assert set(published["domain"]) <= {"d0", "d1"}
    assert set(published["text"]) <= set(TEXTS)


@pytest.mark.parametrize(
    ("rows", "options", "message", "code"),
    [
        ([{"prompt": "q", "completion": ""}] * 2, [], "none of 2 is valid; the commonest reason: empty completion", 1),
        (ROWS[:1], ["--rate", "0.000001"], "filter selection dropped the last of 1 samples; raise curation.rate", 1),
        (ROWS, ["--rate", "0"], "--rate: Input should be greater than 0", 2),
        (
            [{"prompt": "q", "completion": "word " * 60}],
            ["--max-length", "16"],
            "filter difficulty dropped the last of 1",
            1,
        ),
    ],
)
@pytest.mark.xdist_group("student")
def test_an_empty_outcome_names_what_emptied_it(
    tmp_path: Path, rows: list[dict[str, Any]], options: list[str], message: str, code: int
) -> None:
    data = write(tmp_path / "pairs.jsonl", rows)
    done = in_process("curate", data, "--out", tmp_path / "run", *options)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.xdist_group("student")
def test_one_row_and_identical_rows_leave_one(tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS[:1] * 40)
    done = in_process("curate", data, "--rate", 1, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "run" / "kept.parquet").height == 1


@pytest.mark.xdist_group("student")
def test_questions_about_one_text_are_told_apart(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{question}\n\n{TEXTS[0]}\n", "completion": "yes", "text": TEXTS[0]}
        for question in ("Is this about love?", "Name the currency of Peru, or say yes if the text is short.")
    ]
    data = write(tmp_path / "pairs.jsonl", rows)
    assert in_process("curate", data, "--rate", 1, "--out", tmp_path / "run").returncode == 0
    assert pl.read_parquet(tmp_path / "run" / "kept.parquet").height == 2


def test_texts_that_differ_in_case_or_spaces_only_stay_apart(tmp_path: Path) -> None:
    source = TextSource.model_validate({"path": str(write(tmp_path / "p.jsonl", [
        {"prompt": "if x:\n    y", "completion": "a"}, {"prompt": "If x: y", "completion": "a"}]))})  # fmt: skip
    tables, given, counts = import_pairs([source], Imported.model_validate({}))
    assert tables["texts"]["text"].to_list() == ["if x:\n    y", "If x: y"]
    assert given["stillhouse_id"].to_list() == tables["responses"]["sample_id"].to_list()
    assert counts == {"valid": 2, "invalid": 0}
    assert set(tables["texts"]["source"]) == {"p.jsonl"}


def test_a_folder_of_another_kind_is_refused(private_run: Path, tmp_path: Path) -> None:
    done = in_process("curate", write(tmp_path / "pairs.jsonl", ROWS), "--out", private_run)
    assert done.returncode == 2
    assert "was made with another kind of data, from stage texts on" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{**ROWS[0], "text": ["a"]}], [], "column `text` holds List(String), not text; rename or drop it"),
        ([{"messages": "hello"}], [], "column `messages` holds String, not lists of turns"),
        (ROWS, ["--seed", -1], "--seed: Input should be greater than or equal to 0"),
    ],
)
def test_columns_and_options_that_cannot_be_used_are_named(
    tmp_path: Path, rows: list[dict[str, Any]], options: list[object], message: str
) -> None:
    done = in_process("curate", write(tmp_path / "pairs.jsonl", rows), "--out", tmp_path / "run", *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_paths_of_models_start_where_the_command_was_given(tmp_path: Path) -> None:
    source = TextSource.model_validate({"path": str(write(tmp_path / "pairs.jsonl", ROWS))})
    recipe = import_recipe(source, {}, {"student": "./student"}, 42, "auto")
    assert recipe.curation.student == str(Path.cwd() / "student")
    assert recipe.texts.sources[0].language == "unknown"


def test_a_conversation_is_a_reason(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    data = write(tmp_path / "talk.jsonl", [{"messages": turns}, {"messages": turns[:1]}, {"messages": None}])
    done = in_process("curate", data, "--out", tmp_path / "run")
    assert done.returncode == 1
    responses = pl.read_parquet(tmp_path / "run" / "responses.parquet")
    talk = "a conversation of 3 turns; only one question and its answer are curated"
    assert responses["reason"].to_list() == [talk, "empty completion", "empty completion"]


@pytest.mark.xdist_group("student")
def test_a_proxy_scores_in_the_place_of_the_student(tmp_path: Path, student: tuple[Any, Any]) -> None:
    small = {"vocab_size": len(student[1]), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **small)).save_pretrained(tmp_path / "proxy")
    student[1].save_pretrained(tmp_path / "proxy")
    data = write(tmp_path / "pairs.jsonl", ROWS)
    ways = {
        "alone": ["--student", tmp_path / "proxy"],
        "proxy": ["--student", "no/model", "--proxy", tmp_path / "proxy"],
    }
    for name, options in ways.items():
        done = in_process("score", data, *options, "--out", tmp_path / f"{name}.parquet")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "alone.parquet").read_bytes() == (tmp_path / "proxy.parquet").read_bytes()
