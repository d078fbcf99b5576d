"""A decided run with private data and texts of evaluation sets in it, and what the gates let leave."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from curation.difficulty import Score
from hub_cards.dataset import Found
from hub_cards.evaluation import load_evaluation
from hub_cards.gates import gate
from stillhouse.encoder import Encoder
from stillhouse.progress import Unseen
from stillhouse.recipe import load_recipe
from stillhouse.schemas import AUDIT, TABLES
from stillhouse.sections import Publish
from stillhouse.stages import audit_samples, build_of
from tests.audit_run import audited_run
from tests.conftest import DEMO_TEXTS
from tests.written_dataset import Content

EVALUATED = "The lid of this kettle pops open whenever it boils, and nobody at the shop could tell me why."
PLANTED = {
    "leak": EVALUATED,
    "sentibench": "no movement, no yuks, not much of anything!",
    "email": "ann.lee@mail.example.com answered at once, and my new kettle came the next day.",
    "secret": "My password is letmein99 and the app still logs me out every morning.",
    "card": "They charged 4111 1111 1111 1111 twice and kept silent about it for a week.",
    "both": "Write to bob_77@example.org: my key is AKIAIOSFODNN7EXAMPLE, and nobody cares.",
}
PRIVATE = ("ann.lee@mail.example.com", "letmein99", "4111 1111 1111 1111", "bob_77@example.org", "AKIAIOSFODNN7EXAMPLE")
CLEAN = [json.loads(line)["text"] for line in DEMO_TEXTS.read_text(encoding="utf-8").splitlines()[:6]]
TEXTS = [*PLANTED.values(), *CLEAN]
NEW = Score(0.25, 9.0, 0.75)
Tables = dict[str, pl.DataFrame]


@dataclass
class Left:
    """What left a run: the folder, what the gates decided and found, and what they had scored."""

    folder: Path
    gates: pl.DataFrame
    found: dict[str, Any]
    scored: list[tuple[str, str]]

    def rows(self, config: str) -> pl.DataFrame:
        """Return the rows of a config; an absent one has none."""
        files = sorted((self.folder / config).glob("*.parquet"))
        return pl.concat(map(pl.read_parquet, files)) if files else pl.DataFrame()

    def everything(self) -> str:
        """Return all that is in the folder, tables as text."""
        tables = [json.dumps(pl.read_parquet(path).to_dicts(), ensure_ascii=False, default=str)
                  for path in self.folder.rglob("*.parquet")]  # fmt: skip
        texts = [path.read_text("utf-8") for path in self.folder.rglob("*") if path.suffix in (".md", ".json", ".yaml")]
        assert len(texts) == 4
        return "\n".join(tables + texts)

    @property
    def card(self) -> str:
        """The card."""
        return (self.folder / "README.md").read_text("utf-8")


def planted_run(path: Path) -> Content:
    """Return a decided run of 60 samples, five of each text, that nobody audited."""
    run = audited_run(path, 60, TEXTS)
    tables = {name: run.read_table(name) for name in TABLES if name not in ("audit", "gates")}
    tables["audit"] = AUDIT.to_frame()
    recipe = load_recipe(run.recipe_path)
    _, findings, _ = audit_samples(build_of(recipe, run, Unseen()), tables["decisions"])
    return Content(tables, run.manifest(), recipe.model_dump(mode="json"), Found(findings, {}))


def evaluation_set(folder: Path) -> dict[str, Any]:
    """Write an evaluation set; return the recipe's section on leaks with it."""
    file = folder / "own" / "questions.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps({"ask": EVALUATED.upper()}) + "\n" + json.dumps({"ask": "Yum!"}), encoding="utf-8")
    return {"evaluation": [{"path": str(file), "column": "ask"}]}


def leave(
    base: Content,
    folder: Path,
    tables: Tables | None = None,
    encoder: Encoder | None = None,
    new: Score = NEW,
    **publish: Any,
) -> Left:
    """Let the tables of `base`, or others, through the gates of a recipe's section `publish`."""
    settings = Publish.model_validate({"licence": "CC0-1.0", **publish})
    scored: list[tuple[str, str]] = []

    def score(pairs: Sequence[tuple[str, str]]) -> list[Score]:
        scored.extend(pairs)
        return [new] * len(pairs)

    tables = tables or base.tables
    gates, found = gate(tables, settings, load_evaluation(settings.leaks), encoder, score, Unseen())
    recipe = {**base.recipe, "publish": settings.model_dump(mode="json")}
    written = Content({**tables, "gates": gates}, base.manifest, recipe, replace(base.found, gates=found))
    return Left(written.write(folder / "dataset"), gates, found, scored)


def samples_with(base: Content, *planted: str) -> set[str]:
    """Return the samples of some of PLANTED."""
    texts = base.tables["texts"].filter(pl.col("text").is_in([PLANTED[name] for name in planted]))
    return set(base.tables["responses"].join(texts, on="text_id", how="semi")["sample_id"])


def kept_of(base: Content, ids: set[str]) -> set[str]:
    """Return those that the selection kept."""
    return ids & set(base.tables["decisions"].filter("kept")["sample_id"])


def set_rows(table: pl.DataFrame, key: str, value: str, **changes: Any) -> pl.DataFrame:
    """Return a table with other values in the rows whose `key` is `value`."""
    where = pl.col(key) == value
    return table.with_columns(
        pl.when(where).then(pl.lit(new, table.schema[column])).otherwise(column).alias(column)
        for column, new in changes.items()
    )
