"""Cuts: other choices from the scores of a run, kept beside its own, with controls of the same size."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import polars as pl

from stillhouse.errors import InputError
from stillhouse.recipe import from_options, load_recipe
from stillhouse.sections import Curation
from stillhouse.store import RunFolder, write_atomically, write_parquet

if TYPE_CHECKING:
    from curation.vectors import SampleVectors

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,69}")
BINS = np.linspace(0.0, 1.0, 11)  # of difficulty
DIVERSITY_ROWS = 2_000  # at most, that diversity is measured on
RUN = "the run"  # what the cut is called that the recipe made


@dataclass(frozen=True)
class Cut:
    """A named choice: its ledger, the curation settings and the counts; a control also says of which cut."""

    name: str
    decisions: pl.DataFrame
    settings: Curation
    counts: dict[str, int | float]
    control_of: str | None = None


def make_cuts(folder: RunFolder, changes: dict[str, Any], name: str | None, controls: Sequence[str]) -> list[Cut]:
    """Decide anew with the recipe's settings and `changes`; return the cut and its controls, which are on disk then.

    Needs no model: scores and embeddings are those of the run. Raises InputError where a change is not possible, a
    name is taken by other settings, or the run is not scored yet.
    """
    from curation.decisions import control, decide, samples_of, tables_for
    from curation.selection import Control
    from curation.vectors import vectors_of

    unknown = set(controls) - set(get_args(Control))
    if unknown:
        raise InputError(
            f"--controls: no control is called {', '.join(sorted(unknown))}; there are: {', '.join(get_args(Control))}"
        )
    if "scores" not in folder.manifest()["stages"]:
        raise InputError(f"{folder.path} has no scores of its present responses; `stillhouse run` makes them")
    recipe = load_recipe(folder.recipe_path)
    settings = from_options(Curation, {**recipe.curation.model_dump(), **changes})
    name = name or _name_of(settings)
    if not all(NAME.fullmatch(one) for one in (name, *(f"{name}-{kind}" for kind in controls))):
        raise InputError(f"--name {name}: letters, digits, dot, dash and underscore make a name, up to 70 of them")
    samples = samples_of({table: folder.scan_table(table) for table in tables_for(settings)})
    vectors = vectors_of(folder.vectors_path)
    table, counts = decide(samples, settings, recipe.seed, vectors)
    cuts = [Cut(name, table, settings, dict(counts))]
    for kind in controls:
        table, found = control(samples, settings, kind, int(counts["kept"]), recipe.seed, vectors)  # type: ignore[arg-type]
        cuts.append(Cut(f"{name}-{kind}", table, settings, dict(found), name))
    for cut in cuts:
        _write(folder, cut)
    return cuts


def _name_of(settings: Curation) -> str:
    """Return the name of a cut that was given none: what makes it different."""
    parts = [settings.strategy, f"{settings.rate:g}"]
    parts += ["task"] if settings.scope == "task" else []
    parts += [f"peak{settings.peak:g}"] if settings.strategy == "soft" and settings.peak < 1 else []
    parts += [f"diversity{settings.diversity:g}"] if settings.strategy == "facility" else []
    return "-".join(parts)


def _write(folder: RunFolder, cut: Cut) -> None:
    path = folder.cut_path(cut.name)
    about = {
        "curation": cut.settings.model_dump(mode="json"),
        "counts": cut.counts,
        "control_of": cut.control_of,
        "scores": _scores_of(folder),
    }
    if (path / "cut.json").exists():
        known = json.loads((path / "cut.json").read_text(encoding="utf-8"))
        if known["curation"] != about["curation"]:
            raise InputError(
                f"{folder.shown(path)} holds a cut with other settings; give this one another --name, or delete that"
            )
    shutil.rmtree(path / "dataset", ignore_errors=True)  # of the rows that were kept before
    path.mkdir(parents=True, exist_ok=True)
    write_parquet(path / "decisions.parquet", cut.decisions)
    content = json.dumps({**about, "made_at": datetime.now(UTC).isoformat(timespec="microseconds")}, indent=2)
    write_atomically(path / "cut.json", content.encode())


def _scores_of(folder: RunFolder) -> str | None:
    """Return the fingerprint of the scores that a cut is made of."""
    entry = folder.manifest()["stages"].get("scores", {})
    return str(entry["fingerprint"]) if "fingerprint" in entry else None


def last_cut(folder: RunFolder) -> tuple[str, pl.DataFrame] | None:
    """Return name, and per sample whether it was kept, of the cut made last: the run's own where there is no other.

    A control is not a cut that one goes on from, and a cut of earlier scores is past.
    """
    known = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in folder.path.glob("cuts/*/cut.json")}
    scores = _scores_of(folder)
    mine = {path: about for path, about in known.items() if about["control_of"] is None and about["scores"] == scores}
    made = {about["made_at"]: path for path, about in mine.items()}
    if made:
        path = made[max(made)]
        return path.name, pl.read_parquet(path / "decisions.parquet", columns=["sample_id", "kept"], glob=False)
    if "decisions" not in folder.manifest()["stages"]:
        return None
    return RUN, folder.scan_table("decisions").select("sample_id", "kept").collect()


@dataclass(frozen=True)
class Difference:
    """What a cut changes: samples that came in and went out, and kept samples per bin of difficulty."""

    before: str | None
    came_in: int
    went_out: int
    scored: list[int]
    kept_before: list[int]
    kept: list[int]


def difference(cut: Cut, before: tuple[str, pl.DataFrame] | None) -> Difference:
    """Compare a cut with an earlier one."""
    table = cut.decisions.select("sample_id", "kept", "difficulty")
    old = before[1].rename({"kept": "was"}) if before else table.select("sample_id", was=pl.lit(value=False))
    table = table.join(old, on="sample_id", how="left", maintain_order="left").fill_null(value=False)
    fresh, gone = pl.col("kept") & ~pl.col("was"), pl.col("was") & ~pl.col("kept")
    came_in, went_out = table.select(fresh.sum(), gone.sum().alias("gone")).row(0)
    counts = [_histogram(table.filter(chosen)["difficulty"]) for chosen in (pl.lit(value=True), "was", "kept")]
    return Difference(before[0] if before else None, came_in, went_out, *counts)


def _histogram(difficulty: pl.Series) -> list[int]:
    return [int(count) for count in np.histogram(difficulty.drop_nulls().to_numpy(), BINS)[0]]


def diversity_of(vectors: "SampleVectors | None", cut: Cut) -> dict[str, float] | None:
    """Return Vendi score and mean cosine distance of the eligible samples and of the kept ones; None without vectors.

    Both on as many rows, since a Vendi score grows with their number: at most DIVERSITY_ROWS, by lot.
    """
    from curation.diversity import mean_distance, vendi_score

    if vectors is None:
        return None
    eligible = cut.decisions.filter(pl.col("stage") == "selection").sort("draw")
    rows = min(DIVERSITY_ROWS, int(cut.decisions["kept"].sum()))
    figures: dict[str, float] = {"rows": rows}
    for label, chosen in (("before", eligible), ("after", eligible.filter("kept"))):
        # A low draw makes a sample likely to be kept, so a lot of its own decides.
        lot = chosen.sample(rows, seed=0, shuffle=True)["sample_id"].to_list()
        dense = vectors.dense(lot)
        figures |= {f"vendi_{label}": vendi_score(dense), f"distance_{label}": mean_distance(dense)}
    return figures
