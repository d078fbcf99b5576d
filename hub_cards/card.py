"""Cards: a pure function of facts and a template. Untrusted text is shown as text, an unknown is called unknown."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from hub_cards.licences import card_licence

TEMPLATES = Path(__file__).parent / "templates"
SIZES = (
    *((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")),
    *((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B")),
)
LANGUAGE = re.compile(r"[a-z]{2,3}")  # ISO 639; the Hub takes no card with anything else
LITERAL = "\\`*_{}[]()<>!|~$&"  # what Markdown inside a line, and the formulas of the Hub, would read as syntax


FIELDS = (
    ("id", "string", "key of the sample, the same over versions"),
    ("prompt", "string", "what the student reads: instruction and text; it was scored on exactly this"),
    ("completion", "string", "what it is to write"),
    ("messages", "list of role and content", "the same as a conversation"),
    ("text", "string", "the user text"),
    ("instruction_id", "string", "key in config `instructions`"),
    ("task_name", "string", "name of the task"),
    ("task_type", "string", "analysis, classification, scoring, extraction or structured"),
    ("perspective", "string", "cluster of attributes that the instruction is made of"),
    ("attributes", "list of strings", "attributes that conditioned the instruction"),
    ("domain", "string", "domain of the text"),
    ("teacher", "string", "model that wrote the completion"),
    ("difficulty", "float, 0 to 1", "mean rank score of the completion's tokens under the student: higher is harder"),
    ("perplexity", "float, from 1", "of the completion, under the student"),
    ("ifd", "float", "perplexity with the prompt over perplexity without it"),
    ("audit", "string", "accepted or corrected by people; not_audited: no verdict of a person"),
    ("licence", "string", "licence of the text"),
)


def render(template: str, metadata: Mapping[str, Any], **content: Any) -> str:
    """Return a README: YAML metadata without what is empty, and the text of a template."""
    header = yaml.safe_dump(
        {key: value for key, value in metadata.items() if value}, sort_keys=False, allow_unicode=True
    )
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=False, trim_blocks=True
    )
    environment.filters |= {
        "literal": literal,
        "word": lambda value: shlex.quote(" ".join(str(value).split())),  # of a command
        "figure": lambda value: "unknown" if value is None else f"{value:,.3f}",
        "percent": lambda value: "unknown" if value is None else f"{value:.1%}",
        "count": lambda value: "unknown" if value is None else f"{value:,}",
    }
    body = environment.get_template(template).render(**content)
    return f"---\n{header}---\n\n{body.rstrip()}\n"


def literal(value: object) -> str:
    """Show untrusted text as text: no Markdown, HTML or table syntax of its own, on one line."""
    text = "unknown" if value is None else " ".join(str(value).split())
    return "".join(f"&#{ord(character)};" if character in LITERAL else character for character in text)


def dataset_card(
    facts: Mapping[str, Any], configs: Mapping[str, Mapping[str, Sequence[str]]], pictures: Sequence[str]
) -> str:
    """Return the README of a dataset by the Hub's metadata specification.

    `configs` names the files of each split of each config, `pictures` the files of plots.
    """
    rows = facts["funnel"]["kept"]
    metadata = {
        **card_licence(facts["licence"] or ""),
        "language": _languages(facts["languages"]),
        "pretty_name": facts["name"],
        "size_categories": [next((label for limit, label in SIZES if rows < limit), "1B<n<10B")],
        "task_categories": ["text-generation", "text-classification"],
        "source_datasets": [source["name"] for source in facts["sources"] if source["is_dataset"]] or ["original"],
        "annotations_creators": _annotators(facts),
        "library_name": "stillhouse",
        "tags": ["distillation", "synthetic", "stillhouse"],
        "configs": [
            {
                "config_name": name,
                "data_files": [
                    {"split": split, "path": [f"{name}/{file}" for file in files]} for split, files in splits.items()
                ],
                **({"default": True} if name == "default" else {}),
            }
            for name, splits in configs.items()
        ],
    }
    content = {"facts": facts, "configs": configs, "pictures": pictures, "fields": FIELDS}
    return render("dataset_card.md.jinja", metadata, **content)


def _languages(names: Sequence[str]) -> list[str]:
    return [name for name in names if LANGUAGE.fullmatch(name)]


def _annotators(facts: Mapping[str, Any]) -> list[str]:
    machine = [] if facts["imported"] else ["machine-generated"]
    return machine + (["expert-generated"] if facts["audit"]["answered"] else [])


def model_card(facts: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Return the README of a trained student by the Hub's metadata specification; `facts` are the training's.

    Models and datasets that are not on the Hub are named in the text only: metadata would link to nothing.
    """
    base, dataset = facts["base_model"], facts["dataset"]
    metadata = {
        "language": _languages(dataset["facts"]["languages"]),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base["name"] if base["on_hub"] else None,
        "base_model_relation": "finetune" if base["on_hub"] else None,
        "datasets": [dataset["name"]] if dataset["on_hub"] else None,
        "tags": ["distillation", "stillhouse"],
        "model-index": _model_index(facts),
    }
    content = {"facts": facts, "base": base, "dataset": dataset, "told": dataset["facts"], "pictures": pictures}
    content["benchmark"] = facts.get("benchmark")
    return render("model_card.md.jinja", metadata, **content)


def _model_index(facts: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return what was measured, as the Hub lists it."""
    results = [*_held_out_result(facts), *_benchmark_results(facts.get("benchmark"))]
    return [{"name": facts["name"], "results": results}] if results else None


def _held_out_result(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    held, dataset = facts["held_out"], facts["dataset"]
    if held is None:
        return []
    about = {"name": dataset["facts"]["name"] or dataset["name"], "type": dataset["name"], "split": held["split"]}
    about |= {"revision": dataset["revision"]} if dataset["revision"] else {}
    metric = {"type": "loss", "name": "Loss per token of completions", "value": held["after"]}
    return [{"task": {"type": "text-generation"}, "dataset": about, "metrics": [metric]}]


def _benchmark_results(benchmark: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the F1 of each set of a benchmark. Part of a test split is named so: its figure is not comparable."""
    if benchmark is None:
        return []
    part = f", first {benchmark['limit']} rows" if benchmark["limit"] else ""
    name = f"F1, {benchmark['shots']}-shot, mean of {len(benchmark['seeds'])} seeds{part}"
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": f"{benchmark['benchmark']} {key}", "type": benchmark["benchmark"], "split": "test"},
            "metrics": [{"type": "f1", "name": name, "value": round(found["f1"]["value"], 4)}],
        }
        for key, found in benchmark["sets"].items()
    ]
