"""What differs between two runs, or between a run and a cut of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from stillhouse.coverage import funnel
from stillhouse.errors import InputError
from stillhouse.recipe import load_recipe
from stillhouse.schemas import DECISIONS, conform
from stillhouse.sections import is_path
from stillhouse.store import RunFolder

SCORES = ("difficulty", "perplexity", "ifd", "output_tokens")
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
SPENT = ("seconds", "calls", "prompt_tokens", "output_tokens")
MOVED_SHOWN, CHANGED_SHOWN = 20, 10  # examples
OF_THE_RUN = ("decisions", "audit", "gates")  # its own cut, and what was made of it
PATHS = {"path", "model", "tokenizer", "encoder", "student", "proxy"}  # keys whose values may be files
NOT_AUDITED = "not audited"  # as the audit's findings say it
UNSAID = {"teacher.base_url", "review.url", "review.arbiter"}  # addresses and people, which change no row
Row = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a run, or a cut of one."""

    name: str
    tables: Mapping[str, pl.DataFrame]  # those that are there, of schemas.TABLES
    manifest: Mapping[str, Any]  # with `findings`, what the audit found, where there is one
    recipe: Mapping[str, Any]  # recipe.model_dump(mode="json")


def side_of(path: Path) -> Side:
    """Return a run folder, or RUN/cuts/NAME, as it can be compared. Raises InputError where it is neither."""
    if (path / "cut.json").exists():
        return _cut_of(path.resolve())
    if not (path / "manifest.json").exists():
        raise InputError(f"{path} is neither a run folder (with manifest.json) nor a cut of one (RUN/cuts/NAME)")
    folder = RunFolder(path.resolve())
    manifest, made = folder.manifest(), folder.made()
    findings = {"findings": folder.findings()} if "audit" in made else {}
    tables = {name: folder.read_table(name) for name in made}
    return Side(folder.path.name, tables, manifest | findings, _recipe(folder))


def _cut_of(path: Path) -> Side:
    folder = RunFolder(path.parent.parent)
    if not (folder.path / "manifest.json").exists():
        raise InputError(f"{path} is a cut outside its run; give RUN/cuts/NAME")
    try:
        about = json.loads((path / "cut.json").read_text(encoding="utf-8"))
        decisions = conform(pl.read_parquet(path / "decisions.parquet", glob=False), DECISIONS, "decisions")
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(
            f"{folder.shown(path)} is damaged ({error}); delete it and make it again with `stillhouse select`"
        ) from error
    manifest = folder.manifest()
    if about["scores"] != manifest["stages"].get("scores", {}).get("fingerprint"):
        shown = folder.shown(path)
        raise InputError(f"{shown} was cut from earlier scores; delete it and make it again with `stillhouse select`")
    tables = {name: folder.read_table(name) for name in folder.made() if name not in OF_THE_RUN}
    tables["decisions"] = decisions
    settings = about["curation"]
    if about["control_of"]:
        kind = path.name.removeprefix(f"{about['control_of']}-")
        settings |= {"strategy": f"{kind}, as many as in the cut {about['control_of']}", "quotas": []}
    return Side(f"{folder.path.name}/{path.name}", tables, manifest, _recipe(folder) | {"curation": settings})


def _recipe(folder: RunFolder) -> Row:
    return load_recipe(folder.recipe_path).model_dump(mode="json")


def compare(before: Side, after: Side) -> dict[str, Any]:
    """Return what differs, as plain JSON-able data."""
    sides = (before, after)
    kept = [_kept(side) for side in sides]
    scores = [_quantiles(side, rows) for side, rows in zip(sides, kept, strict=True)]
    return {
        "names": [side.name for side in sides],
        "settings": _differing("key", *(_settings(side.recipe) for side in sides)),
        "versions": _differing("key", *(side.manifest.get("versions", {}) for side in sides)),
        "funnel": _beside("step", *(funnel(side.tables) for side in sides)),
        "task_types": _beside("task_type", *(_counts(rows, "task_type") for rows in kept), none=0),
        "perspectives": _beside("perspective", *(_counts(rows, "perspective") for rows in kept), none=0),
        "scores": _beside("score", *scores),
        **_moves(before, after, *kept),
        "changed_answers": _changed(before, after),
        "cost": _beside("stage", *(_cost(side.manifest) for side in sides)),
        "audit": {name: _audit(side) for name, side in zip(("before", "after"), sides, strict=True)},
    }


def is_same(difference: Mapping[str, Any]) -> bool:
    """Say whether nothing differs but, maybe, what it cost."""
    lists = ("settings", "versions", "funnel", "task_types", "perspectives", "scores")
    pairs = [difference["audit"], *(entry for name in lists for entry in difference[name])]
    kept = difference["kept"]
    moved = kept["came_in"] or kept["went_out"] or difference["changed_answers"]["count"]
    return not moved and all(pair["before"] == pair["after"] for pair in pairs)


def _beside(label: str, before: Mapping[str, Any], after: Mapping[str, Any], *, none: Any = None) -> list[Row]:
    """Return the values of both sides by key; `none` stands where one has no such key."""
    return [{label: key, "before": before.get(key, none), "after": after.get(key, none)} for key in {**before, **after}]


def _differing(label: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Row]:
    return [row for row in _beside(label, before, after) if row["before"] != row["after"]]


def _settings(recipe: Mapping[str, Any]) -> Row:
    return {key: value for key, value in _flat(recipe) if key not in UNSAID}


def _flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Return the settings below a key with their full names; of a file its name only."""
    if isinstance(value, Mapping):
        return [pair for name, part in value.items() for pair in _flat(part, f"{key}.{name}".lstrip("."))]
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [pair for number, part in enumerate(value) for pair in _flat(part, f"{key}[{number}]")]
        is_plain = all(name == f"{key}[{number}]" for number, (name, _) in enumerate(parts))
        return [(key, [part for _, part in parts])] if is_plain else parts
    is_file = isinstance(value, str) and key.rpartition(".")[2].partition("[")[0] in PATHS and is_path(value)
    return [(key, Path(value).name if is_file else value)]


def _kept(side: Side) -> pl.DataFrame:
    """Return the kept samples with what they cover and their scores; none where nothing is decided yet."""
    tables = side.tables
    if "decisions" not in tables:
        return pl.DataFrame(schema=dict.fromkeys(("sample_id", "task_type", "perspective", *SCORES), pl.String))
    heads = tables["perspectives"].select("perspective_id", perspective="head")
    covers = tables["instructions"].select("instruction_id", "perspective_id", "task_type")
    covers = covers.join(heads, on="perspective_id", how="left")
    return (
        tables["responses"].select("sample_id", "instruction_id", "prompt", "output")
        .join(tables["decisions"].filter("kept").select("sample_id"), on="sample_id", how="semi")
        .join(covers, on="instruction_id", how="left")
        .join(tables["scores"].select("sample_id", *SCORES), on="sample_id", how="left")
        .sort("sample_id")
    )  # fmt: skip


def _counts(rows: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(rows.group_by(column).len().sort(["len", column], descending=[True, False]).iter_rows())


def _quantiles(side: Side, rows: pl.DataFrame) -> dict[str, list[float | None] | None]:
    found = {name: rows[name].drop_nulls() for name in SCORES}
    return {
        name: [values.quantile(q, "linear") for q in QUANTILES] if len(values) else None
        for name, values in found.items()
    }


def _moves(before: Side, after: Side, was: pl.DataFrame, now: pl.DataFrame) -> Row:
    """Return how many kept samples are the same, and examples of those that moved, with why they are out."""
    known = [_answers(side)["sample_id"].to_list() for side in (before, after)]
    came, gone = (one.join(other, on="sample_id", how="anti") for one, other in ((now, was), (was, now)))
    decided = all("decisions" in side.tables for side in (before, after))
    comparable = decided and not set(known[0]).isdisjoint(known[1])
    moved = [*_examples(came, "in", before), *_examples(gone, "out", after)] if comparable else []
    counts = {"both": len(now) - len(came), "came_in": len(came), "went_out": len(gone), "comparable": comparable}
    return {"kept": counts, "moved": moved}


def _examples(rows: pl.DataFrame, direction: str, out: Side) -> list[Row]:
    """Return the first of the rows with the reason why they are out on the other side."""
    shown = rows.head(MOVED_SHOWN).select("sample_id", "prompt", "output")
    why = out.tables["decisions"].select("sample_id", why=pl.concat_str("stage", "reason", separator=": "))
    joined = shown.join(why, on="sample_id", how="left", maintain_order="left")
    joined = joined.with_columns(pl.col("why").fill_null(f"{out.name} has no such sample"))
    return [
        {"sample_id": row["sample_id"], "direction": direction, **{k: row[k] for k in ("prompt", "output", "why")}}
        for row in joined.iter_rows(named=True)
    ]


def _answers(side: Side) -> pl.DataFrame:
    empty = pl.DataFrame(schema=dict.fromkeys(("sample_id", "prompt", "output"), pl.String))
    return side.tables.get("responses", empty).select("sample_id", "prompt", "output")


def _changed(before: Side, after: Side) -> Row:
    """Return how many samples have another output on the other side, with examples."""
    both = _answers(before).join(_answers(after).drop("prompt"), on="sample_id", suffix="_after")
    changed = both.filter(pl.col("output").ne_missing(pl.col("output_after"))).sort("sample_id")
    shown = changed.head(CHANGED_SHOWN).rename({"output": "before", "output_after": "after"})
    return {"count": len(changed), "examples": shown.to_dicts()}


def _cost(manifest: Mapping[str, Any]) -> dict[str, Row]:
    return {stage: {name: entry.get(name) for name in SPENT} for stage, entry in manifest["stages"].items()}


def _audit(side: Side) -> str | None:
    """Return what the audit decided; None where there is none."""
    decision = str(side.manifest.get("findings", {}).get("decision", NOT_AUDITED))
    return None if decision == NOT_AUDITED else decision
