"""Selection equals its closed form, and the ledger accounts for every sample."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from curation.decisions import decide as decide_samples
from curation.decisions import samples_of
from curation.selection import draw, keep_probability, selection_probability
from stillhouse.coverage import coverage, unmet_quotas
from stillhouse.errors import RunError
from stillhouse.sections import Curation, Quota


@given(st.integers(1, 40), st.floats(0.01, 1.0), st.floats(0.05, 1.0))
def test_chances_are_f_averaged_and_their_mean_is_the_rate(count: int, rate: float, peak: float) -> None:
    def f(x: float) -> float:
        exponent = 1 / rate - 1
        return float((x / peak) ** exponent if x < peak else ((1 - x) / (1 - peak)) ** exponent)

    found = keep_probability(count, rate, peak)
    assert found.mean() == pytest.approx(rate, abs=1e-9)
    assert (found >= -1e-12).all()
    assert (found <= 1 + 1e-9).all()
    low, high = (count - 1) / count, 1.0
    breaks = [peak] if low < peak < high else None
    assert found[-1] == pytest.approx(count * quad(f, low, high, points=breaks, limit=200)[0], abs=1e-3)


def test_soft_prefers_the_hard_and_keeps_the_rate() -> None:
    keys = [f"s{number}" for number in range(20_000)]
    difficulty = np.random.default_rng(0).uniform(size=len(keys))
    draws = draw(keys, 1)
    kept = draws < selection_probability(difficulty, 0.1, "soft", 1.0)
    assert kept.mean() == pytest.approx(0.1, abs=0.01)
    assert difficulty[kept].mean() > 0.85
    spared = draws < selection_probability(difficulty, 0.1, "soft", 0.7)
    assert difficulty[spared].mean() == pytest.approx(0.7, abs=0.05)


def test_hard_is_the_top_and_random_is_blind() -> None:
    difficulty = np.array([0.1, 0.9, 0.5, 0.7])
    assert selection_probability(difficulty, 0.5, "hard", 1.0).tolist() == [0, 1, 0, 1]
    assert selection_probability(difficulty, 0.25, "random", 1.0).tolist() == [0.25] * 4
    assert selection_probability(difficulty, 0.4, "hard", 1.0).tolist() == pytest.approx([0, 1, 0, 0.6])


@pytest.mark.parametrize("strategy", ["soft", "hard", "random"])
def test_equal_difficulty_means_equal_chance_and_the_rate_holds(strategy: Any) -> None:
    difficulty = np.repeat([0.0, 1.0], [3000, 2000])
    probability = selection_probability(difficulty, 0.1, strategy, 1.0)
    assert probability.mean() == pytest.approx(0.1)
    assert len(set(probability[:3000])) == len(set(probability[3000:])) == 1
    kept = draw([f"s{number}" for number in range(5000)], 1) < probability
    assert kept.mean() == pytest.approx(0.1, abs=0.015)


@given(st.lists(st.text(), min_size=1, max_size=20, unique=True), st.randoms())
def test_draws_do_not_depend_on_the_order_of_rows(keys: list[str], random: Any) -> None:
    shuffled = keys[:]
    random.shuffle(shuffled)
    assert dict(zip(keys, draw(keys, 7), strict=True)) == dict(zip(shuffled, draw(shuffled, 7), strict=True))


def decide(tables: dict[str, pl.DataFrame], settings: Curation, seed: int) -> Any:
    return decide_samples(samples_of(tables), settings, seed)


def pool(count: int) -> dict[str, pl.DataFrame]:
    """Tables of a run: sample 0 invalid, 1 a near-duplicate, 2 unscored, the rest eligible."""
    ids = [f"s{number}" for number in range(count)]
    responses = pl.DataFrame(
        {
            "sample_id": ids,
            "instruction_id": [f"i{number % 2}" for number in range(count)],
            "text_id": [f"t{number % 3}" for number in range(count)],
            "status": ["invalid"] + ["valid"] * (count - 1),
            "reason": ["not JSON"] + [None] * (count - 1),
        }
    )
    instructions = pl.DataFrame({"instruction_id": ["i0", "i1"], "perspective_id": ["p", "q"], "task_type": ["a", "b"]})
    scores = pl.DataFrame(
        {
            "sample_id": ids[1:],
            "difficulty": [0.5, None] + [number / count for number in range(3, count)],
            "unscored_reason": [None, "empty output"] + [None] * (count - 3),
            "nearest_id": ["s0"] + [None] * (count - 2),
            "nearest_similarity": [0.97] + [None] * (count - 2),
        }
    )
    texts = pl.DataFrame({"text_id": ["t0", "t1", "t2"], "domain": ["film", "film", "food"]})
    return {"texts": texts, "responses": responses, "instructions": instructions, "scores": scores}


@pytest.mark.parametrize("strategy", ["soft", "hard", "random"])
@pytest.mark.parametrize("scope", ["full", "task"])
def test_every_sample_has_one_row_with_a_reason(strategy: str, scope: str) -> None:
    tables = pool(400)
    table, counts = decide(tables, Curation(rate=0.5, strategy=strategy, scope=scope), seed=1)  # type: ignore[arg-type]
    assert table["sample_id"].to_list() == tables["responses"]["sample_id"].to_list()
    assert table.select("stage", "reason").rows()[:3] == [
        ("validity", "not JSON"),
        ("near_duplicate", "similarity 0.97 to s0"),
        ("difficulty", "empty output"),
    ]
    assert set(table["reason"][3:]) == {"selected", "not drawn at rate 0.5"}
    assert table["stratum"][:2].to_list() == ["p|a", "q|b"]
    assert sum(counts.values()) == 400
    assert counts["kept"] == pytest.approx(200, abs=30)
    if scope == "task" and strategy == "hard":
        kept = table.filter("kept").join(tables["responses"], on="sample_id")["instruction_id"].value_counts()["count"]
        assert abs(kept[0] - kept[1]) <= 1


def test_decisions_do_not_depend_on_the_order_of_rows() -> None:
    quotas = [Quota(over=["task_type", "domain"], minimum=40)]
    table, _ = decide(pool(200), Curation(rate=0.3, quotas=quotas), seed=1)
    backwards = {name: rows.reverse() for name, rows in pool(200).items()}
    shuffled, _ = decide(backwards, Curation(rate=0.3, quotas=quotas), seed=1)
    assert table.sort("sample_id").equals(shuffled.sort("sample_id"))


def test_an_empty_outcome_names_its_filter() -> None:
    with pytest.raises(RunError, match="filter difficulty dropped the last of 3 samples"):
        decide(pool(3), Curation(rate=0.5), seed=1)
    with pytest.raises(RunError, match=r"filter selection dropped the last of 4 samples; raise curation\.rate"):
        decide(pool(4), Curation(rate=1e-9, strategy="random"), seed=1)


@pytest.mark.parametrize("strategy", ["soft", "hard", "random"])
def test_quotas_fill_short_cells_from_what_was_closest_and_take_nothing_away(strategy: Any) -> None:
    plain, before = decide(pool(400), Curation(rate=0.05, strategy=strategy), seed=1)
    quotas = [Quota(over=["task_type", "domain"], minimum=30), Quota(over=["domain"], minimum=70)]
    table, counts = decide(pool(400), Curation(rate=0.05, strategy=strategy, quotas=quotas), seed=1)
    assert set(plain.filter("kept")["sample_id"]) <= set(table.filter("kept")["sample_id"])
    assert counts["kept"] == before["kept"] + counts["kept for a quota"]
    tables = {**pool(400), "decisions": table}
    cells = table.filter("kept").join(tables["responses"], on="sample_id").join(tables["texts"], on="text_id")
    assert sorted(cells.group_by("instruction_id", "domain").len()["len"])[0] >= 30
    assert min(cells.group_by("domain").len()["len"]) >= 70
    added = table.filter(pl.col("reason").str.starts_with("kept for the quota"))
    assert set(added["reason"]) == {
        "kept for the quota of 30 per task_type x domain",
        "kept for the quota of 70 per domain",
    }
    if strategy == "soft":  # who came closest to being drawn is first in line
        turn = pl.Series(draw(table["sample_id"].to_list(), 1)) / table["probability"]
        rows = table.with_columns(turn.alias("turn")).join(
            pool(400)["responses"].select("sample_id", "instruction_id", "text_id"), on="sample_id"
        )
        cell = rows.filter(pl.col("instruction_id") == "i0", pl.col("text_id") == "t2", pl.col("stage") == "selection")
        assert cell.filter("kept")["turn"].max() < cell.filter(~pl.col("kept"))["turn"].min()  # type: ignore[operator]


def test_a_quota_takes_the_hardest_where_only_the_hardest_have_a_chance() -> None:
    settings = Curation(rate=0.1, strategy="hard", quotas=[Quota(over=["domain"], minimum=20)])
    table, _ = decide(pool(100), settings, seed=1)
    tables = pool(100)
    rows = table.join(tables["scores"], on="sample_id").join(tables["responses"], on="sample_id")
    for texts in (["t0", "t1"], ["t2"]):
        mine = rows.filter(pl.col("text_id").is_in(texts), pl.col("stage") == "selection").sort("difficulty")
        assert mine.tail(20)["kept"].all()
        assert mine.filter("kept").height == 20


def test_a_quota_that_is_met_adds_nothing() -> None:
    plain, _ = decide(pool(400), Curation(rate=0.5), seed=1)
    table, counts = decide(pool(400), Curation(rate=0.5, quotas=[Quota(over=["task_type"], minimum=5)]), seed=1)
    assert table.equals(plain)
    assert counts["kept for a quota"] == 0


def test_a_quota_that_cannot_be_met_takes_all_there_is() -> None:
    table, _ = decide(pool(40), Curation(rate=0.1, quotas=[Quota(over=["task_type"], minimum=1000)]), seed=1)
    assert table.filter("kept").height == 37


def test_coverage_counts_each_cell_at_each_step_and_names_what_is_short() -> None:
    tables = pool(40)
    tables["instructions"] = tables["instructions"].with_columns(pl.lit(value=True).alias("kept"))
    tables["perspectives"] = pl.DataFrame({"perspective_id": ["p", "q"], "head": ["tone", "price"]})
    before = coverage(tables)
    assert before.columns == ["perspective", "task_type", "domain", "paired", "valid"]
    assert before["paired"].sum() == 40
    tables["decisions"], _ = decide(tables, Curation(rate=0.5), seed=1)
    found = coverage(tables)
    assert found.select("perspective", "task_type", "domain").rows() == [
        ("price", "b", "film"), ("price", "b", "food"), ("tone", "a", "film"), ("tone", "a", "food"),
    ]  # fmt: skip
    assert found.select("paired", "valid", "unique", "scored").sum().row(0) == (40, 39, 38, 37)
    assert found["kept"].sum() == tables["decisions"]["kept"].sum()
    tone = found.filter(pl.col("perspective") == "tone")["kept"].sum()
    price = found.filter(pl.col("perspective") == "price")["kept"].sum()
    assert unmet_quotas(found, [Quota(over=["perspective"], minimum=1)]) == []
    assert unmet_quotas(found, [Quota(over=["perspective"], minimum=99)]) == [
        {"minimum": 99, "perspective": "price", "kept": price}, {"minimum": 99, "perspective": "tone", "kept": tone},
    ]  # fmt: skip


def test_a_cell_that_no_sample_fills_is_in_the_matrix() -> None:
    tables = pool(3)
    tables["instructions"] = tables["instructions"].with_columns(pl.lit(value=True).alias("kept"))
    tables["perspectives"] = pl.DataFrame({"perspective_id": ["p", "q"], "head": ["tone", "price"]})
    tables["texts"] = pl.concat([tables["texts"], pl.DataFrame({"text_id": ["t9"], "domain": ["tweet"]})])
    found = coverage(tables).filter(pl.col("domain") == "tweet")
    assert found["paired"].to_list() == [0, 0]
