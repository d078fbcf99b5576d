"""What a card says of a trained student: where it comes from, what was done to it, what it measured."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.data import Source

PACKAGES = ("stillhouse", "torch", "transformers", "trl", "datasets")


def write_record(
    folder: Path, student: str, model: Any, tokenizer: Any, source: Source, done: Mapping[str, Any]
) -> None:
    """Write facts.json beside a trained student. What is not known is None; `done` is what the training says of itself.

    Models and datasets that lie in folders are named without their place.
    """
    facts = {
        "name": folder.name,
        "base_model": {"name": _shown(student), "on_hub": _is_on_hub(student), "revision": _revision(model)},
        "dataset": {
            "name": _shown(source.name),
            "on_hub": source.revision is not None,
            "revision": source.revision,
            "files": source.files,
            "facts": _of_dataset(source.facts),
        },
        "has_chat_template": bool(tokenizer.chat_template),
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": _device(model),
        **done,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _of_dataset(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a student's card repeats of its dataset's facts."""
    teacher, audit, funnel = (facts.get(key) or {} for key in ("teacher", "audit", "funnel"))
    return {
        "name": facts.get("name"),
        "licence": facts.get("licence"),
        "languages": facts.get("languages") or [],
        "teacher": teacher.get("model"),
        "teacher_terms": (facts.get("teacher_terms") or {}).get("note"),
        "kept": funnel.get("kept"),
        "audit": audit.get("decision"),
        "recipe_digest": facts.get("recipe_digest"),
    }


def _shown(reference: str) -> str:
    return Path(reference).name if Path(reference).expanduser().exists() else reference


def _is_on_hub(student: str) -> bool:
    return not student.startswith("package:") and not Path(student).expanduser().exists()


def _revision(model: Any) -> str | None:
    return getattr(model.config, "_commit_hash", None)


def _device(model: Any) -> str:
    import torch

    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device.type)
