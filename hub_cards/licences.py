"""The licence gate: every source has a licence, the card names one that the Hub knows, and the teacher has terms.

What is known of teachers' terms is in teacher_terms.yaml, with the date it was compiled. It is no legal advice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from stillhouse.errors import InputError
from stillhouse.sections import UNKNOWN, TextSource, is_path

TERMS_FILE = Path(__file__).parent / "teacher_terms.yaml"
Outputs = Literal["allowed", "restricted", "forbidden", "unknown"]

# https://huggingface.co/docs/hub/repositories-licenses, as of November 2026; huggingface_hub has no such list.
HUB_LICENCES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma
    """.split()  # noqa: SIM905  # eighty quoted strings are harder to read
)
SPDX_NAMES = {"odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl"}  # that the Hub writes otherwise


@dataclass(frozen=True)
class Terms:
    """What is known of a teacher's terms. `outputs`: may other models be trained on what it writes?

    `source` says who told it: the `recipe`, the `list` of this package, or nobody (`unknown`).
    """

    family: str | None
    licence: str | None
    outputs: Outputs
    note: str
    url: str | None
    source: Literal["recipe", "list", "unknown"]


def card_licence(licence: str) -> dict[str, str]:
    """Return the licence as metadata of a card: the Hub's id, or `other` and its name; nothing where it is unknown."""
    name = licence.strip().lower()
    if name in ("", UNKNOWN):
        return {}
    name = SPDX_NAMES.get(name, re.sub(r"^(a?gpl|lgpl)(-\d\.\d)-(only|or-later)$", r"\1\2", name))
    if name in HUB_LICENCES:
        return {"license": name}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.+-]+", "-", name).strip("-")}


def check_source_licences(sources: Sequence[TextSource]) -> None:
    """Raise InputError that names every source of texts without a stated licence, and its key."""
    missing = [
        f"texts.sources[{number}].licence: the licence of {source.path or source.dataset} is not stated"
        for number, source in enumerate(sources)
        if source.licence.strip().lower() in ("", UNKNOWN)
    ]
    if missing:
        raise InputError("\n".join([*missing, "State each as an SPDX id, for example CC-BY-4.0, or leave it out"]))


def teacher_terms(model: str, stated: str | None) -> Terms:
    """Return the terms of a teacher: as `stated` in the recipe, else as known by its name, else unknown. No guess.

    Somebody else's copy or tuned model of a permissive family may have any terms, so they are unknown.
    """
    if stated and stated.strip().lower() != UNKNOWN:
        return _stated_terms(stated.strip())
    name, owner = re.sub(r"[_:\s]", "-", model.split("/")[-1].lower()), _owner(model)
    family = next((one for one in _known()["families"] if re.search(one["name"], name)), None)
    if family is None:
        return _unknown("Nothing is known of the terms of this teacher.")
    if family["outputs"] == "allowed" and owner not in (None, *family["owners"]):
        return _unknown(f"By its name it is a copy or a tuned model of {family['family']}, whose terms may be others.")
    return _of_family(family, "list")


def _stated_terms(stated: str) -> Terms:
    licence = card_licence(stated).get("license", "other")
    family = next((one for one in _known()["families"] if one["licence"] == licence), None)
    if licence in _known()["permissive"]:
        note = "The licence says nothing against training on outputs."
        return Terms(None, licence, "allowed", note, None, "recipe")
    if family and licence != "other":
        return _of_family(family, "recipe")
    return Terms(None, stated, "unknown", "What these terms say of outputs is not known here.", None, "recipe")


def _of_family(family: dict[str, Any], source: Literal["recipe", "list"]) -> Terms:
    keys = ("family", "licence", "outputs", "note", "url")
    return Terms(**{key: family[key] for key in keys}, source=source)


def _unknown(note: str) -> Terms:
    return Terms(None, None, "unknown", note, None, "unknown")


def _owner(model: str) -> str | None:
    """Return who publishes a model; None of a name at a server or a package, which is the maker's own."""
    if is_path(model):
        return "a folder"
    return model.split("/")[0].lower() if "/" in model else None


@cache
def _known() -> dict[str, Any]:
    known: dict[str, Any] = yaml.safe_load(TERMS_FILE.read_text(encoding="utf-8"))
    return known
