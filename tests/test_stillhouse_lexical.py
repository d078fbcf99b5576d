"""Near-duplicate texts are those of the exact greedy over Jaccard similarity, in any script and at any length."""

import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.lexical import HASHES, RECALL, band_count, find_lexical_duplicates, jaccard, shingles

SENTENCE = "the room was clean but small and the food arrived late so we left without any regret 房间很干净 комната"


def noisy_texts(count: int, seed: int) -> list[str]:
    """Texts of which a half repeat an earlier one with a character changed or a word more."""
    drawn = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        text = " ".join(drawn.choices(SENTENCE.split(), k=drawn.randint(1, 40)))
        if texts and drawn.random() < 0.5:
            text = drawn.choice(texts)
            place = drawn.randrange(len(text))
            text = f"{text[:place]}{drawn.choice('aeiou')}{text[place + 1 :]}" if place % 2 else f"{text} again"
        texts.append(text)
    return texts


def exact_greedy(texts: list[str], threshold: float) -> list[bool]:
    found: list[bool] = []
    for number, text in enumerate(texts):
        before = (other for other, dropped in zip(texts[:number], found, strict=True) if not dropped)
        found.append(any(jaccard(text, other) >= threshold for other in before))
    return found


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9, 1.0])
def test_found_are_those_of_the_exact_greedy(threshold: float) -> None:
    texts = noisy_texts(400, seed=1)
    expected = exact_greedy(texts, threshold)
    assert find_lexical_duplicates(texts, threshold) == expected
    assert 10 < sum(expected) < 300


@settings(deadline=None)
@given(st.lists(st.text(max_size=12), max_size=30), st.sampled_from([0.5, 0.9, 1.0]))
def test_none_is_dropped_that_is_not_similar(texts: list[str], threshold: float) -> None:
    found = find_lexical_duplicates(texts, threshold)
    kept = [text for text, dropped in zip(texts, found, strict=True) if not dropped]
    assert all(max(jaccard(text, one) for one in kept) >= threshold for text in texts)
    assert len(set(kept)) == len(kept)


def test_the_first_wins_and_what_is_dropped_drops_nothing() -> None:
    first = (
        "The soup was cold, the waiter was rude, and the bill was wrong twice. Never again, not even if all were free."
    )
    second = first.replace("cold", "bold")
    third = second.replace("rude", "nude")
    assert jaccard(second, third) >= 0.9 > jaccard(first, third)
    assert find_lexical_duplicates([first, second, third], 0.9) == [False, True, False]
    assert find_lexical_duplicates([second, first, third], 0.9) == [False, True, True]


def test_short_texts_are_themselves() -> None:
    assert find_lexical_duplicates(["", "a", "b", "ab", "yes", "no", "oh no", "nope"], 0.5) == [False] * 8
    assert shingles("yes") == ["yes"]
    assert shingles("maybe!") == ["maybe", "aybe!"]


def test_texts_without_spaces_or_latin_letters() -> None:
    chinese = "房间很干净但是有点小早餐冷了服务员态度很差我们再也不会来这家酒店了因为价格太高而且位置不方便" * 2
    russian = "Номер был чистый, но маленький; завтрак остыл, а персонал нас не замечал до самого отъезда. 😞"
    texts = [chinese, russian, chinese + "。", russian.replace("😞", "😡"), chinese[::-1], russian[::-1]]
    assert find_lexical_duplicates(texts, 0.9) == [False, False, True, True, False, False]


def test_long_texts() -> None:
    drawn = random.Random(0)
    long = " ".join(str(drawn.randrange(10**6)) for _ in range(50_000))
    assert find_lexical_duplicates([long, long[: len(long) // 2], f"{long} and so on"], 0.9) == [False, False, True]


def test_another_process_finds_the_same() -> None:
    code = (
        "import json, sys; from stillhouse.lexical import find_lexical_duplicates as find;"
        "print(json.dumps(find(json.loads(sys.stdin.read()), 0.8)))"
    )
    texts = noisy_texts(400, seed=2)
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, input=json.dumps(texts), capture_output=True, text=True, check=True, env=environment
        )
        assert json.loads(done.stdout) == find_lexical_duplicates(texts, 0.8)


@pytest.mark.parametrize(("threshold", "bands"), [(0.5, 64), (0.8, 32), (0.9, 32), (1.0, 1)])
def test_bands_are_the_fewest_that_find_a_pair_at_the_threshold(threshold: float, bands: int) -> None:
    assert band_count(threshold) == bands
    for count, enough in ((bands, True), (bands // 2, False)):
        assert count == 0 or (1 - (1 - threshold ** (HASHES / count)) ** count >= RECALL) == enough
