"""Difficulty equals the formula, computed row by row in float64, and reads exactly the tokens it should."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from curation.difficulty import TOP_P, Encoded, encode, nucleus_size, rank_scores, score_samples

SAMPLES = [
    ("Is the text positive?\n\nText: I love it\n\nAnswer:\n", "positive"),
    ("Is the text positive?\n\nText: Never again.\n\nAnswer:\n", "negative"),
    (
        "Explain.\n\nText: The waiter smiled.\n\nAnswer:\n",
        "The author liked the waiter, café style 😀.",
    ),
    ("Explain at length. " * 30 + "\nAnswer:\n", "xylophone quartz"),
]


def reference(prompt: str, output: str, model: Any, tokenizer: Any) -> tuple[float, float]:
    """The method row by row: a full sort of the vocabulary per token, in float64."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    ids = prompt_ids + tokenizer(output, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].double()
    scores, losses = [], []
    for position in range(len(prompt_ids), len(ids)):
        probabilities = torch.softmax(logits[position - 1], dim=0)
        losses.append(-float(torch.log(probabilities[ids[position]])))
        mass, order = torch.sort(probabilities, descending=True, stable=True)
        size = int((torch.cumsum(mass, dim=0) < TOP_P).sum()) + 1
        rank = int((order == ids[position]).nonzero())
        if rank:
            scores.append(rank / size if rank < size else 1.0)
    return sum(scores) / len(scores) if scores else 0.0, float(torch.tensor(losses).mean().exp())


@pytest.mark.xdist_group("student")
def test_scores_equal_the_row_by_row_method(student: tuple[Any, Any]) -> None:
    for (prompt, output), score in zip(SAMPLES, score_samples(SAMPLES, *student, max_length=1024), strict=True):
        difficulty, perplexity = reference(prompt, output, *student)
        assert score.difficulty == pytest.approx(difficulty, abs=1e-3)
        assert score.perplexity == pytest.approx(perplexity, rel=1e-3)
        assert score.ifd is not None
        assert score.output_tokens == len(student[1](output, add_special_tokens=False)["input_ids"])


@pytest.mark.xdist_group("student")
def test_scores_do_not_depend_on_company_or_order(student: tuple[Any, Any]) -> None:
    together = score_samples(SAMPLES, *student, max_length=1024)
    alone = [score_samples([sample], *student, max_length=1024)[0] for sample in reversed(SAMPLES)][::-1]
    for one, other in zip(together, alone, strict=True):
        assert one.difficulty == pytest.approx(other.difficulty, abs=1e-3)
        assert one.ifd == pytest.approx(other.ifd, rel=1e-3)


@pytest.mark.xdist_group("student")
def test_the_boundary_is_made_of_token_ids(student: tuple[Any, Any]) -> None:
    tokenizer = student[1]
    found = encode("a b c d e f", "yes", tokenizer, max_length=5)
    assert isinstance(found, Encoded)
    assert list(found.output) == tokenizer("yes", add_special_tokens=False)["input_ids"]
    assert len(found.prompt) + len(found.output) == 5
    assert found.prompt[-1] == tokenizer("a b c d e f")["input_ids"][-1]
    assert encode("a", "", tokenizer, 10) == "empty output"
    assert str(encode("a", "word " * 50, tokenizer, 10)).startswith("output of")


@pytest.mark.xdist_group("student")
def test_what_cannot_be_scored_has_a_reason_and_the_rest_has_scores(student: tuple[Any, Any]) -> None:
    scores = score_samples([("p", ""), ("p\n", "fine"), ("x" * 100_000, "ok")], *student, max_length=64)
    assert scores[0].reason == "empty output"
    assert scores[1].difficulty is not None
    assert scores[2].difficulty is not None


@pytest.mark.xdist_group("student")
def test_a_chat_template_is_used_without_a_second_start_token(student: tuple[Any, Any]) -> None:
    from copy import deepcopy

    tokenizer = deepcopy(student[1])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<model>{% endif %}"
    )
    found = encode("hello", "yes", tokenizer, 100)
    assert isinstance(found, Encoded)
    assert tokenizer.decode(found.prompt) == "<bos><user>hello<model>"
    assert found.prompt.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2"])
def test_models_that_scale_or_cap_their_logits(student: tuple[Any, Any], family: str) -> None:
    small = {"vocab_size": student[0].config.vocab_size, "hidden_size": 32, "intermediate_size": 64,
             "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip
    extra = {
        "granite": {"logits_scaling": 0.2},
        "cohere": {"logit_scale": 4.0},
        "gemma2": {"query_pre_attn_scalar": 16},
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **small, **extra[family])).eval()
    difficulty, perplexity = reference(*SAMPLES[1], model, student[1])
    (score,) = score_samples([SAMPLES[1]], model, student[1], max_length=1024)
    assert score.difficulty == pytest.approx(difficulty, abs=1e-3)
    assert score.perplexity == pytest.approx(perplexity, rel=1e-3)


def test_rank_scores_on_known_logits() -> None:
    # p = 0.5, 0.3, 0.16, 0.04: three tokens reach 0.95.
    logits = torch.log(torch.tensor([[0.3, 0.5, 0.04, 0.16]])).float().expand(4, -1)
    losses, scores = rank_scores(logits, torch.tensor([1, 0, 3, 2]))
    assert scores.tolist() == [0.0, 1 / 3, 2 / 3, 1.0]
    assert losses.tolist() == pytest.approx([0.6931, 1.2040, 1.8326, 3.2189], abs=1e-3)


def test_ties_are_ranked_by_token_id() -> None:
    _, scores = rank_scores(torch.zeros(2, 10), torch.tensor([0, 4]))
    assert scores.tolist() == [0.0, 0.4]


def test_nucleus_size_equals_a_full_sort_on_random_logits() -> None:
    generator = torch.Generator().manual_seed(1)
    for scale in (0.1, 1.0, 3.0, 8.0):
        logits = torch.randn(50_000, generator=generator) * scale
        mass = torch.softmax(logits.double(), dim=0).sort(descending=True).values.cumsum(dim=0)
        assert nucleus_size(logits) == int((mass < TOP_P).sum()) + 1
