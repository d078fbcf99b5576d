"""What a card says of a trained student: where it comes from, what was done to it, what it measured."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from stillhouse.store import write_atomically, write_json
from training.preparing import Prepared
from training.settings import PLACES, Training

SETTINGS_FILE = "training.yaml"  # all settings of a training, to do it again
PACKAGES = ("stillhouse", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def write_record(settings: Training, trainer: Any, prepared: Prepared, student: Any, report: Mapping[str, Any]) -> None:
    """Write facts.json beside a trained `student`. What is not known is None; `report` is what was measured.

    Models and datasets that lie in folders are named without their place.
    """
    source, folder = prepared.source, Path(settings.out)
    facts = {
        "name": folder.name,
        "base_model": {
            "name": _shown(settings.student),
            "on_hub": _is_on_hub(settings.student),
            "revision": _revision(prepared.model),
        },
        "dataset": {
            "name": _shown(source.name),
            "on_hub": source.revision is not None,
            "revision": source.revision,
            "files": source.files,
            "facts": _of_dataset(source.facts),
        },
        "has_chat_template": bool(prepared.tokenizer.chat_template),
        "parameters": student.num_parameters(),
        "dtype": str(student.dtype).removeprefix("torch."),
        "device": _device(trainer.args.device),
        "processes": trainer.args.world_size,
        "peak_memory": _peak_memory(trainer.args.device),
        "rows": len(prepared.train.rows),
        "too_long": prepared.train.too_long,
        "unusable": prepared.train.unusable,
        **report,
        "settings": {
            **settings.model_dump(mode="json", exclude={*PLACES, "device"}, exclude_none=True),
            **({"series": prepared.series} if prepared.series else {}),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    again = yaml.safe_dump(facts["settings"], sort_keys=False)
    write_atomically(
        folder / SETTINGS_FILE, f"# stillhouse train DATASET --student MODEL --config {SETTINGS_FILE}\n{again}".encode()
    )
    write_json(folder / "facts.json", facts)


def is_first_process() -> bool:
    """Say whether this process is the one that speaks and writes, of those that `accelerate launch` started."""
    return os.environ.get("RANK", "0") == "0"


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


def _device(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)


def _peak_memory(device: Any) -> int | None:
    """Return the bytes of GPU memory that were taken at most, by this process; None on a CPU."""
    import torch

    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
