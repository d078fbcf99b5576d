"""Pairing: distinct pairs, even over perspectives, their task types and domains, the same for the same seed."""

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.pairing import Cell, pair_evenly

TEXTS = st.lists(st.sampled_from(["film", "food", "tweet"]), min_size=1, max_size=25).map(
    lambda domains: [(f"t{number:02}", domain) for number, domain in enumerate(domains)]
)
CELLS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=20).map(
    lambda kinds: [Cell(f"i{number:02}", f"p{kind[0]}", kind[1]) for number, kind in enumerate(kinds)]
)


def spread(counts: Counter[str], names: set[str]) -> int:
    return max(counts[name] for name in names) - min(counts[name] for name in names)


@settings(deadline=None)
@given(TEXTS, CELLS, st.integers(1, 700), st.integers(0, 9))
def test_pairs_are_distinct_and_as_many_as_asked_for(
    texts: list[tuple[str, str]], cells: list[Cell], samples: int, seed: int
) -> None:
    pairs = pair_evenly(texts, cells, samples, seed)
    assert len(pairs) == len(set(pairs)) == min(samples, len(texts) * len(cells))
    assert pairs == pair_evenly(texts[::-1], cells[::-1], samples, seed)


@settings(deadline=None)
@given(TEXTS, CELLS, st.integers(1, 700), st.integers(0, 9))
def test_pairs_are_even_while_all_have_some_to_give(
    texts: list[tuple[str, str]], cells: list[Cell], samples: int, seed: int
) -> None:
    # As long as no instruction has met all texts of a domain, evenness is exact at every level.
    fewest_texts = min(Counter(domain for _, domain in texts).values())
    pairs = pair_evenly(texts, cells, samples, seed)
    by_id, domain_of = {cell.instruction_id: cell for cell in cells}, dict(texts)
    met = Counter((instruction, domain_of[text]) for text, instruction in pairs)
    if max(met.values()) >= fewest_texts:
        return
    perspectives = Counter(by_id[instruction].perspective_id for _, instruction in pairs)
    assert spread(perspectives, {cell.perspective_id for cell in cells}) <= 1
    for perspective in perspectives:
        mine = [(text, by_id[key]) for text, key in pairs if by_id[key].perspective_id == perspective]
        for task_type in {cell.task_type for _, cell in mine}:
            domains = Counter(domain_of[text] for text, cell in mine if cell.task_type == task_type)
            assert spread(domains, set(domain_of.values())) <= 1


def test_domains_and_texts_are_even_overall() -> None:
    texts = [(f"t{number:03}", f"d{number % 3}") for number in range(90)]
    cells = [Cell(f"p{p}{t}{n}", f"p{p}", t) for p in range(7) for t in "abcd" for n in range(2)]
    pairs = pair_evenly(texts, cells, 505, seed=3)
    assert spread(Counter(dict(texts)[text] for text, _ in pairs), {"d0", "d1", "d2"}) <= 1
    assert spread(Counter(text for text, _ in pairs), {text for text, _ in texts}) <= 1
    assert spread(Counter(key[2] for _, key in pairs), set("abcd")) <= 1


def test_perspectives_with_a_choice_of_types_make_up_for_those_without() -> None:
    texts = [(f"t{number:03}", f"d{number % 2}") for number in range(100)]
    cells = [Cell(f"p{p}{t}", f"p{p}", t) for p in range(5) for t in ("abcde" if p > 1 else "a")]
    pairs = pair_evenly(texts, cells, 210, seed=1)
    assert Counter(key[:2] for _, key in pairs) == {f"p{p}": 42 for p in range(5)}
    types = Counter(key[2] for _, key in pairs)
    assert types["a"] == 84, "two perspectives have nothing else"
    assert spread(types, set("bcde")) <= 1


def test_a_small_domain_gives_what_it_has_and_no_more() -> None:
    texts = [("x", "rare")] + [(f"t{number}", "common") for number in range(30)]
    cells = [Cell(f"i{number}", "p", "a") for number in range(3)]
    met = defaultdict(set)
    for text, instruction in pair_evenly(texts, cells, 40, seed=1):
        met[text].add(instruction)
    assert met["x"] == {"i0", "i1", "i2"}
    assert sum(map(len, met.values())) == 40


def test_another_seed_gives_other_pairs() -> None:
    texts, cells = [(f"t{number}", "d") for number in range(20)], [Cell("i", "p", "a")]
    assert pair_evenly(texts, cells, 5, seed=1) != pair_evenly(texts, cells, 5, seed=2)
