"""The plan of a large run follows from rates and sizes alone, and the tables in the docs follow from the kept rates."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper_plan import (
    ONE_MACHINE,
    PLAN,
    Machines,
    Size,
    bottleneck,
    compared,
    enough_nodes,
    one_machine,
    plan,
    steps_of,
    total_hours,
)
from benchmarks.paper_rates import RATES, Rate, Rates, read_rates, rendered
from curation import scoring
from stillhouse import near_duplicates
from stillhouse.near_duplicates import find_across_blocks
from stillhouse.places import Here

RATES_KEPT = read_rates()
SIZE, MACHINES = Size(), Machines()
SCOPES = ("instruction", "all")


def test_the_tables_in_the_docs_are_what_the_kept_rates_say() -> None:
    told = "run `python benchmarks/paper_plan.py --write`"
    assert PLAN.read_text(encoding="utf-8") == plan(SIZE, MACHINES, RATES_KEPT), told
    assert ONE_MACHINE.read_text(encoding="utf-8") == one_machine(RATES_KEPT), told
    page = (PLAN.parent.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    assert page.count('--8<-- "benchmarks/paper_plan.md"') == page.count('--8<-- "benchmarks/one_machine.md"') == 1


def test_kept_rates_are_written_as_they_are_read() -> None:
    assert RATES.read_text(encoding="utf-8") == rendered(RATES_KEPT)
    assert all(rate.value > 0 and rate.unit and rate.command for rate in RATES_KEPT.rates)


@pytest.mark.parametrize("scope", SCOPES)
def test_twice_the_samples_double_all_work_but_the_pairs(scope: str) -> None:
    once = steps_of(SIZE, RATES_KEPT, 5_000, scope)
    size = replace(SIZE, samples=2 * SIZE.samples, texts=2 * SIZE.texts)
    for one, two in zip(once, steps_of(size, RATES_KEPT, 5_000, scope), strict=True):
        pairs = one.name.startswith("near-duplicates")
        assert two.shared == pytest.approx((4 if pairs else 2) * one.shared), one.name
        if not pairs:
            figures = [(step.alone, step.shuffle, step.disk) for step in (one, two)]
            assert figures[1] == pytest.approx([2 * figure for figure in figures[0]]), one.name


@pytest.mark.parametrize("scope", SCOPES)
def test_more_nodes_are_never_slower_and_help_until_the_serial_parts(scope: str) -> None:
    steps = steps_of(SIZE, RATES_KEPT, 5_000, scope)
    hours = [total_hours(steps, Machines(nodes=2**power)) for power in range(40)]
    assert hours == sorted(hours, reverse=True)
    assert hours[-1] == pytest.approx(sum(step.alone for step in steps))
    enough = enough_nodes(steps, lambda nodes: Machines(nodes=nodes))
    saved = [1 - total_hours(steps, Machines(nodes=2 * n)) / total_hours(steps, Machines(nodes=n)) for n in (1, enough)]
    assert saved[1] < 0.1 < saved[0]
    assert enough > 1


@pytest.mark.parametrize("slow", ["texts", "responses", "scores", "gates"])
def test_the_bottleneck_is_the_largest_serial_part(slow: str) -> None:
    rates = [replace(one, value=1e-3) if (one.name, one.unit) == (slow, "rows/s") else one for one in RATES_KEPT.rates]
    steps = steps_of(SIZE, replace(RATES_KEPT, rates=rates), 5_000, "all")
    assert bottleneck(steps).name == slow
    assert bottleneck(steps).alone == max(step.alone for step in steps)
    assert f"**{slow}**" in plan(SIZE, MACHINES, replace(RATES_KEPT, rates=rates))


class Counting(Here):
    """Counts the steps that are taken."""

    steps = 0

    def submit(self, step: Callable[..., Any], *given: Any) -> Any:
        """Take it."""
        self.steps += 1
        return super().submit(step, *given)


@given(st.integers(1, 30), st.integers(1, 12))
def test_steps_are_those_that_the_comparison_takes(each: int, groups: int) -> None:
    block, rows = 7, each * groups
    vectors = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    place = Counting()
    find_across_blocks(vectors, 0.99, place, block, np.arange(rows) % groups)
    found = compared(rows, groups, block)
    assert found.steps == place.steps
    assert found.pairs == rows * each / 2


def test_a_chain_of_blocks_is_never_less_than_a_block_and_never_more_than_all() -> None:
    found = compared(10 * scoring.BLOCK_ROWS, 1)
    assert found.chain == scoring.BLOCK_ROWS**2 * (10 / 2 + 9)
    assert found.chain < found.pairs
    assert compared(1_000, 10).chain == 100**2 / 2
    assert near_duplicates.BLOCK_ROWS < scoring.BLOCK_ROWS


def test_memory_is_on_the_line_through_what_was_measured() -> None:
    rates = [Rate("gates", value, "GB at its peak", rows, "none", 2) for rows, value in ((1_000, 1.0), (11_000, 2.0))]
    known = Rates("a machine", 2, rates)
    assert known.memory("gates", 111_000) == pytest.approx(12.0)
    assert known.memory("gates", 5_000) == 2.0
    with pytest.raises(KeyError, match="dataset"):
        known.memory("dataset", 1)
