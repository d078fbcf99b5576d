"""Difficulty of a sample for the student: rank score, perplexity and IFD from two forward passes.

The rank score (CompEffDist, section "Difficulty"): at each output token p = softmax(logits), n = the smallest
number of top tokens whose cumulative p reaches TOP_P, x = the token's rank from 0, s = x/n if x < n, else 1. The
difficulty is the mean of the s above 0, and 0 where there is none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillhouse.errors import RunError

if TYPE_CHECKING:
    import torch

NO_ARGUMENTS: Mapping[str, Any] = {}
TOP_P = 0.95
BATCH_TOKENS = 512  # the fastest on CPU: larger batches leave the cache
POSITIONS = 128  # rows of logits held at once: 128 x 262,144 x 4 bytes = 134 MB


# From float32 logits (positions, vocabulary) and target ids (positions,) to figures of shape (positions,).
Kernel = Callable[["torch.Tensor", "torch.Tensor"], "tuple[torch.Tensor, ...]"]


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample: the student reads `prompt` and is scored on `output`."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """Scores of one sample; `reason` says why there are none."""

    difficulty: float | None = None
    perplexity: float | None = None
    ifd: float | None = None
    output_tokens: int = 0
    scored_positions: int = 0
    reason: str | None = None


def encode(
    prompt: str, output: str, tokenizer: Any, max_length: int, template: Mapping[str, Any] = NO_ARGUMENTS
) -> Encoded | str:
    """Return the token ids, or the reason why the sample cannot be scored.

    Prompt and output are tokenised apart, so that no token spans their boundary; the student's chat template is
    used where it has one, with the arguments `template`. A prompt that is too long loses tokens on the left, the
    output never loses any.
    """
    if tokenizer.chat_template:
        prompt_ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **template,
        )["input_ids"]
    else:
        prompt_ids = tokenizer(prompt)["input_ids"]
    output_ids = tokenizer(output, add_special_tokens=False)["input_ids"]
    if not output_ids:
        return "empty output"
    room = max_length - len(output_ids)
    if room < 1:
        return f"output of {len(output_ids)} tokens does not fit into curation.max_length {max_length}"
    return Encoded(tuple(prompt_ids[-room:]), tuple(output_ids))


def score_samples(
    samples: Sequence[tuple[str, str]],
    model: Any,
    tokenizer: Any,
    max_length: int,
    report: Callable[[int, int], None] = lambda done, tokens: None,
    template: Mapping[str, Any] = NO_ARGUMENTS,
) -> list[Score]:
    """Score (prompt, output) pairs, in their order.

    `template` are arguments of the student's chat template. `report` is told samples done and tokens read so far.

    Raises RunError where the model's logits are not those of its output layer.
    """
    scores: list[Score] = [Score()] * len(samples)
    encoded: dict[int, Encoded] = {}
    for number, (prompt, output) in enumerate(samples):
        result = encode(prompt, output, tokenizer, max_length, template)
        if isinstance(result, str):
            scores[number] = Score(reason=result)
        else:
            encoded[number] = result
    start = _start_token(tokenizer)
    if encoded:
        _check_output_layer(min(encoded.values(), key=lambda row: len(row.prompt) + len(row.output)), model)
    done, tokens = len(samples) - len(encoded), 0
    for batch in _by_length(encoded):
        rows = [encoded[number] for number in batch]
        with_prompt = token_scores(rows, model, rank_scores)
        alone = token_scores([Encoded((start,), row.output) for row in rows], model, losses_of)
        for number, (losses, ranks), (losses_alone,) in zip(batch, with_prompt, alone, strict=True):
            scores[number] = _score(losses, ranks, losses_alone)
        done, tokens = done + len(batch), tokens + sum(len(row.prompt) + len(row.output) for row in rows)
        report(done, tokens)
    return scores


def token_scores(rows: Sequence[Encoded], model: Any, kernel: Kernel) -> list[tuple["torch.Tensor", ...]]:
    """Return per row what `kernel` says of its output tokens, each of shape (output tokens,).

    One forward pass of the body over the right-padded batch (causal attention makes padding harmless); only
    positions that predict an output token go through the output layer, POSITIONS at a time, in float32.
    """
    import torch

    device, layer = model.device, model.get_output_embeddings()
    width = max(len(row.prompt) + len(row.output) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.prompt) + len(row.output)] = torch.tensor(row.prompt + row.output)
    places = [
        (number, len(row.prompt) - 1 + offset) for number, row in enumerate(rows) for offset in range(len(row.output))
    ]
    targets = torch.tensor([token for row in rows for token in row.output], device=device)
    with torch.inference_mode():
        hidden = model.base_model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        where, when = torch.tensor(places, device=device).T
        wanted = hidden[where, when]
        pieces = []
        for start in range(0, len(targets), POSITIONS):
            piece = slice(start, start + POSITIONS)
            logits = _finish(layer(wanted[piece]).float(), model.config)
            pieces.append(kernel(logits, targets[piece]))
    lengths = [len(row.output) for row in rows]
    figures = (torch.cat(parts).cpu().split(lengths) for parts in zip(*pieces, strict=True))
    return list(zip(*figures, strict=True))


def losses_of(logits: "torch.Tensor", targets: "torch.Tensor") -> tuple["torch.Tensor"]:
    """Return the negative log likelihood of each target, shape (positions,)."""
    import torch

    return (torch.logsumexp(logits, dim=1) - logits.gather(1, targets[:, None])[:, 0],)


def rank_scores(logits: "torch.Tensor", targets: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return negative log likelihood and rank score s of each target, both of shape (positions,).

    `logits` is float32 of shape (positions, vocabulary), `targets` holds token ids. A token's rank is the number
    of tokens with a higher logit, or an equal one and a lower id.
    """
    import torch

    scores = torch.zeros(len(targets), dtype=torch.float64)
    for position, target in enumerate(targets.tolist()):
        row = logits[position]
        rank = int((row > row[target]).sum() + (row[:target] == row[target]).sum())
        if rank:
            size = nucleus_size(row)
            scores[position] = rank / size if rank < size else 1.0
    return (*losses_of(logits, targets), scores)


def nucleus_size(logits: "torch.Tensor", top_p: float = TOP_P) -> int:
    """Return the smallest number of most likely tokens whose probabilities sum to at least `top_p`.

    `logits` is float32 of shape (vocabulary,). The mass is summed in float64: in float32, softmax over 262k entries
    is off by up to 6e-5 and the size comes out too small. Only tokens that can matter are sorted: the candidates
    grow until they hold the mass.
    """
    import torch

    probabilities = torch.softmax(logits.double(), dim=0)
    for floor in (1e-3, 1e-4, 1e-5, 1e-6, 0.0):
        candidates = probabilities[probabilities > floor]
        if float(candidates.sum()) >= top_p:
            mass = torch.cumsum(candidates.sort(descending=True).values, dim=0)
            return int(torch.searchsorted(mass, top_p)) + 1
    return len(logits)


def _score(losses: "torch.Tensor", ranks: "torch.Tensor", alone: "torch.Tensor") -> Score:
    import torch

    if not bool(torch.isfinite(losses).all() and torch.isfinite(alone).all()):
        return Score(output_tokens=len(losses), reason="the student's logits are not finite")
    above = ranks[ranks > 0]
    perplexity, baseline = float(losses.mean().exp()), float(alone.mean().exp())
    return Score(
        difficulty=float(above.mean()) if len(above) else 0.0,
        perplexity=perplexity,
        ifd=perplexity / baseline,
        output_tokens=len(losses),
        scored_positions=len(above),
    )


def _by_length(encoded: dict[int, Encoded]) -> Iterator[list[int]]:
    """Yield batches of row numbers of like length, of at most BATCH_TOKENS tokens after padding."""
    lengths = {number: len(row.prompt) + len(row.output) for number, row in encoded.items()}
    batch: list[int] = []
    for number in sorted(lengths, key=lambda number: lengths[number]):
        if batch and lengths[number] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _start_token(tokenizer: Any) -> int:
    """Return the token that stands before an output without a prompt."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _finish(logits: "torch.Tensor", config: Any) -> "torch.Tensor":
    """Apply what some models do after their output layer: scaling (Granite, Cohere) and soft-capping (Gemma 2)."""
    text = config.get_text_config()
    logits = logits * (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
    cap = getattr(text, "final_logit_softcapping", None)
    return (logits / cap).tanh() * cap if cap else logits


def _check_output_layer(row: Encoded, model: Any) -> None:
    """Raise RunError where body and output layer, run apart, are not the model itself."""
    import torch

    ids = row.prompt + row.output
    with torch.inference_mode():
        logits = model(torch.tensor([ids], device=model.device)).logits[0, -len(row.output) - 1 : -1].float()
    wanted = losses_of(logits, torch.tensor(row.output, device=model.device))[0].cpu()
    found = token_scores([row], model, losses_of)[0][0]
    if not torch.allclose(wanted, found, atol=1e-2, rtol=1e-2, equal_nan=True):
        raise RunError(f"student {type(model).__name__} does more after its output layer than is known; use another")
