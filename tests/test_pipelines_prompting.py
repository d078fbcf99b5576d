"""Prompts: every file loads, its shots are what it asks for, and user text stays text."""

from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from pipelines.calls import Answer, Call, UnusableAnswerError, parse_answer
from pipelines.instructions import _definition_schema, _typed
from pipelines.prompting import Asker, load_template, object_schema, sample_shots
from stillhouse.recipe import Teacher

NAMES = sorted(file.name.removesuffix(".yaml") for file in files("pipelines").joinpath("prompts").iterdir())
KINDS = ["analysis", "classification", "scoring", "extraction", "structured"]
FIELDS: dict[str, Any] = {
    "text": "T", "count": 2, "perspective": "P", "members": "M", "description": "D", "task": "K", "examples": ["E"],
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_renders_for_both_apis(name: str) -> None:
    prompt = load_template(name).fill(**FIELDS)
    assert prompt.completion().endswith("\nAnswer:")
    turns = prompt.messages()
    assert [turn["role"] for turn in turns] == ["system", *["user", "assistant"] * len(prompt.shots), "user"]


@pytest.mark.parametrize("kind", KINDS)
def test_shots_of_definitions_fit_their_schema(kind: str) -> None:
    for shot in load_template(kind).shots:
        jsonschema.validate(shot["answer"], _definition_schema(kind, 2))


def test_shots_of_responses_are_valid_answers_in_the_form_of_our_instructions() -> None:
    defined = {kind: [_typed(kind, shot["answer"]) for shot in load_template(kind).shots] for kind in KINDS[1:]}
    for shot in load_template("responses").shots:
        if shot["task_type"] != "analysis":
            tasks = [task for task, form in defined[shot["task_type"]] if shot["task"].endswith(form)]
            assert tasks, shot["task"]
            assert any(task.fault(shot["answer"]["answer"], shot["text"]) is None for task in tasks), shot


def test_user_text_is_never_a_template() -> None:
    prompt = load_template("attributes").fill(text="{{ 7 * 7 }} {% raw %}", count=2)
    assert prompt.question == "Text: {{ 7 * 7 }} {% raw %}"


def test_shots_are_drawn_alike_for_the_same_number() -> None:
    template = load_template("attributes")
    assert sample_shots(template, 4, 1) == sample_shots(template, 4, 1)
    assert len({str(sample_shots(template, 4, number)) for number in range(4)}) == 4


def test_a_call_is_keyed_by_everything_that_is_sent() -> None:
    def key(seed: int = 1, text: str = "a", maximum: int = 5, **teacher: str) -> str:
        prompt = load_template("attributes").fill(text=text, count=2)
        return Asker(Teacher.model_validate(teacher), seed).call(prompt, {"type": "string"}, 0.5, maximum).call_id

    keys = [key(), key(seed=2), key(text="b"), key(maximum=6), key(model="m.gguf"), key(revision="r")]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_the_order_of_a_schema_survives_the_way_to_the_teacher() -> None:
    schema = object_schema(zebra={"type": "string"}, apple={"type": "string"})
    call = Call("endpoint", "m", None, "chat", "p", schema, 0.0, 5, 1)
    assert list(Call.from_json(call.to_json()).schema["properties"]) == ["zebra", "apple"]
    assert Call.from_json(call.to_json()).call_id == call.call_id


@pytest.mark.parametrize(
    ("text", "reason", "fault"),
    [
        ('{"a": 1', "length", "truncated: the teacher stopped for `length`"),
        ("Sure! Here it is", "stop", "not JSON"),
        ("", "stop", "not JSON"),
        ("[" * 100_000, "stop", "not JSON"),
    ],
)
def test_unusable_answers_say_why(text: str, reason: str, fault: str) -> None:
    with pytest.raises(UnusableAnswerError, match=fault):
        parse_answer(Answer(text, reason, 1, 1, 0.1))
