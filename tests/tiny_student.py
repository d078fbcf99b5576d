"""A student small enough that a training step takes milliseconds, and published datasets of a few rows for it."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import polars as pl
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hub_cards.shards import write_shards
from stillhouse.schemas import PUBLISHED, REJECTED, conform
from training.sentibench.sets import SETS

WORDS = [
    "the", "room", "was", "clean", "and", "calm", "but", "staff", "were", "slow", "rude", "kind", "price", "tea",
    "cold", "warm", "soup", "good", "bad", "love", "hate",
]  # fmt: skip
MOODS = ("positive", "negative")
# What the chat templates of the three series write, besides a padding token of llama-3.
MARKS = [
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip


def write_student(
    folder: Path, template: str | None = None, context: int = 4096, corpus: Sequence[str] = (), entries: int = 600
) -> Path:
    """Write a model of two layers over a vocabulary of bytes and marks, and of what is frequent in a corpus.

    `template` is one of those TRL carries.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries, special_tokens=["<s>", "</s>", "<pad>", *MARKS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    labels = [label for one in SETS.values() for label in one.labels]  # whole words, so that each begins differently
    tokenizer.train_from_iterator([*[f" {' '.join([*WORDS, *MOODS, *labels])}"] * 4, *corpus], trainer)
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "additional_special_tokens": MARKS}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    if template:
        fast.chat_template = files("trl").joinpath("chat_templates", f"{template}.jinja").read_text(encoding="utf-8")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def published_rows(count: int, first: int = 0, **changed: object) -> pl.DataFrame:
    """Return rows of config `default`, short and easy to learn: the mood of a sentence."""
    rows = []
    for number in range(first, first + count):
        text = " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 4 + number % 5))
        row = dict.fromkeys(PUBLISHED.names())
        row |= {"id": f"s{number}", "text": f"{text} {number}", "prompt": f"Mood?\n\n{text} {number}\n\nAnswer: "}
        row |= {"completion": MOODS[number % 2], "instruction_id": "i1", "task_type": "classification"}
        row |= {"difficulty": (number * 7 % 20) / 20, "licence": "cc0-1.0", **changed}
        rows.append(row)
    return conform(pl.DataFrame(rows, schema=PUBLISHED), PUBLISHED, "default")


def write_published(folder: Path, rejected: pl.DataFrame | None = None, **parts: pl.DataFrame) -> Path:
    """Write a dataset folder with config `default`, whose splits are `parts`, and perhaps `rejected`."""
    configs = {"default": parts} | ({} if rejected is None else {"rejected": {"train": rejected}})
    entries = []
    for name, splits in configs.items():
        files = [
            {"split": split, "path": [f"{name}/{file}" for file in write_shards(folder / name, split, rows)]}
            for split, rows in splits.items()
        ]
        entries.append({"config_name": name, "data_files": files, "default": name == "default"})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': entries})}---\n", "utf-8")
    (folder / "facts.json").write_text(json.dumps({"name": folder.name, "languages": ["en"]}), "utf-8")
    return folder


def rejected_rows(rows: pl.DataFrame, by: str = "selection") -> pl.DataFrame:
    """Return published rows as rejected ones."""
    return conform(rows.with_columns(rejected_by=pl.lit(by), reason=pl.lit("not drawn")), REJECTED, "rejected")
