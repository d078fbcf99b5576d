"""Facts: everything a card says, collected from tables and manifest. An unknown is None, never a guess."""

from typing import Any

import polars as pl

from hub_cards.rows import Tables
from stillhouse.coverage import coverage, unmet_quotas
from stillhouse.recipe import UNKNOWN, Quota

TEACHER_KEYS = (
    *("backend", "model", "revision", "series", "api", "system_prompt", "top_p", "top_k"),
    *("structured_output", "corrections"),
)
STUDENT_KEYS = ("student", "student_revision", "proxy", "proxy_revision", "dtype", "series", "max_length")
CURATION_KEYS = ("rate", "strategy", "scope", "peak", "diversity", "similarity", "duplicates", "encoder")
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def collect_facts(
    tables: Tables, manifest: dict[str, Any], recipe: dict[str, Any], findings: dict[str, Any]
) -> dict[str, Any]:
    """Return the facts of a run as plain data; `tables` are those of `rows.audited`."""
    found, quotas = coverage(tables), recipe["curation"]["quotas"]
    judged = tables["audit"].filter(pl.col("annotators").is_not_null())  # the others went with their instruction
    return {
        "name": recipe["name"],
        "licence": None if recipe["publish"]["licence"] == "unknown" else recipe["publish"]["licence"],
        "languages": sorted(set(tables["texts"]["language"]) - {UNKNOWN}),
        "text_licences": sorted(tables["texts"]["licence"].unique().to_list()),
        "domains": sorted(tables["texts"]["domain"].unique().to_list()),
        **_generation(recipe),
        "student": {key: recipe["curation"][key] for key in STUDENT_KEYS},
        "curation": {key: recipe["curation"][key] for key in CURATION_KEYS},
        "seed": recipe["seed"],
        "funnel": funnel(tables),
        "attribute_answers": manifest["stages"].get("attributes", {}).get("counts"),
        "invalid_reasons": _counts(tables["responses"].filter(pl.col("status") != "valid"), "reason"),
        "task_types": _kept_by_task_type(tables),
        "instructions_dropped": _counts(tables["instructions"].filter(~pl.col("kept")), "reason"),
        "coverage": found.to_dicts(),
        "quotas": {"asked": quotas, "unmet": unmet_quotas(found, [Quota.model_validate(quota) for quota in quotas])},
        "difficulty_quantiles": _quantiles(tables),
        "audit": {**findings, "outcomes": _counts(judged, "outcome")},
        "not_audited": tables["decisions"].filter("kept").join(tables["audit"], on="sample_id", how="anti").height,
        "versions": manifest.get("versions", {}),
        "tokens": {
            stage: {key: entry[key] for key in ("prompt_tokens", "output_tokens") if key in entry}
            for stage, entry in manifest["stages"].items()
            if entry.get("calls")
        },
    }


def _generation(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return how the answers were made; of imported ones that is not known."""
    if recipe["imported"]:
        return {"imported": True, "teacher": dict.fromkeys(TEACHER_KEYS), "sampling": {}}
    sampling = {stage: recipe[stage]["temperature"] for stage in ("attributes", "instructions", "responses")}
    return {"imported": False, "teacher": {key: recipe["teacher"][key] for key in TEACHER_KEYS}, "sampling": sampling}


def funnel(tables: Tables) -> dict[str, int]:
    """Return the number of rows that each step left, in the order of the steps; absent tables are left out."""
    first = ("texts", "attributes", "perspectives", "instructions")
    counts: dict[str, int] = {name: len(tables[name]) for name in first if name in tables}
    if "attributes" in tables:
        counts["attributes"] = tables["attributes"]["name"].count()
    if "instructions" in tables:
        counts["instructions"] = tables["instructions"].filter("kept").height
    if "responses" in tables:
        counts["responses"] = len(tables["responses"])
        counts["valid"] = tables["responses"].filter(pl.col("status") == "valid").height
    if "decisions" in tables:
        decisions = tables["decisions"]
        counts["unique"] = decisions.filter(~pl.col("stage").is_in(["validity", "near_duplicate"])).height
        counts["kept"] = decisions.filter("kept").height
    return counts


def _kept_by_task_type(tables: Tables) -> dict[str, int]:
    kept = tables["responses"].join(tables["decisions"].filter("kept").select("sample_id"), on="sample_id")
    return _counts(kept.join(tables["instructions"], on="instruction_id"), "task_type")


def _counts(frame: pl.DataFrame, column: str) -> dict[str, int]:
    counts = frame[column].value_counts().sort(["count", column], descending=[True, False])
    return dict(counts.iter_rows())


def _quantiles(tables: Tables) -> dict[str, list[float | None]]:
    """Return the quantiles of difficulty of the kept and of all scored samples."""
    scored = tables["scores"].join(tables["decisions"].select("sample_id", "kept"), on="sample_id")
    series = {"kept": scored.filter("kept")["difficulty"], "all": scored["difficulty"].drop_nulls()}
    return {name: [column.quantile(q, "linear") for q in QUANTILES] for name, column in series.items()}
