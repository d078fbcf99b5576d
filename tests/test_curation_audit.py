"""The statistics of an audit: intervals that cover, plans that keep their promises, verdicts, agreement, failures."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from curation.audit.assessment import BEFORE, failing
from curation.audit.intervals import Interval, simple_interval, stratified_interval
from curation.audit.outcome import corrected_answer
from curation.audit.plan import KEPT, Plan, allocate, draw_dropped, draw_kept, most_wrong, records_needed
from curation.audit.records import record_of
from curation.audit.strata import WHOLE, stratify
from curation.audit.verdicts import CONFLICT, agreement, settle, standing
from stillhouse.schemas import REVIEWS, table_of
from stillhouse.sections import Review
from tests.audit_run import LABELS, TASKS

SETTINGS = Review.model_validate({})
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RATES = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2]
Counts = npt.NDArray[np.int64]


def interval_of(
    rows: Counts, settled: Counts, wrong: Counts, confidence: float = 0.95, mended: bool = False
) -> Interval:
    return stratified_interval(pl.DataFrame({"rows": rows, "settled": settled, "wrong": wrong}), confidence, mended)


def audits(rows: Counts, settled: Counts, bad: Counts, count: int, mended: bool = False) -> list[Interval]:
    """Return the intervals of so many audits of strata with `bad` wrong rows each."""
    rng = np.random.default_rng(0)
    found = [
        rng.hypergeometric(wrong, size - wrong, drawn, count)
        for size, drawn, wrong in zip(rows, settled, bad, strict=True)
    ]
    cases, place = np.unique(np.stack(found, axis=1), axis=0, return_inverse=True)
    intervals = [interval_of(rows, settled, case, mended=mended) for case in cases]
    return [intervals[number] for number in place]


def test_one_stratum_has_the_exact_interval() -> None:
    for wrong, settled in [(0, 72), (3, 100), (7, 7), (50, 300)]:
        expected = stats.binomtest(wrong, settled).proportion_ci(0.9, "exact")
        for found in (
            simple_interval(10**6, settled, wrong, 0.9),
            interval_of(*map(np.array, ([10**6], [settled], [wrong])), 0.9),
        ):
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
            assert found.rate == wrong / settled


def test_what_is_judged_whole_is_known_and_what_is_not_judged_may_be_anything() -> None:
    assert simple_interval(20, 20, 3, 0.95) == Interval(0.15, 0.15, 0.15, 20, 20, 3)
    assert simple_interval(20, 0, 0, 0.95) == Interval(None, 0.0, 1.0, 20, 0, 0)
    whole = interval_of(np.array([20, 80]), np.array([20, 80]), np.array([4, 0]))
    assert (whole.rate, whole.low, whole.high) == pytest.approx((0.04, 0.04, 0.04))
    half = interval_of(np.array([50, 50]), np.array([50, 0]), np.array([5, 0]))
    assert (half.rate, half.low, half.high) == pytest.approx((0.1, 0.05, 0.55))


def test_what_was_judged_is_right_by_now() -> None:
    rows, settled, wrong = np.array([20, 80, 100]), np.array([20, 20, 0]), np.array([9, 5, 0])
    found = interval_of(rows, settled, wrong, mended=True)
    # 60 rows are predicted from 20 of 80, which tells as much of them as 15 of many; 14 wrong ones may be left out.
    low, high = stats.beta.ppf(0.025, 15 / 4, 15 * 3 / 4 + 1), stats.beta.ppf(0.975, 15 / 4 + 1, 15 * 3 / 4)
    assert (found.low, found.high) == pytest.approx((60 / 186 * low, min(1, 60 / 186 * high + 100 / 186)))
    assert found.rate == pytest.approx(160 / 186 * 5 / 20)  # the third stratum is taken to be like the second
    whole = interval_of(rows, rows, np.array([19, 80, 0]), mended=True)
    assert (whole.rate, whole.low, whole.high) == (0, 0, 0)


@pytest.mark.parametrize("size", [150, 300, 500, 1_400])
def test_small_data_with_wrong_rows_is_hardly_ever_accepted(size: int) -> None:
    """Whatever is wrong: what is published after judged rows are corrected, or left out, has at most the bar wrong."""
    plan = draw_kept(population([size]), SETTINGS, SETTINGS.expected, 42)
    rows, settled = np.array([size]), plan.strata()["records"].to_numpy()
    count, worst = 1_500, 0.0
    for bad in range(int(0.04 * size), int(0.4 * size), max(1, size // 60)):
        rng = np.random.default_rng(bad)
        found = rng.hypergeometric(bad, size - bad, settled[0], count)
        accepted = np.array([interval_of(rows, settled, np.array([wrong]), mended=True).high <= SETTINGS.bar
                             for wrong in range(settled[0] + 1)])  # fmt: skip
        too_bad = (bad - found) / (size - found) > SETTINGS.bar  # none was corrected
        worst = max(worst, float(np.mean(accepted[found] & too_bad)))
    assert worst <= 0.025 + 3 * np.sqrt(0.025 / count)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=8))
@example([(1, 0, 0), (33, 1, 1), (203, 0, 0), (224, 224, 0), (254, 1, 1), (398, 1, 1)])  # weights round below 1
def test_an_interval_holds_its_rate_and_grows_with_what_is_not_known(strata: list[tuple[int, int, int]]) -> None:
    rows = np.array([size for size, _, _ in strata])
    settled = np.minimum(rows, [drawn for _, drawn, _ in strata])
    wrong = np.minimum(settled, [bad for _, _, bad in strata])
    found = interval_of(rows, settled, wrong)
    assert 0 <= found.low <= found.high <= 1
    if (settled > 0).all():
        assert found.rate == pytest.approx(float(rows @ (wrong / settled)) / rows.sum())
        assert found.low - 1e-9 <= found.rate <= found.high + 1e-9
    wider = interval_of(np.append(rows, 50), np.append(settled, 0), np.append(wrong, 0))
    assert wider.low <= found.low + 1e-9
    assert wider.high >= found.high - 1e-9


def coverage_holds(rate: float, spread: str, count: int) -> None:
    """Assert that 95 % intervals miss the truth on either side in at most 2.5 % of audits, but for chance."""
    rng = np.random.default_rng(1)
    rows = rng.integers(50, 3_000, 24)
    settled = np.maximum(3, np.round(300 * rows / rows.sum())).astype(int)
    share = {"even": np.full(24, rate), "few": np.where(np.arange(24) % 6 == 0, min(0.9, 6 * rate), 0.0)}[spread]
    bad = np.round(rows * share).astype(int)
    truth = bad.sum() / rows.sum()
    found = audits(rows, settled, bad, count)
    slack = 3 * np.sqrt(0.025 * 0.975 / count)
    assert np.mean([interval.high < truth - 1e-12 for interval in found]) <= 0.025 + slack
    assert np.mean([interval.low > truth + 1e-12 for interval in found]) <= 0.025 + slack
    # Clopper and Pearson's own bounds for a simple sample of the same size are about as wide: nothing is given away.
    simple = np.mean([np.diff(stats.binomtest(int(x), int(settled.sum())).proportion_ci(0.95))[0]
                      for x in rng.binomial(settled.sum(), truth, 200)])  # fmt: skip
    assert np.mean([interval.high - interval.low for interval in found]) <= 1.6 * simple


@pytest.mark.parametrize("spread", ["even", "few"])
@pytest.mark.parametrize("rate", RATES)
def test_the_interval_covers_the_truth(rate: float, spread: str) -> None:
    coverage_holds(rate, spread, 1_500)


@pytest.mark.prove
@pytest.mark.parametrize("spread", ["even", "few"])
@pytest.mark.parametrize("rate", RATES)
def test_the_interval_covers_the_truth_in_ten_thousand_audits(rate: float, spread: str) -> None:
    coverage_holds(rate, spread, 10_000)


def population(sizes: list[int], verdict: str | None = None) -> pl.DataFrame:
    strata = [f"stratum {place}" for place, size in enumerate(sizes) for _ in range(size)]
    ids = [f"s{number}" for number in range(len(strata))]
    return pl.DataFrame({"sample_id": ids, "version": ids, "population": KEPT, "stratum": strata}).with_columns(
        verdict=pl.lit(verdict, pl.String), settled=pl.lit(verdict is not None)
    )


SIZES = [40, 90, 150, 300, 300, 450, 700, 1_000, 1_500, 2_500]


def accepted_share(plan: Plan, rate: float, count: int) -> float:
    """Return in how many of `count` audits by a plan data of an error rate is accepted."""
    strata = plan.strata()
    rows, settled = strata["rows"].to_numpy(), strata["records"].to_numpy()
    bad = np.random.default_rng(2).multivariate_hypergeometric(rows, round(rate * rows.sum()))
    return float(
        np.mean([interval.high <= SETTINGS.bar for interval in audits(rows, settled, bad, count, mended=True)])
    )


def promises_hold(count: int) -> None:
    plan = draw_kept(population(SIZES), SETTINGS, SETTINGS.expected, 42)
    risk = (1 - SETTINGS.confidence) / 2
    # Judged rows are mended, so data is at the bar where its other rows are.
    at_the_bar = SETTINGS.bar / (1 - plan.records / len(plan.frame))
    assert accepted_share(plan, at_the_bar, count) <= risk + 3 * np.sqrt(risk / count)
    assert accepted_share(plan, SETTINGS.expected, count) >= SETTINGS.power - 3 * np.sqrt(0.16 / count)
    assert accepted_share(plan, 2 * SETTINGS.bar, count) <= 0.001


def test_a_plan_keeps_its_promises() -> None:
    promises_hold(2_000)


@pytest.mark.prove
def test_a_plan_keeps_its_promises_in_ten_thousand_audits() -> None:
    promises_hold(10_000)


@pytest.mark.parametrize(
    ("bar", "expected", "power"), [(0.05, 0.02, 0.8), (0.1, 0.02, 0.9), (0.05, 0.0, 0.8), (0.03, 0.01, 0.5)]
)
def test_no_smaller_sample_keeps_both_promises(bar: float, expected: float, power: float) -> None:
    settings = Review(bar=bar, expected=expected, power=power)
    needed = records_needed(settings, expected, 10**6)

    def passes(records: int) -> bool:
        counts = np.arange(records)
        wrong = counts[stats.beta.ppf(0.975, counts + 1, records - counts) <= bar]
        return bool(len(wrong)) and bool(stats.binom.cdf(wrong.max(), records, expected) >= power)

    assert passes(needed)
    assert not any(passes(records) for records in range(1, needed))
    assert records_needed(settings, expected, 50) == 50
    assert most_wrong(needed, settings) >= 0
    assert most_wrong(5, settings) == -1


@given(
    st.lists(st.integers(1, 2_000), min_size=1, max_size=30), st.integers(1, 3_000), st.integers(1, 6),
    st.lists(st.floats(0.01, 0.5), min_size=30, max_size=30), st.booleans(),
)  # fmt: skip
def test_records_add_up_and_keep_their_limits(
    sizes: list[int], total: int, minimum: int, spread: list[float], by_spread: bool
) -> None:
    rows = np.array(sizes)
    found = allocate(rows, total, minimum, spread[: len(sizes)] if by_spread else None)
    least = np.minimum(rows, minimum)
    assert (found >= least).all()
    assert (found <= rows).all()
    assert found.sum() == np.clip(total, least.sum(), rows.sum())
    pull = rows * (np.array(spread[: len(sizes)]) if by_spread else 1.0)
    free = (found > least) & (found < rows)  # where nothing limits them, records are in proportion, but for rounding
    assert ((found - 1) / pull)[free].max(initial=0) <= ((found + 1) / pull)[free].min(initial=np.inf) + 1e-9


def test_rounds_of_the_same_strata_go_on_where_the_last_one_ended() -> None:
    rows, settings = population(SIZES), Review(records=200)
    first = draw_kept(rows, settings, 0.02, 42).frame.filter("drawn")["sample_id"]
    assert (
        draw_kept(rows.sample(fraction=1, shuffle=True, seed=3), settings, 0.02, 42)
        .frame.filter("drawn")["sample_id"]
        .sort()
        .equals(first.sort())
    )
    judged = rows.with_columns(settled=pl.col("sample_id").is_in(first.to_list()))
    second = draw_kept(judged, settings, 0.02, 42).frame.filter("drawn")["sample_id"]
    assert len(first) == len(second) == 200
    assert not set(first) & set(second)
    together = draw_kept(rows, Review(records=400), 0.02, 42).frame.filter("drawn")["sample_id"]
    assert set(together) == set(first) | set(second)
    assert set(first) != set(draw_kept(rows, settings, 0.02, 43).frame.filter("drawn")["sample_id"])


def test_neyman_asks_more_where_verdicts_differ() -> None:
    rows = population([1_000, 1_000]).with_row_index("n").with_columns(
        settled=pl.col("n") % 50 == 0,
        verdict=pl.when((pl.col("n") % 100 == 0) & (pl.col("n") < 1_000)).then(pl.lit("wrong"))
        .when(pl.col("n") % 50 == 0).then(pl.lit("correct")),
    )  # fmt: skip
    records = draw_kept(rows, Review(records=200, allocation="neyman"), 0.02, 42).strata()["records"].to_list()
    spread = [np.sqrt(rate * (1 - rate)) for rate in (11 / 22, 1 / 22)]
    assert records[0] + 20 == pytest.approx(240 * spread[0] / sum(spread), abs=1)
    assert sum(records) == 200


def test_the_overlap_is_a_share_of_the_records() -> None:
    frame = draw_kept(population(SIZES), Review(records=600, annotators=3, overlap=0.25), 0.02, 42).frame
    drawn = frame.filter("drawn")
    assert set(frame.filter(~pl.col("drawn"))["answers"]) == {0}
    assert set(drawn["answers"]) == {1, 3}
    assert (drawn["answers"] == 3).sum() == pytest.approx(150, abs=35)
    assert set(draw_kept(population(SIZES), Review(records=600), 0.02, 42).frame.filter("drawn")["answers"]) == {1}


def test_every_filter_has_its_part_of_the_dropped() -> None:
    rows = population([500, 5, 80]).with_columns(population=pl.lit("dropped"))
    counts = draw_dropped(rows, Review(rejected=45), 42).group_by("stratum").agg(pl.col("drawn").sum()).sort("stratum")
    assert counts["drawn"].to_list() == [20, 5, 20]
    assert not draw_dropped(rows, Review(rejected=0), 42)["drawn"].any()


def test_strata_are_as_fine_as_the_records_allow() -> None:
    rng = np.random.default_rng(0)
    kept = pl.DataFrame({
        "perspective": [f"p{number % 12}" for number in range(600)], "task_type": ["a", "b"] * 300,
        "difficulty": rng.random(600),
    })  # fmt: skip
    places = pl.DataFrame({
        "perspective_id": [f"p{place}" for place in range(12)], "head": [f"head {place}" for place in range(12)],
        "mentions": list(range(12)), "x": [float(place // 3) * 10 for place in range(12)],
        "y": [float(place % 3) for place in range(12)],
    })  # fmt: skip
    settings = Review(perspective_groups=4, difficulty_bands=3, minimum=3)
    whole = stratify(kept, places, settings, 10_000, 42)
    # Four groups of three neighbours, each named after the one with most mentions; p(n) has one task type only.
    assert {name.partition(" | ")[0] for name in whole} == {f"head {place} and 2 more" for place in (2, 5, 8, 11)}
    assert {name.rpartition(" | ")[2] for name in whole} == {"easy", "medium", "hard"}
    bands = kept.with_columns(band=whole.str.split(" | ").list.last()).group_by("band").agg(
        pl.len(), pl.col("difficulty").min().alias("least")
    ).sort("least")  # fmt: skip
    assert bands["band"].to_list() == ["easy", "medium", "hard"]
    assert bands["len"].to_list() == [200, 200, 200]
    assert stratify(kept, places, settings, 3 * whole.n_unique() - 1, 42).str.count_matches(
        r" \| "
    ).unique().to_list() == [1]
    assert set(stratify(kept, places, settings, 6, 42)) == {"a", "b"}
    assert set(stratify(kept, places, settings, 5, 42)) == {WHOLE}
    nowhere = places.with_columns(x=pl.lit(None, pl.Float64), y=pl.lit(None, pl.Float64))
    assert {name.partition(" | ")[0] for name in stratify(kept, nowhere, settings, 10_000, 42)} == {WHOLE}


def review(sample: str, who: str, verdict: str | None, minute: int = 0, **more: Any) -> dict[str, Any]:
    return {"round": 1, "sample_id": sample, "version": "v", "annotator": who, "status": "submitted",
            "verdict": verdict, "faults": [], "given_at": NOW + timedelta(minutes=minute), "source": "test",
            **more}  # fmt: skip


def settled(*reviews: dict[str, Any], arbiter: str | None = None) -> dict[str, dict[str, Any]]:
    table = settle(standing(table_of(list(reviews), REVIEWS, "reviews")), arbiter)
    return {row["sample_id"]: row for row in table.iter_rows(named=True)}


def test_the_majority_decides_and_a_tie_does_not() -> None:
    found = settled(
        *(review("two to one", who, verdict) for who, verdict in [("a", "wrong"), ("b", "correct"), ("c", "wrong")]),
        *(review("tie", who, verdict) for who, verdict in [("a", "wrong"), ("b", "correct")]),
        *(review("unclear", who, "unclear") for who in "ab"),
        review("draft", "a", "wrong", status="draft"), review("discarded", "a", None, status="discarded"),
        review("no verdict", "a", None),
    )  # fmt: skip
    assert {key: row["verdict"] for key, row in found.items()} == {
        "two to one": "wrong", "tie": CONFLICT, "unclear": "unclear",
    }  # fmt: skip
    assert found["two to one"]["annotators"] == ["a", "b", "c"]


def test_an_arbiter_decides_where_there_is_one() -> None:
    answers = [
        review("x", "a", "wrong"),
        review("x", "b", "wrong"),
        review("x", "boss", "correct"),
        review("y", "a", "wrong"),
    ]
    found = settled(*answers, arbiter="boss")
    assert (found["x"]["verdict"], found["y"]["verdict"]) == ("correct", "wrong")
    assert settled(*answers)["x"]["verdict"] == "wrong"


def test_the_latest_answer_of_an_annotator_stands() -> None:
    first, second = review("x", "a", "wrong"), review("x", "a", "correct", minute=1)
    assert settled(first, second)["x"]["verdict"] == settled(second, first)["x"]["verdict"] == "correct"
    assert settled(first, review("x", "a", "wrong", minute=2, status="discarded")) == {}


def test_the_commonest_correction_is_taken_else_the_earliest() -> None:
    found = settled(
        *(review("x", who, "wrong", minute, correction=text, faults=[fault]) for who, minute, text, fault in
          [("a", 0, "one", "invented"), ("b", 1, "two", "incomplete"), ("c", 2, "two", "invented")]),
        *(review("y", who, "wrong", minute, correction=text) for who, minute, text in
          [("a", 1, "late"), ("b", 0, "early")]),
        review("z", "a", "wrong"), review("z", "b", "correct", correction="not asked for"), review("z", "c", "wrong"),
    )  # fmt: skip
    assert [found[key]["correction"] for key in "xyz"] == ["two", "early", None]
    assert found["x"]["faults"] == ["incomplete", "invented"]


def test_agreement_is_that_of_the_textbook() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: four observers, twelve units."""
    units = ["1 1 * 1", "2 2 3 2", "3 3 3 3", "3 3 3 3", "2 2 2 2", "1 2 3 4", "4 4 4 4", "1 1 2 1", "2 2 2 2",
             "* 5 5 5", "* * 1 1", "* * 3 *"]  # fmt: skip
    rows = [
        review(f"u{unit}", who, "correct", rating=int(value))
        for unit, values in enumerate(units)
        for who, value in zip("ABCD", values.split(), strict=True)
        if value != "*"
    ]
    answers = standing(table_of(rows, REVIEWS, "reviews")).with_columns(stratum=pl.lit("all"))
    found = {(row["question"], row["stratum"]): row for row in agreement(answers).iter_rows(named=True)}
    quality = found["quality", None]
    assert quality["alpha"] == pytest.approx(0.815, abs=0.001)
    assert quality["records"] == 11  # the unit that one observer judged tells nothing
    pairs = [(left, right) for unit in units for values in [[value for value in unit.split() if value != "*"]]
             for place, left in enumerate(values) for right in values[place + 1:]]  # fmt: skip
    assert quality["percentage"] == pytest.approx(np.mean([left == right for left, right in pairs]))
    assert found["verdict", None]["alpha"] is None  # all the same: nothing to tell chance by
    assert found["verdict", None]["percentage"] == 1
    assert found["quality", "all"] == {**quality, "stratum": "all"}


def test_agreement_on_names_is_nominal() -> None:
    values = [
        ("correct", "correct"),
        ("wrong", "wrong"),
        ("correct", "wrong"),
        ("unclear", "unclear"),
        ("correct", "correct"),
    ]
    rows = [
        review(f"u{unit}", who, verdict)
        for unit, pair in enumerate(values)
        for who, verdict in zip("AB", pair, strict=True)
    ]
    answers = standing(table_of(rows, REVIEWS, "reviews")).with_columns(stratum=pl.lit("s"))
    found = agreement(answers).row(0, named=True)
    counts = np.array([5, 3, 2])  # correct, wrong, unclear
    expected = 1 - (10 - 1) * 2 / (100 - (counts**2).sum())  # two of ten pairable values disagree
    assert (found["question"], found["percentage"]) == ("verdict", pytest.approx(0.8))
    assert found["alpha"] == pytest.approx(expected)


TEXT = "The garlic press presses garlic."


@pytest.mark.parametrize(
    ("kind", "typed", "answer", "fault"),
    [
        ("classification", " Positive ", "positive", None),
        ("classification", "happy", "happy", "label not in the set"),
        ("scoring", "4", "4", None),
        ("scoring", "6", "6", "score not on the scale"),
        ("scoring", "four", "four", "not JSON"),
        ("extraction", '["garlic press"]', '["garlic press"]', None),
        ("extraction", '["onion"]', '["onion"]', "span not in the text"),
        ("structured", '{"tone":"neutral","evidence":"presses"}', '{"tone": "neutral", "evidence": "presses"}', None),
        ("structured", '{"tone": "calm"}', '{"tone": "calm"}', "does not fit the schema"),
        ("analysis", "A sober report of a tool that works.", "A sober report of a tool that works.", None),
        ("analysis", "ok", "ok", "not a text of fitting length"),
    ],
)  # fmt: skip
def test_a_correction_is_checked_as_an_answer_is(kind: str, typed: str, answer: str, fault: str | None) -> None:
    row = {"task_type": kind, "labels": None, "scale": None, "schema": None, "verbatim": False, **TASKS[kind]}
    found, spans, why = corrected_answer({**row, "instruction": "Judge.", "text": TEXT}, typed)
    assert (found, why) == (answer, fault)
    if fault is None and kind in ("extraction", "structured"):
        assert [TEXT[start:end] for start, end in spans] == [
            json.loads(answer)[0] if kind == "extraction" else "presses"
        ]


def test_of_imported_data_any_correction_is_taken() -> None:
    row = {"task_type": "unknown", "labels": None, "scale": None, "schema": None, "verbatim": None}
    assert corrected_answer({**row, "instruction": "", "text": TEXT}, "Better.\n") == ("Better.\n", [], None)


def judged(cells: dict[str, tuple[int, int, int]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return kept rows and strata of `cells`: rows, settled and wrong by stratum, of one instruction each."""
    rows = [
        (stratum, f"i {stratum}", "wrong" if number < wrong else "correct" if number < done else None)
        for stratum, (size, done, wrong) in cells.items()
        for number in range(size)
    ]
    kept = pl.DataFrame(
        rows, schema={"stratum": pl.String, "instruction_id": pl.String, "verdict": pl.String}, orient="row"
    )
    strata = pl.DataFrame([(name, *figures) for name, figures in cells.items()],
                          schema=["stratum", "rows", "settled", "wrong"], orient="row")  # fmt: skip
    return kept, strata


def test_a_stratum_fails_where_its_error_rate_is_surely_above_the_bar() -> None:
    kept, strata = judged({"bad": (50, 8, 6), "good": (50, 8, 0), "unlucky": (50, 8, 1), BEFORE: (20, 20, 20)})
    assert failing(kept, strata, SETTINGS) == [
        {"stratum": "bad", "instruction_id": "i bad", "settled": 8, "wrong": 6, "rows": 50, "open": 42}
    ]
    judged_whole = judged({"bad": (50, 50, 40)})
    assert failing(*judged_whole, SETTINGS) == []


def test_of_many_good_strata_hardly_ever_one_fails() -> None:
    rng, false_alarms, count = np.random.default_rng(0), 0, 300
    for _ in range(count):
        wrong = rng.binomial(4, SETTINGS.bar, 60)
        kept, strata = judged({f"s{place}": (40, 4, int(bad)) for place, bad in enumerate(wrong)})
        false_alarms += bool(failing(kept, strata, SETTINGS))
    assert false_alarms / count <= 0.025 + 3 * np.sqrt(0.025 / count)


def test_a_record_marks_the_words_that_its_answer_quotes() -> None:
    row = {
        "sample_id": "s", "version": "v", "text": "so good, so so",
        "spans": [{"start": 0, "end": 7}, {"start": 3, "end": 7}],
        "instruction": "Judge the tone. Answer with one of: negative, neutral, positive.", "prompt": "p",
        "output": '{"tone": "positive", "why": ["so", "good"], "share": 0.5}', "task_type": "classification",
        "labels": LABELS, "scale": None, "schema": None, "verbatim": False, "perspective": "tone", "domain": "d",
        "difficulty": 0.1, "stratum": "x", "population": KEPT, "answers": 1,
    }  # fmt: skip
    record = record_of(row)
    assert [(part.text, part.marked) for part in record.parts] == [("so good", True), (", so so", False)]
    assert (record.instruction, record.form) == ("Judge the tone.", "Answer with one of: negative, neutral, positive.")
    assert record.fields == (("tone", "positive"), ("why", "so, good"), ("share", "0.5"))
    assert record_of({**row, "output": '["a", "b"]'}).items == ("a", "b")
    assert record_of({**row, "output": "positive", "text": "", "spans": None}).parts == ()
