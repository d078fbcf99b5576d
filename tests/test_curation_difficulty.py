"""Difficulty equals the formula, computed row by row in float64, and reads exactly the tokens it should."""

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from curation import difficulty
from curation.difficulty import Score, score_few, score_samples, sequence_figures
from curation.kernels import TOP_P, TokenFigures, batched_figures, row_figures
from curation.student import Student
from stillhouse.checkpoint import Checkpoint
from stillhouse.places import Tell
from stillhouse.prefixes import GROUP_TOKENS, shared_prefixes
from stillhouse.reading import Encoded

SAMPLES = [
    ("Is the text positive?\n\nText: I love it\n\nAnswer:\n", "positive"),
    ("Is the text positive?\n\nText: Never again.\n\nAnswer:\n", "negative"),
    (
        "Explain.\n\nText: The waiter smiled.\n\nAnswer:\n",
        "The author liked the waiter, café style 😀.",
    ),
    ("Explain at length. " * 30 + "\nAnswer:\n", "xylophone quartz"),
]
KERNELS = {
    "rows": lambda logits, targets: row_figures(logits.numpy(), targets.numpy(), threads=2),
    "blocks": batched_figures,  # what a GPU runs
}
TINY = {"vocab_size": 500, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**TINY, **HEADS},
    "gemma3_text": {
        **TINY,
        **HEADS,
        "sliding_window": 16,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
    "qwen3": {**TINY, **HEADS},
    "gpt2": {"vocab_size": 500, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "bloom": {"vocab_size": 500, "hidden_size": 32, "n_layer": 2, "n_head": 2},  # no positions, but biases of attention
    "lfm2": {**TINY, **HEADS, "layer_types": ["conv", "conv", "full_attention"]},
    "mamba": {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2},
}


def figures_by_sorting(logits: torch.Tensor, targets: torch.Tensor) -> TokenFigures:
    """The method's own way: softmax and a full sort of the vocabulary per token, in float64."""
    loss, rank, nucleus = [], [], []
    for row, target in zip(logits.double(), targets.tolist(), strict=True):
        probabilities = torch.softmax(row, dim=0)
        mass, order = torch.sort(probabilities, descending=True, stable=True)
        loss.append(-float(torch.log_softmax(row, dim=0)[target]))
        rank.append(int((order == target).nonzero()))
        nucleus.append(int((torch.cumsum(mass, dim=0) < TOP_P).sum()) + 1)
    return TokenFigures(np.array(loss), np.array(rank), np.array(nucleus))


def reference(prompt: str, output: str, model: Any, tokenizer: Any) -> tuple[float, float]:
    """Difficulty and perplexity of one sample, row by row."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    ids = prompt_ids + tokenizer(output, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, len(prompt_ids) - 1 : -1]
    figures = figures_by_sorting(logits, torch.tensor(ids[len(prompt_ids) :]))
    above = [s for s in figures.rank_scores() if s > 0]
    return float(np.mean(above)) if above else 0.0, float(np.exp(figures.loss.mean()))


def scores_of(samples: list[tuple[str, str]], student: tuple[Any, Any], max_length: int = 1024) -> list[Score]:
    return score_samples(samples, Student(*student), max_length, Checkpoint())


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family])).eval()


@pytest.mark.xdist_group("student")
def test_scores_equal_the_row_by_row_method(student: tuple[Any, Any]) -> None:
    for (prompt, output), score in zip(SAMPLES, scores_of(SAMPLES, student), strict=True):
        wanted, perplexity = reference(prompt, output, *student)
        assert score.difficulty == pytest.approx(wanted, abs=1e-3)
        assert score.perplexity == pytest.approx(perplexity, rel=1e-3)
        bos = student[1].bos_token
        alone = student[1].decode(student[1](output, add_special_tokens=False)["input_ids"])
        assert alone == output
        assert score.ifd == pytest.approx(perplexity / _perplexity_after(bos, output, *student), rel=1e-3)
        assert score.output_tokens == len(student[1](output, add_special_tokens=False)["input_ids"])


def _perplexity_after(start: str, output: str, model: Any, tokenizer: Any) -> float:
    ids = [tokenizer.convert_tokens_to_ids(start), *tokenizer(output, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        loss = model(torch.tensor([ids]), labels=torch.tensor([[-100, *ids[1:]]])).loss
    return float(loss.exp())


@pytest.mark.xdist_group("student")
def test_scores_depend_on_no_order_and_hardly_on_company(student: tuple[Any, Any]) -> None:
    together = scores_of(SAMPLES, student)
    assert scores_of(SAMPLES[::-1], student)[::-1] == together
    alone = [scores_of([sample], student)[0] for sample in SAMPLES]
    for one, other in zip(together, alone, strict=True):
        assert one.difficulty == pytest.approx(other.difficulty, abs=1e-3)
        assert one.ifd == pytest.approx(other.ifd, rel=1e-3)


@pytest.mark.xdist_group("student")
def test_both_kernels_equal_a_full_sort_at_every_position_of_a_real_model(student: tuple[Any, Any]) -> None:
    ids = student[1]("The food was good, the waiter rude and the room cold, but the view made up for it.")["input_ids"]
    with torch.inference_mode():
        logits = student[0](torch.tensor([ids])).logits[0, :-1].float()
    wanted = figures_by_sorting(logits, torch.tensor(ids[1:]))
    for kernel in KERNELS.values():
        found = kernel(logits, torch.tensor(ids[1:]))
        assert found.rank.tolist() == wanted.rank.tolist()
        assert found.nucleus.tolist() == wanted.nucleus.tolist()
        assert found.loss == pytest.approx(wanted.loss, abs=1e-6)


@pytest.mark.xdist_group("student")
def test_the_boundary_is_made_of_token_ids(student: tuple[Any, Any]) -> None:
    tokenizer = student[1]
    found = Student(*student).encode("a b c d e f", "yes", max_length=5)
    assert isinstance(found, Encoded)
    assert found.output.tolist() == tokenizer("yes", add_special_tokens=False)["input_ids"]
    assert len(found) == 5
    assert found.prompt[-1] == tokenizer("a b c d e f")["input_ids"][-1]


@pytest.mark.xdist_group("student")
def test_what_cannot_be_scored_has_a_reason_and_the_rest_has_scores(student: tuple[Any, Any]) -> None:
    samples = [("p", ""), ("p\n", "fine"), ("x" * 100_000, "ok"), ("p", "word " * 200), ("", "fine"), ("p\n", "fine")]
    scores = scores_of(samples, student, max_length=64)
    too_long = "output of 201 tokens does not fit into 64 (max_length, or the model's own limit)"
    assert [score.unscored_reason for score in scores] == ["empty output", None, None, too_long, None, None]
    assert all(score.difficulty is not None for score in scores if score.unscored_reason is None)
    assert scores[4].ifd == pytest.approx(1.0, rel=1e-4), "an empty prompt tells nothing of the output"
    assert scores[5] == scores[1]
    assert scores_of([("p", "")], student)[0].unscored_reason == "empty output"
    assert scores_of([], student) == []


@pytest.mark.xdist_group("student")
def test_the_model_s_own_context_is_a_limit_too(student: tuple[Any, Any]) -> None:
    small = {"vocab_size": len(student[1]), "n_embd": 16, "n_layer": 1, "n_head": 1, "n_positions": 32}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **small)).eval()
    scores = scores_of([("word " * 100, "fine"), ("p", "word " * 40)], (model, student[1]))
    assert scores[0].difficulty is not None
    assert (
        scores[1].unscored_reason == "output of 41 tokens does not fit into 32 (max_length, or the model's own limit)"
    )


@pytest.mark.xdist_group("student")
def test_logits_that_are_not_finite_are_a_reason(student: tuple[Any, Any]) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = float("nan")
    tokens = Student(model, student[1])
    tokens.encode = lambda prompt, output, most: Encoded(np.array([1, 2]), np.array([3, 4]))  # type: ignore[method-assign]
    (score,) = score_samples([("a", "b")], tokens, 64, Checkpoint())
    assert score.unscored_reason == "the student's logits are not finite"
    assert score.difficulty is None


@pytest.mark.xdist_group("student")
def test_a_chat_template_is_used_without_a_second_start_token(student: tuple[Any, Any]) -> None:
    tokenizer = deepcopy(student[1])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<model>{% endif %}"
    )
    found = Student(student[0], tokenizer).encode("hello", "yes", 100)
    assert isinstance(found, Encoded)
    assert tokenizer.decode(found.prompt) == "<bos><user>hello<model>"
    assert found.prompt.tolist().count(tokenizer.bos_token_id) == 1


@pytest.mark.xdist_group("student")
def test_what_a_chat_template_refuses_is_a_reason(student: tuple[Any, Any]) -> None:
    tokenizer = deepcopy(student[1])
    tokenizer.chat_template = "{{ raise_exception('Roles must alternate') }}"
    (score,) = scores_of([("p", "o")], (student[0], tokenizer))
    assert score.unscored_reason == "the chat template refuses this conversation: Roles must alternate"


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2"])
@pytest.mark.xdist_group("student")
def test_models_that_scale_or_cap_their_logits(student: tuple[Any, Any], family: str) -> None:
    small = {**TINY, **HEADS, "vocab_size": student[0].config.vocab_size, "num_hidden_layers": 1}
    extra = {
        "granite": {"logits_scaling": 0.2},
        "cohere": {"logit_scale": 4.0},
        "gemma2": {"query_pre_attn_scalar": 16},
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **small, **extra[family])).eval()
    wanted, perplexity = reference(*SAMPLES[1], model, student[1])
    (score,) = scores_of([SAMPLES[1]], (model, student[1]))
    assert score.difficulty == pytest.approx(wanted, abs=1e-3)
    assert score.perplexity == pytest.approx(perplexity, rel=1e-3)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_figures_on_known_logits(kernel: Any) -> None:
    # p = 0.5, 0.3, 0.16, 0.04: three tokens reach 0.95.
    logits = torch.log(torch.tensor([[0.3, 0.5, 0.04, 0.16]])).float().repeat(4, 1)
    found = kernel(logits, torch.tensor([1, 0, 3, 2]))
    assert found.rank_scores().tolist() == [0.0, 1 / 3, 2 / 3, 1.0]
    assert found.nucleus.tolist() == [3] * 4
    assert found.loss.tolist() == pytest.approx([0.6931, 1.2040, 1.8326, 3.2189], abs=1e-3)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 12), size=st.integers(1, 3000), scale=st.sampled_from([0.0, 0.1, 1, 3, 8, 40]), data=st.data()
)
def test_figures_equal_a_full_sort(kernel: Any, count: int, size: int, scale: float, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    logits = torch.randn(count, size, generator=generator) * scale
    if data.draw(st.booleans()):
        logits = logits.round()  # many ties, which the order of the ids breaks
    targets = torch.randint(0, size, (count,), generator=generator)
    found, wanted = kernel(logits, targets), figures_by_sorting(logits, targets)
    assert found.rank.tolist() == wanted.rank.tolist()
    for row, size_found in zip(logits, found.nucleus.tolist(), strict=True):
        running = np.concatenate([[0.0], torch.softmax(row.double(), 0).sort(descending=True).values.cumsum(0).numpy()])
        # Where tokens tie, the mass may meet TOP_P to the last bit, and its rounding decides.
        assert running[size_found] >= TOP_P - 1e-12
        assert running[size_found - 1] < TOP_P + 1e-12
    assert found.loss == pytest.approx(wanted.loss, abs=1e-6)
    assert ((found.rank_scores() >= 0) & (found.rank_scores() <= 1)).all()


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_large_vocabulary_and_rows_that_are_not_finite(kernel: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 50_000, generator=generator) * torch.tensor([[0.1], [1.0], [3.0], [8.0], [1.0], [1.0]])
    logits[4, 7], logits[5, 9] = float("nan"), float("inf")
    found, wanted = kernel(logits, torch.arange(6)), figures_by_sorting(logits[:4], torch.arange(4))
    assert found.nucleus[:4].tolist() == wanted.nucleus.tolist()
    assert found.rank[:4].tolist() == wanted.rank.tolist()
    assert not np.isfinite(found.loss[4:]).any()


def rows_with(prefix: int, count: int) -> list[Encoded]:
    rng = np.random.default_rng(3)
    shared = rng.integers(1, 500, prefix)
    return [
        Encoded(np.concatenate([shared, rng.integers(1, 500, 2 + n % 9)]), rng.integers(1, 500, 1 + n % 5))
        for n in range(count)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_changes_no_figure_and_is_read_once(family: str) -> None:
    model, rows = tiny(family), rows_with(prefix=90, count=12)
    found, read = sequence_figures(rows, Student(model, None))
    alone = [sequence_figures([row], Student(model, None))[0][0] for row in rows]
    everything = sum(map(len, rows))
    assert read == (everything if family in ("mamba", "lfm2") else everything - 11 * 90)
    for one, other in zip(found, alone, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        assert one.rank.tolist() == other.rank.tolist()
        assert one.nucleus.tolist() == other.nucleus.tolist()


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6).map(lambda ids: [9] * 80 + ids), max_size=7))
def test_prefix_groups_save_as_many_tokens_as_any_cut(prompts: list[list[int]]) -> None:
    prompts = sorted(prompts)
    groups = shared_prefixes([np.array(ids) for ids in prompts])
    assert [place for _, places in groups for place in places] == list(range(len(prompts)))
    for prefix, places in groups:
        assert len({tuple(prompts[place][:prefix]) for place in places}) == 1
        assert prefix < min(len(prompts[place]) for place in places)
    found = sum(_saved(prompts[places.start : places.stop]) for _, places in groups)
    cuts = range(2 ** max(0, len(prompts) - 1))
    assert found == max(sum(_saved(part) for part in _parts(prompts, cut)) for cut in cuts)


def _parts(prompts: list[list[int]], cut: int) -> list[list[list[int]]]:
    edges = [0, *(n + 1 for n in range(len(prompts) - 1) if cut >> n & 1), len(prompts)]
    return [prompts[start:stop] for start, stop in pairwise(edges)]


def _saved(part: list[list[int]]) -> int:
    common = min((len(ids) - 1 for ids in part), default=0)
    while common and len({tuple(ids[:common]) for ids in part}) > 1:
        common -= 1
    return (len(part) - 1) * common - GROUP_TOKENS if len(part) > 1 else 0


def test_half_precision_gives_float32_logits() -> None:
    model = tiny("llama")
    wide = Student(model, None)
    half = Student(deepcopy(model).to(torch.bfloat16), None)
    rows = rows_with(0, 6)
    with torch.inference_mode():
        hidden = half.hidden(rows)
        logits = half.logits(hidden[: half.positions])
        assert hidden.dtype == torch.bfloat16
        assert logits.dtype == torch.float32
        weight = half.model.get_output_embeddings().weight
        assert torch.equal(logits, hidden.float() @ weight.float().T)
        assert not torch.equal(logits, logits.bfloat16().float()), "not rounded to half precision"
    for row in rows:
        half._checked = False
        half.check(row)
    for one, other in zip(sequence_figures(rows, half)[0], sequence_figures(rows, wide)[0], strict=True):
        assert one.loss == pytest.approx(other.loss, abs=0.05)


def test_blocks_of_the_output_layer_may_cut_rows_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    student, rows = Student(tiny("llama"), None), rows_with(0, 20)
    whole = sequence_figures(rows, student)[0]
    monkeypatch.setattr(student, "positions", 3)
    for one, other in zip(whole, sequence_figures(rows, student)[0], strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-5)


def test_a_repeated_sample_is_in_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another chunk it would be missing where the scoring is resumed, and its neighbours read in other batches."""
    monkeypatch.setattr(difficulty, "CHUNK", 2)
    chunks: list[list[str]] = []

    def work(chunk: list[str], tell: Tell) -> tuple[list[Score], int]:
        chunks.append(chunk)
        return [Score(perplexity=float(ord(text[2]))) for text in chunk], len(chunk)

    told: list[tuple[int, int]] = []
    samples = [(letter, "output") for letter in "dbabcb"]
    found = score_few(samples, work, Checkpoint(), lambda done, read: told.append((done, read)))
    assert [[text[2] for text in chunk] for chunk in chunks] == [["a", "b"], ["c", "d"]]
    assert [score.perplexity for score in found] == [float(ord(letter)) for letter in "dbabcb"]
    assert told == [(2, 0), (4, 2), (6, 4)]


@pytest.mark.xdist_group("student")
def test_an_interrupted_scoring_goes_on_where_it_stopped(
    student: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(difficulty, "CHUNK", 2)
    path = tmp_path / "scores.jsonl"
    whole = scores_of(SAMPLES, student)

    def stop(done: int, tokens: int) -> None:
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_samples(SAMPLES, Student(*student), 1024, Checkpoint(path, "this student"), stop)
    with path.open("ab") as file:
        file.write(b'{"damaged"\n{"torn": [[0.1, ')  # by the disk; killed while it wrote
    read: list[int] = []
    resumed = Checkpoint(path, "this student")
    assert score_samples(SAMPLES, Student(*student), 1024, resumed, lambda done, tokens: read.append(tokens)) == whole
    assert read[0] == 0, "the first two are not read again"
    again: list[int] = []
    score_samples(SAMPLES, Student(*student), 1024, Checkpoint(path, "this student"), lambda _, n: again.append(n))
    assert again == [0], "nothing is read again"
    other: list[int] = []
    score_samples(SAMPLES, Student(*student), 1024, Checkpoint(path, "another"), lambda _, n: other.append(n))
    assert other[-1] > 0
