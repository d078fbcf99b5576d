"""The presets of the three series, tried on the chat templates of their models (TRL carries them)."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from curation.student import Student
from pipelines.prompting import Asker, Prompt
from stillhouse.recipe import load_recipe
from stillhouse.sections import Teacher
from stillhouse.series import SERIES, SeriesName
from tests.conftest import ROOT

TEMPLATES: dict[str, SeriesName] = {
    "llama3": "llama-3",
    "llama3_1": "llama-3",
    "llama3_2": "llama-3",
    "qwen3": "qwen-3",
    "gemma3": "gemma-3",
}


def template_of(name: str) -> str:
    return files("trl").joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")


def render(name: str, messages: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, day: str, **given: Any) -> str:
    """Render as on a day; the templates that ask for the date ask transformers for it."""
    real = chat_template_utils.datetime

    class Frozen(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.fromisoformat(day)

    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)
    chat_template_utils._compile_jinja_template.cache_clear()
    text, _ = chat_template_utils.render_jinja_template(
        [messages], chat_template=template_of(name), add_generation_prompt=True, **{"bos_token": "<bos>"}, **given
    )
    return str(text[0])


@pytest.mark.parametrize(("template", "series"), TEMPLATES.items())
def test_prompts_are_the_same_on_every_day_and_hold_the_system_turn_once(
    template: str, series: SeriesName, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = Asker(Teacher(backend="vllm", model="m", series=series, system_prompt="Be terse."), seed=1)
    call = asker.call(Prompt("Judge it.", (("Q1", "A1"),), "Q2"), {}, 0.0, 10)
    given = call.options.get("chat_template_kwargs", {})
    messages: Any = call.prompt
    texts = {render(template, messages, monkeypatch, day, **given) for day in ("2026-01-01", "2027-06-30")}
    (text,) = texts
    assert text.count("Be terse.\n\nJudge it.") == 1
    assert text.index("Judge it.") < text.index("Q1") < text.index("A1") < text.index("Q2")
    assert call.options | given == {**SERIES[series].sampling, **SERIES[series].template, **call.options}


def test_llama_dates_its_prompts_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = [{"role": "user", "content": "hello"}]
    assert "30 Jun 2027" in render("llama3_2", chat, monkeypatch, "2027-06-30")
    assert "26 Jul 2024" in render("llama3_2", chat, monkeypatch, "2027-06-30", **SERIES["llama-3"].template)


def test_qwen_does_not_think(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = [{"role": "user", "content": "hello"}]
    assert not render("qwen3", chat, monkeypatch, "2026-01-01").endswith("</think>\n\n")
    text = render("qwen3", chat, monkeypatch, "2026-01-01", **SERIES["qwen-3"].template)
    assert text.endswith("<think>\n\n</think>\n\n")


def test_a_student_is_scored_under_the_template_of_its_series(student: tuple[Any, Any]) -> None:
    model, tokenizer = student
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = template_of("qwen3")
        thinking = Student(model, tokenizer).encode("hello", "yes", 100)
        found = Student(model, tokenizer, SERIES["qwen-3"].template).encode("hello", "yes", 100)
    finally:
        tokenizer.chat_template = before
    assert not isinstance(thinking, str)
    assert not isinstance(found, str)
    assert tokenizer.decode(found.prompt).endswith("<think>\n\n</think>\n\n")
    assert found.prompt[: len(thinking.prompt)].tolist() == thinking.prompt.tolist()
    assert found.output.tolist() == thinking.output.tolist()


@pytest.mark.parametrize("series", SERIES)
def test_each_series_has_a_recipe(series: SeriesName) -> None:
    recipe = load_recipe(Path(ROOT / "recipes" / f"{series}.yaml"))
    assert recipe.teacher.series == recipe.curation.series == series
    assert recipe.teacher.api == "chat"


def test_what_the_recipe_says_goes_before_the_series() -> None:
    teacher = Teacher(backend="vllm", model="m", series="qwen-3", top_p=0.5)
    assert teacher.options() == {"top_p": 0.5, "top_k": 20, "chat_template_kwargs": {"enable_thinking": False}}
    assert Teacher().options() == {}
