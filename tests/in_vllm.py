"""Real vLLM, in this process and as a server; run by `make vllm`, in an environment of its own.

    python -m pytest --noconftest -o addopts= tests/in_vllm.py

MODEL in the environment is a folder of a causal model, STUDENT one that `stillhouse train` wrote.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.calls import Answer, Call
from pipelines.engine import Engine
from stillhouse.models import load_causal_lm
from stillhouse.progress import Unseen
from stillhouse.reading import Reader
from stillhouse.sections import Runtime, Teacher
from training.sentibench.generation import TransformersGenerator, VllmGenerator

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["positive", "negative"]}, "words": {"type": "array", "maxItems": 2,
                   "items": {"type": "string", "maxLength": 12}}},
    "required": ["label", "words"],
    "additionalProperties": False,
}  # fmt: skip
LABELS = {"type": "string", "enum": ["positive", "negative"]}
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}assistant:"
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model with a chat template that starts with the first token and knows `enable_thinking`."""
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(os.environ["MODEL"], folder, copy_function=os.link)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def ask(teacher: dict[str, Any], calls: list[Call], place: Path) -> dict[str, Answer | None]:
    found: dict[str, Answer | None] = {}
    runtime = Runtime(concurrency=8, gpu_memory=0.3, timeout=120)
    with Engine(Teacher(**teacher), runtime, place / "journal.sqlite", Unseen()) as engine:

        async def handle(call: Call) -> bool | None:
            found[call.call_id] = await engine.answer(call)
            return True if found[call.call_id] else None

        engine.each(calls, handle, "responses", len(calls))
    return found


def calls_of(model: Path, options: dict[str, Any]) -> list[Call]:
    question = "The room was clean and the staff were kind. Label the text as JSON."
    chat = [{"role": "user", "content": question}]
    return [
        Call(str(model), None, api, chat if api == "chat" else question, schema, 1.0, 48, seed, options)
        for api in ("completion", "chat")
        for schema in (SCHEMA, None)
        for seed in (1, 2)
    ]


def check(calls: list[Call], found: dict[str, Answer | None], first_tokens: int = 1) -> None:
    for call in calls:
        answer = found[call.call_id]
        assert answer is not None
        assert answer.output_tokens > 0
        if call.schema:
            value = json.loads(answer.text)
            assert value["label"] in ("positive", "negative")
            assert "\n" not in answer.text
    prompts = {call.api: answer.prompt_tokens for call in calls if (answer := found[call.call_id])}
    assert 10 < prompts["completion"] < prompts["chat"] < prompts["completion"] + 16


def test_vllm_in_process(model: Path, tmp_path: Path) -> None:
    teacher = {"backend": "vllm", "model": str(model), "series": "qwen-3"}
    calls = calls_of(model, Teacher(**teacher).options())
    found = ask(teacher, calls, tmp_path)
    check(calls, found)
    plain = next(call for call in calls if call.api == "chat")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    text = tokenizer.apply_chat_template(
        plain.prompt, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert "<think></think>assistant:" in text
    answer = found[plain.call_id]
    assert answer is not None
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert answer.prompt_tokens == len(ids), "one first token, thinking off"
    assert ask(teacher, calls, tmp_path) == found


@pytest.fixture(scope="session")
def server(model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--enforce-eager", "--max-model-len", "1024", "--gpu-memory-utilization", "0.3"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_vllm_as_a_server(model: Path, server: str, tmp_path: Path) -> None:
    for api in ("completion", "chat"):
        teacher = {"backend": "endpoint", "base_url": server, "model": str(model), "api": api, "series": "qwen-3"}
        # Labels only: in the free white space of an object, a base model wanders until it is cut off.
        calls = [
            replace(call, schema=call.schema and LABELS)
            for call in calls_of(model, Teacher(**teacher).options())
            if call.api == api
        ]
        found = ask(teacher, calls, tmp_path)
        for call in calls:
            answer = found[call.call_id]
            assert answer is not None
            assert answer.output_tokens > 0
            assert not call.schema or json.loads(answer.text) in LABELS["enum"]


def test_a_trained_student_answers_as_in_transformers() -> None:
    """What `stillhouse train` wrote loads, and both generators of `stillhouse evaluate` continue prompts alike."""
    student = os.environ["STUDENT"]
    mood = 'Sentence: {}\nOutput: [{{"mood": "{}"}}]\n\n'
    shown = mood.format("The soup was warm.", "good") + mood.format("The staff were rude.", "bad")
    prompts = [f"{shown}Sentence: {text}\nOutput:" for text in ("The tea was cold.", "A kind and calm place.")]
    reader = Reader(*load_causal_lm(student, None, "cpu"))
    tokens: list[int] = []
    found: list[dict[int, str]] = []
    for generator in (TransformersGenerator(reader), VllmGenerator(student, None, "float32")):
        found.append({})
        for part in generator.continue_all(prompts, 24, lambda read, cut: tokens.append(read)):
            found[-1] |= part
    assert found[0] == found[1]
    assert all(json.loads(answer)[0]["mood"] for answer in found[0].values())
