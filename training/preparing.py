"""A training before its first step: the student with its template and tokens, and the rows as token ids."""

from dataclasses import dataclass
from typing import Any

from stillhouse.errors import InputError
from stillhouse.models import Dtype, load_causal_lm
from stillhouse.series import SERIES, SeriesName
from training.data import Examples, Source, end_of_answer, find_dataset, load_examples, tokenize
from training.settings import Training


@dataclass(frozen=True)
class Prepared:
    """All that a training needs: the student, and the rows as token ids.

    `series` is that whose template they are under, `end` the tokens that end an answer.
    """

    model: Any
    tokenizer: Any
    source: Source
    train: Examples
    test: Examples | None
    series: SeriesName | None
    end: list[int]


def prepare(settings: Training) -> Prepared:
    """Load student and rows. Raises InputError where they do not go together, or no row fits."""
    source = find_dataset(settings.dataset, settings.revision)
    rows = load_examples(source)
    held_out = load_examples(source, "test") if "test" in source.files else None
    model, tokenizer = _student(settings)
    series = settings.series or _scored_series(source)
    template = SERIES[series].template if series else {}
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or settings.max_length
    length = min(settings.max_length, context)
    train = tokenize(rows, tokenizer, template, length)
    if not len(train.rows):
        reasons = "; ".join(f"{count} {reason}" for reason, count in train.unusable.items())
        raise InputError(
            f"dataset {settings.dataset}: none of {len(rows)} rows fits into --max-length {length}; raise it (the "
            f"student can read {context})" + (f". Others: {reasons}" if reasons else "")
        )
    some = held_out and held_out.take(min(settings.held_out_rows, len(held_out)))
    test = tokenize(some, tokenizer, template, length) if some else None
    end = end_of_answer(tokenizer, template)
    end_answers_with(model, end)
    return Prepared(model, tokenizer, source, train, test if test and len(test.rows) else None, series, end)


def _scored_series(source: Source) -> SeriesName | None:
    """Return the series whose template the rows were scored under, as the dataset's facts say."""
    told = (source.facts.get("student") or {}).get("series")
    return next((name for name in SERIES if name == told), None)


def _student(settings: Training) -> tuple[Any, Any]:
    """Load the student with the tokens, template and attention of its series."""
    dtype: Dtype = "bfloat16" if settings.precision == "bfloat16" else "float32"
    attention = None if settings.attention == "auto" else settings.attention
    model, tokenizer = load_causal_lm(settings.student, settings.student_revision, "cpu", dtype, attention)
    if settings.format == "messages" and not tokenizer.chat_template:
        raise InputError(
            f"student {settings.student} has no chat template, so it cannot read messages; --format text trains it on "
            "prompt and completion as they are, or take the instruct model of its series"
        )
    if settings.format == "text":
        tokenizer.chat_template = None
    if settings.pad_token:
        if settings.pad_token not in tokenizer.get_vocab():
            raise InputError(
                f"--pad-token {settings.pad_token}: no token of {settings.student}; is it of series {settings.series}?"
            )
        tokenizer.pad_token = settings.pad_token
    return model, tokenizer


def end_answers_with(model: Any, end: list[int]) -> None:
    """Let generation stop at the token that the student learns to end its answers with."""
    known = model.generation_config.eos_token_id
    tokens = [known] if isinstance(known, int) else list(known or [])
    if end and end[-1] not in tokens:
        model.generation_config.eos_token_id = [*tokens, end[-1]]
