"""What `stillhouse doctor` finds out about this machine: versions, packages, devices, offline models, disk, memory."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from stillhouse import __version__
from stillhouse.encoder import ENCODER_PACKAGES
from stillhouse.errors import StillhouseError
from stillhouse.models import GGUF_PACKAGES, cache_folder, import_package

State = Literal["ok", "warning", "fault", "not asked"]

COLLECTIONS = {"all", "dev", "docs"}  # extras that no command needs
NAMES_SHOWN = 4  # of packages
GB = 1e9
LITTLE_DISK, NO_DISK = 5 * GB, 0.5 * GB
LITTLE_MEMORY = 4 * GB  # teacher, student and encoder of the demo take 3 GB


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, how it is, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examined(name: str, look: Callable[[], Check]) -> Check:
    """Return what `look` finds: an error with a message for users is a fault, what is not installed is not asked."""
    try:
        return look()
    except StillhouseError as error:
        return Check(name, "fault", str(error))
    except OSError as error:
        return Check(name, "fault", f"{error.filename or 'system'}: {error.strerror or error}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in sys.modules:  # it is there, and damaged
            raise
        return Check(name, "not asked", f"{package} is not installed", "pip install 'stillhouse[all]'")


def check_machine(runs: Path, needed: frozenset[str]) -> Iterator[Check]:
    """Yield the checks of this machine; runs go into `runs`, and the extras `needed` have to be there."""
    yield Check("versions", "ok", f"stillhouse {__version__}, Python {platform.python_version()}, {platform.system()}")
    yield from _extras(needed)
    yield _devices()
    for name in (*GGUF_PACKAGES, *ENCODER_PACKAGES):
        yield examined(name, partial(_offline, name))
    yield _disk("disk for runs", runs)
    yield _disk("disk for models", cache_folder())
    yield _memory()


def _extras(needed: frozenset[str]) -> Iterator[Check]:
    try:
        about = metadata.metadata("stillhouse")
    except metadata.PackageNotFoundError:
        yield Check("packages", "warning", "stillhouse is not installed as a package", "pip install 'stillhouse[all]'")
        return
    wanted = [Requirement(line) for line in about.get_all("Requires-Dist") or []]
    for extra in about.get_all("Provides-Extra") or []:
        if extra not in COLLECTIONS:
            mine = [one for one in wanted if one.marker and one.marker.evaluate({"extra": extra})]
            yield _extra(extra, mine, extra in needed)


def _extra(extra: str, wanted: list[Requirement], is_needed: bool) -> Check:
    """Compare the packages of an extra with those that are installed."""
    missing, differing = [], []
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            differing.append(f"{requirement.name} {version}, where {requirement.specifier} fits")
    remedy = f"pip install 'stillhouse[{extra}]'"
    if missing:
        found = f"{len(missing)} of {len(wanted)} packages are missing: {_some(missing)}"
        return Check(f"extra {extra}", "fault" if is_needed else "warning", "; ".join([found, *differing]), remedy)
    if differing:
        return Check(f"extra {extra}", "warning", "; ".join(differing), remedy)
    return Check(f"extra {extra}", "ok", f"{len(wanted)} packages, in versions that fit")


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _devices() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("devices", "warning", "PyTorch is not installed", "pip install 'stillhouse[curate]'")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("devices", "fault", f"PyTorch cannot be loaded: {error}", "pip install --force-reinstall torch")
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        half = "" if torch.cuda.is_bf16_supported() else "out"
        told = ", ".join(f"{card.name} ({card.total_memory / GB:.0f} GB)" for card in cards)
        return Check("devices", "ok", f"cuda: {told}, with{half} bfloat16; PyTorch {torch.__version__}")
    if torch.backends.mps.is_available():
        return Check("devices", "ok", f"mps; PyTorch {torch.__version__}")
    known = torch.cpu.get_capabilities()
    half = "fast" if known.get("avx512_bf16") or known.get("amx_bf16") else "slow"
    return Check("devices", "ok", f"no GPU; {os.cpu_count()} CPU cores, bfloat16 {half}; PyTorch {torch.__version__}")


def _offline(name: str) -> Check:
    """Look at a model that comes as a package."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "warning", "not installed; recipes use it that name no other model", f"pip install {name}")
    if name not in GGUF_PACKAGES:
        return Check(name, "ok", version)
    assembled = cache_folder() / str(import_package(f"package:{name}", GGUF_PACKAGES).MODEL_NAME)
    if assembled.with_suffix("").exists():
        state = "assembled and converted"
    elif assembled.exists():
        state = "assembled; its first use as a student converts it, which takes a minute"
    else:
        state = "not assembled yet; its first use does it, which takes a minute or two"
    return Check(name, "ok", f"{version}, {state}")


def _disk(name: str, folder: Path) -> Check:
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.exists() else 0
    state: State = "fault" if free < NO_DISK else "warning" if free < LITTLE_DISK else "ok"
    remedy = "" if state == "ok" else "make room: a run, a model and a trained student take gigabytes"
    return Check(name, state, f"{free / GB:.1f} GB free, {used / GB:.1f} GB used in {folder}", remedy)


def _memory() -> Check:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory < LITTLE_MEMORY:
        return Check(
            "memory", "warning", f"{memory / GB:.1f} GB", "let an endpoint be the teacher, or take a smaller student"
        )
    return Check("memory", "ok", f"{memory / GB:.0f} GB")
