"""Facts: everything a card says, collected from tables and manifest. An unknown is None, never a guess."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hub_cards.licences import Terms, teacher_terms
from hub_cards.rows import Tables
from stillhouse.coverage import coverage, funnel, unmet_quotas
from stillhouse.sections import UNKNOWN, Quota, is_path

MODELS = {
    "teacher": ("model", "tokenizer"),
    "perspectives": ("encoder",),
    "curation": ("encoder", "student", "proxy"),
}
TEACHER_KEYS = (
    *("backend", "model", "revision", "series", "api", "system_prompt", "top_p", "top_k"),
    *("structured_output", "corrections"),
)
STUDENT_KEYS = ("student", "student_revision", "proxy", "proxy_revision", "dtype", "series", "max_length")
CURATION_KEYS = ("rate", "strategy", "scope", "peak", "diversity", "similarity", "duplicates", "encoder")
SPENT = ("seconds", "calls", "prompt_tokens", "output_tokens", "cost", "currency")
BINS = 20  # of the histogram of difficulty
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def collect_facts(
    tables: Tables, manifest: dict[str, Any], recipe: dict[str, Any], findings: dict[str, Any], gates: dict[str, Any]
) -> dict[str, Any]:
    """Return the facts of a run as plain data.

    `tables` are those of `gates.gated`, `recipe` that of `published_recipe`, `findings` those of the audit and `gates`
    those of the gates.
    """
    found, quotas = coverage(tables), recipe["curation"]["quotas"]
    versions = manifest.get("versions", {})
    judged = tables["audit"].filter(pl.col("annotators").is_not_null())  # the others went with their instruction
    return {
        "name": recipe["name"],
        "licence": None if recipe["publish"]["licence"] == "unknown" else recipe["publish"]["licence"],
        "languages": [language for language in _distinct(tables["texts"], "language") if language != UNKNOWN],
        "text_licences": _distinct(tables["texts"], "licence"),
        "domains": _distinct(tables["texts"], "domain"),
        **_generation(recipe, versions),
        "student": {
            **{key: recipe["curation"][key] for key in STUDENT_KEYS},
            **{
                f"{name}_revision": _revision(recipe["curation"], name, f"{name}_revision", versions)
                for name in ("student", "proxy")
            },
        },
        "curation": {key: recipe["curation"][key] for key in CURATION_KEYS},
        "seed": recipe["seed"],
        "funnel": funnel(tables),
        "attribute_answers": manifest["stages"].get("attributes", {}).get("counts"),
        "invalid_reasons": _counts(tables["responses"].filter(pl.col("status") != "valid"), "reason"),
        "task_types": _kept_by_task_type(tables),
        "instructions_dropped": _counts(tables["instructions"].filter(~pl.col("kept")), "reason"),
        "coverage": found.to_dicts(),
        "quotas": {"asked": quotas, "unmet": unmet_quotas(found, [Quota.model_validate(quota) for quota in quotas])},
        "score_quantiles": {name: _quantiles(tables, name) for name in ("difficulty", "perplexity", "ifd")},
        "difficulty_histogram": _histogram(tables),
        "sources": _sources(tables, recipe),
        "teacher_terms": None if recipe["imported"] else asdict(terms_of(recipe)),
        "recipe_digest": digest_of(recipe),
        "audit": {**findings, "arbiter": bool(findings.get("arbiter")), "outcomes": _counts(judged, "outcome")},
        "not_audited": _not_audited(tables),
        "gates": gates,
        "versions": versions,
        "stages": {
            stage: {key: entry.get(key) for key in SPENT}
            for stage, entry in manifest["stages"].items()
            if stage != "dataset"  # which is writing this
        },
    }


def _generation(recipe: dict[str, Any], versions: dict[str, str]) -> dict[str, Any]:
    """Return how the answers were made; of imported ones that is not known."""
    if recipe["imported"]:
        return {"imported": True, "teacher": dict.fromkeys(TEACHER_KEYS), "sampling": {}}
    sampling = {stage: recipe[stage]["temperature"] for stage in ("attributes", "instructions", "responses")}
    teacher = {key: recipe["teacher"][key] for key in TEACHER_KEYS}
    teacher["revision"] = _revision(teacher, "model", "revision", versions)
    return {"imported": False, "teacher": teacher, "sampling": sampling}


def _revision(section: dict[str, Any], model: str, revision: str, versions: dict[str, str]) -> str | None:
    """Return the stated revision of a model; that of a package is its version."""
    return section[revision] or versions.get((section[model] or "").removeprefix("package:"))


def _kept_by_task_type(tables: Tables) -> dict[str, int]:
    kept = tables["responses"].join(tables["decisions"].filter("kept").select("sample_id"), on="sample_id")
    return _counts(kept.join(tables["instructions"], on="instruction_id"), "task_type")


def _not_audited(tables: Tables) -> int:
    kept = tables["decisions"].filter("kept").select("sample_id")
    return int(kept.join(tables["audit"], on="sample_id", how="anti").select(pl.len()).collect().item())


def _distinct(table: pl.LazyFrame, column: str) -> list[str]:
    return sorted(table.select(pl.col(column).unique()).collect()[column])


def _counts(table: pl.LazyFrame, column: str) -> dict[str, int]:
    counts = table.group_by(column).len().sort(["len", column], descending=[True, False])
    return dict(counts.collect().iter_rows())


def _quantiles(tables: Tables, score: str) -> dict[str, list[float | None]]:
    """Return the quantiles of a score of the kept and of all scored samples."""
    return {name: [values.quantile(q, "linear") for q in QUANTILES] for name, values in _scores(tables, score).items()}


def _histogram(tables: Tables) -> dict[str, list[int]]:
    """Return how many kept and how many scored samples have a difficulty in each of BINS even parts of [0, 1]."""
    cuts = [number / BINS for number in range(BINS + 1)]
    return {
        name: [int(count) for count in np.histogram(values.to_numpy(), cuts)[0]]
        for name, values in _scores(tables, "difficulty").items()
    }


def _scores(tables: Tables, score: str) -> dict[str, pl.Series]:
    kept = tables["decisions"].select("sample_id", "kept")
    scored = tables["scores"].select("sample_id", score).join(kept, on="sample_id").select(score, "kept").collect()
    return {"kept": scored.filter("kept")[score].drop_nulls(), "all": scored[score].drop_nulls()}


def _sources(tables: Tables, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Return where texts came from, and how many did."""
    counts = _counts(tables["texts"], "source")
    found = []
    for source in recipe["texts"]["sources"]:
        name = source["dataset"] or Path(source["path"]).name
        known = {key: None if source[key] == UNKNOWN else source[key] for key in ("licence", "language", "revision")}
        found.append({"name": name, "is_dataset": bool(source["dataset"]), **known, "texts": counts.get(name, 0)})
    return found


def terms_of(recipe: dict[str, Any]) -> Terms:
    """Return what is known of the terms of a recipe's teacher."""
    return teacher_terms(recipe["teacher"]["model"], recipe["publish"]["teacher_licence"])


def published_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as it may leave: without addresses and people, and files without their folders."""
    found: dict[str, Any] = json.loads(json.dumps(recipe))
    for source in (*found["texts"]["sources"], *found["publish"]["leaks"]["evaluation"]):
        source["path"] = source["path"] and Path(source["path"]).name
    for section, keys in MODELS.items():
        found[section] |= {key: _shown_model(found[section][key]) for key in keys}
    found["teacher"]["base_url"] = found["teacher"]["base_url"] and "http://localhost:8000/v1"
    found["review"] |= {"url": None, "arbiter": None}
    return found


def _shown_model(reference: Any) -> Any:
    if isinstance(reference, list):
        return [_shown_model(one) for one in reference]
    return Path(reference).name if isinstance(reference, str) and is_path(reference) else reference


def digest_of(recipe: dict[str, Any]) -> str:
    """Return the SHA-256 of what a recipe says of the rows: not its name, nor how fast and where it ran."""
    told = {key: value for key, value in recipe.items() if key not in ("name", "runtime")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
