"""Texts that occur in evaluation sets are found however they were altered on the way, and no others."""

import json
import random
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import strategies as st

from hub_cards import leaks
from hub_cards.evaluation import SENTIBENCH, WORDED, Evaluation, hash_texts, load_evaluation
from hub_cards.leaks import find_leaks
from hub_cards.sentibench_hashes import write_hashes
from hub_cards.wording import hash_words, words
from stillhouse.encoder import Encoder
from stillhouse.errors import InputError
from stillhouse.schemas import LEAKS
from stillhouse.sections import Leaks
from tests.conftest import DEMO_TEXTS

GIVEN = [
    "The kettle's lid doesn't close & it leaks: I wouldn't buy it again, not even from @acme (https://acme.example/k1).",
    "Never before had a waiter sung to us.",
    "Yum!",
    "Wir fuhren zur Straße am Café, und der Regen hörte nicht auf, bis wir wieder zu Hause waren.",
    "この映画は本当に素晴らしかったです",
]
DEMO = [json.loads(line)["text"] for line in DEMO_TEXTS.read_text(encoding="utf-8").splitlines()]


def evaluation_of(texts: list[str], name: str = "set") -> Evaluation:
    """All texts are `worded`, the short ones too."""
    worded = pl.DataFrame({"evaluation": name, "row": range(len(texts)), "text": texts}, WORDED)
    return Evaluation(hash_texts(worded), worded)


def found(texts: list[str], evaluation: Evaluation) -> list[tuple[int, str, float, int]]:
    rows = find_leaks(texts, evaluation)
    assert rows.schema == LEAKS
    return list(rows.select("number", "how", "score", "row").iter_rows())


def load(**settings: Any) -> Evaluation:
    return load_evaluation(Leaks.model_validate({"sentibench": False, **settings}))


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("THE KETTLE’S LID DOES N'T CLOSE &amp; IT LEAKS -\ti wouldn’t buy it again,<br />not even from @b (http)", 0),
        ("The kettle's lid doesn't close\\n\\nit leaks I wouldn't buy it again not even from", 0),
        ("never  before had a waiter -LRB- www.acme.example -RRB- sung to us", 1),
        ("Ｎｅｖｅｒ before had a waiter\u00a0sung to us…", 1),
        ("Wir fuhren zur STRASSE am Cafe\u0301, und der Regen hörte nicht auf, bis wir wieder zu Hause waren.", 3),
        ("この映画は、本当に素晴らしかったです。", 4),
    ],
)  # fmt: skip
def test_a_whole_text_is_found_though_its_form_changed(text: str, row: int) -> None:
    assert (0, "exact", 1.0, row) in found([text], evaluation_of(GIVEN))


def test_a_short_text_is_found_inside_a_longer_one_and_a_part_of_a_long_one() -> None:
    opera = "What an evening! Never before had a waiter sung to us. We stayed."
    part = "My aunt says its lid does n't close and it leaks, I wouldn't buy it again, not even from a friend"
    again = "lid doesn't close & it leaks: I wouldn't buy it again, not even"
    assert found([opera, part, again], evaluation_of(GIVEN)) == [(0, "contained", 1.0, 1)]
    shared = part.replace(" and it", " it")  # 13 of its 19 words are the kettle's: one gram of 7
    assert found([shared], evaluation_of(GIVEN)) == [(0, "13-gram", pytest.approx(1 / 7), 0)]


def test_trivial_texts_and_clean_texts_are_no_leaks() -> None:
    short = evaluation_of(["Yum!", "Thank you so", "", "   ", "The best I had in weeks"])
    assert found(["yum", "Thank you so!", "", "!!!", "It was the best I had in weeks."], short) == []
    assert short.sizes().rows() == [("set", 5, 4)]
    assert found(DEMO, load_evaluation(Leaks.model_validate({}))) == []


def test_the_hashes_that_come_along_find_sentibench() -> None:
    whole, part = "no movement, no yuks, not much of anything!", "I waited for 10-15 minutes for service ordered a beer"
    prompt = f'Text: "{part} & was never served again."\nWhich aspects does it name? As in: {whole}'
    rows = find_leaks([whole, prompt], load_evaluation(Leaks.model_validate({})))
    assert rows.drop("score").rows() == [
        (0, "sc/sst2", "exact", 0),
        (0, "sc/sst2", "contained", 0),
        (1, "absa/acsa_rest16", "13-gram", 384),  # three sets share their texts
        (1, "absa/asqp_rest16", "13-gram", 0),
        (1, "absa/atsa_rest16", "13-gram", 384),
        (1, "sc/sst2", "contained", 0),
    ]
    assert SENTIBENCH.stat().st_size < 4e6
    assert load_evaluation(Leaks.model_validate({})).sizes()["texts"].to_list() == [
        *(676, 544, 676, 499, 784, 2157, 1421, 1000, 1821, 1000, 1000)
    ]


def test_the_best_text_of_each_set_is_named() -> None:
    text = " ".join(f"word{number}" for number in range(30))
    parts = [" ".join(text.split()[start:]) + " other" for start in (15, 10, 10)]
    both = [evaluation_of(parts, "one"), evaluation_of([text, *parts], "two")]
    evaluation = Evaluation(*(pl.concat(frames) for frames in zip(*((e.hashed, e.worded) for e in both), strict=True)))
    assert find_leaks([text], evaluation).rows() == [
        (0, "one", "13-gram", pytest.approx(8 / 18), 1),
        (0, "two", "exact", 1.0, 0),
        (0, "two", "13-gram", 1.0, 0),
    ]


PARTS = st.sampled_from("aaaaaaaaab")  # much in common, not all
WORDY = st.lists(st.just([]) | st.lists(PARTS, min_size=7, max_size=30), max_size=4)


@hypothesis.settings(deadline=None)
@hypothesis.given(WORDY, WORDY, st.integers(1, 4))
def test_texts_share_a_gram_exactly_where_they_share_these_words(
    texts: list[list[str]], given: list[list[str]], batch: int
) -> None:
    expected = {}
    for number, text in enumerate(texts):
        for row in given:
            size = min(13, len(row))
            own, shared = grams_of(text, size), set(grams_of(row, size))
            share = sum(gram in shared for gram in own) / max(1, len(own))
            if size >= 8 and share:
                key = (number, "13-gram" if size == 13 else "contained")
                expected[key] = max(expected.get(key, 0), share if size == 13 else 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaks, "BATCH_TEXTS", batch)
        rows = found([" ".join(text) for text in texts], evaluation_of([" ".join(row) for row in given]))
    assert {row[:2]: row[2] for row in rows if row[1] != "exact"} == pytest.approx(expected)


def grams_of(parts: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(parts[start : start + size]) for start in range(len(parts) - size + 1)]


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(st.text(min_size=1), min_size=13, max_size=40), st.text(), st.text(), st.data())
def test_every_planted_gram_is_found(given: list[str], before: str, after: str, data: st.DataObject) -> None:
    parts = words(" ".join(given))
    if len(parts) < 13:
        return
    start = data.draw(st.integers(0, len(parts) - 13))
    planted = f"{before} {' '.join(parts[start : start + 13])} {after}"
    assert [row[1] for row in found([planted], evaluation_of([" ".join(parts)]))][-1:] == ["13-gram"]


def test_neither_order_nor_batches_change_what_is_found(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    texts = [*DEMO[:9], *GIVEN, f"{GIVEN[0]} {GIVEN[1]} {GIVEN[3]}", "", DEMO[3].upper()]
    evaluation = evaluation_of([*GIVEN, *DEMO[3:6]])
    at_once = find_leaks(texts, evaluation, 0.9, encoder)
    assert set(at_once["how"]) == set(LEAKS["how"].categories)  # type: ignore[attr-defined]
    order = random.Random(1).sample(range(len(texts)), len(texts))
    for name, value in (("BATCH_TEXTS", 7), ("BATCH_WORDS", 60), ("BLOCK_ROWS", 2), ("BLOCK_COLUMNS", 3)):
        monkeypatch.setattr(leaks, name, value)
    done: list[int] = []
    shuffled = find_leaks([texts[number] for number in order], evaluation, 0.9, encoder, done.append)
    back = shuffled.with_columns(number=pl.Series([order[number] for number in shuffled["number"]], dtype=pl.Int64))
    key = ["number", "evaluation", "how"]
    assert back.sort(key).drop("score").equals(at_once.drop("score"))
    assert back.sort(key)["score"].to_list() == pytest.approx(at_once["score"].to_list(), abs=1e-5)
    assert done == sorted(done)
    assert done[-1] == len(texts) > done[0]


def test_neighbours_are_those_of_the_whole_matrix(encoder: Encoder) -> None:
    given, texts = DEMO[:20], DEMO[40:70]
    rows = find_leaks(texts, evaluation_of(given), 0.25, encoder)
    cosine = encoder.encode(texts) @ encoder.encode(given).T
    near = np.flatnonzero(cosine.max(axis=1) >= 0.25)
    assert 2 < len(near) < 30
    assert rows["number"].to_list() == near.tolist()
    assert rows["row"].to_list() == cosine.argmax(axis=1)[near].tolist()
    assert rows["score"].to_list() == pytest.approx(cosine.max(axis=1)[near].tolist(), abs=1e-5)


def test_reworded_texts_are_neighbours_and_short_ones_are_not(encoder: Encoder) -> None:
    reworded = ["Never before did a waiter sing to us.", "Yum"]
    for similarity, how in ((0.9, ["neighbour"]), (None, []), (0.999, [])):
        assert find_leaks(reworded, evaluation_of(GIVEN), similarity, encoder)["how"].to_list() == how


def test_nothing_to_look_up_or_to_look_it_up_in(encoder: Encoder) -> None:
    for texts, given in (([], GIVEN), (DEMO[:2], []), ([], []), (["", "?"], ["", "!"])):
        assert find_leaks(texts, evaluation_of(given), 0.9, encoder).equals(LEAKS.to_frame())
    assert load().sizes().is_empty()


def test_words_hash_the_same_everywhere() -> None:
    hashes, counts = hash_words([["kettle", "straße"], [], ["映"]])
    assert counts.tolist() == [2, 0, 1]
    assert hashes.tolist() == [12178856823605620760, 9896309342109916002, 5103447847457768129]


def test_sources_are_named_and_read_as_they_lie(tmp_path: Path) -> None:
    layout, plain = tmp_path / "bench", tmp_path / "own"
    for name, content in {"sc/one/test": GIVEN[:2], "sc/one/train": DEMO, "absa/two/test": GIVEN[3:]}.items():
        file = layout / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([{"sentence": text} for text in content]), encoding="utf-8-sig")
    plain.mkdir()
    (plain / "questions.csv").write_text("ask\n" + "\n".join(f'"{text}"' for text in GIVEN), encoding="utf-8")
    (plain / "more.txt").write_text(GIVEN[1], encoding="utf-8")
    evaluation = load(
        evaluation=[
            {"path": str(layout)},
            {"path": str(plain / "questions.csv"), "column": "ask", "limit": 2},
            {"path": str(plain / "more.txt")},
        ]
    )
    assert evaluation.sizes().select("evaluation", "texts").rows() == [
        ("absa/two", 2), ("own/more.txt", 1), ("own/questions.csv", 2), ("sc/one", 2),
    ]  # fmt: skip
    assert "Yum!" not in evaluation.worded["text"]
    one_set = load(evaluation=[{"path": str(layout / "sc" / "one")}])
    assert one_set.sizes()["evaluation"].to_list() == ["sc/one"]
    write_hashes(layout, tmp_path / "hashes.parquet")
    stored = pl.read_parquet(tmp_path / "hashes.parquet")
    assert stored.equals(load(evaluation=[{"path": str(layout)}]).hashed)
    assert [name for name, kind in stored.schema.items() if kind == pl.String] == ["evaluation"]


def test_sets_given_besides_their_hashes_count_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "bench" / "sc" / "one"
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(json.dumps([{"sentence": text} for text in GIVEN]), encoding="utf-8")
    write_hashes(tmp_path / "bench", tmp_path / "hashes.parquet")
    monkeypatch.setattr("hub_cards.evaluation.SENTIBENCH", tmp_path / "hashes.parquet")
    evaluation = load(sentibench=True, evaluation=[{"path": str(tmp_path / "bench")}])
    assert evaluation.sizes().rows() == [("sc/one", 5, 1)]
    assert evaluation.worded["row"].to_list() == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "missing.jsonl"}, "missing.jsonl does not exist"),
        ({"path": "rows.jsonl", "column": "ask"}, "publish.leaks.evaluation: .*rows.jsonl has no column `ask`; it has"),
        ({"path": "rows.jsonl", "column": "label"}, "rows.jsonl: column `label` holds Int64, not text"),
        ({"path": "test.json"}, "test.json has no column `text`; it has: label"),
        ({"path": "."}, "test.json has no column `text`; it has: label"),
    ],
)
def test_broken_sources_are_named(source: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": 1}\n', encoding="utf-8")
    (tmp_path / "test.json").write_text('[{"label": 1}]', encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load(evaluation=[{**source, "path": str(tmp_path / source["path"])}])
