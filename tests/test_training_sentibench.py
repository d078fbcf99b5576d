"""SentiBench without a model: its sets are read, prompted and scored to the letter of its protocol."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from stillhouse.errors import InputError
from tests.sentibench_data import write_sentibench
from training.sentibench.answers import gold_tuples, parse_answer, predicted_tuples
from training.sentibench.prompts import gold_answer, make_prompts
from training.sentibench.scores import bootstrap, metrics_of, read_predictions, row_counts, unparseable
from training.sentibench.sentiment_graph import (
    NO_TOKENS,
    Opinion,
    gold_opinions,
    predicted_opinions,
    token_spans,
    total_weight,
)
from training.sentibench.sets import (
    ACSA,
    ANSWER_KEYS,
    ASPECT_CATEGORIES,
    ASQP,
    ATSA,
    OPENER,
    PSTANCE,
    SETS,
    check_data,
    load_instructions,
    load_rows,
    names_of,
)

IMDB, TWITTER = "sc/imdb", "sc/twitter"
FINE_GRAINED = (ATSA, ACSA, ASQP, OPENER)
SENTENCE = "We liked the old oak bar but not the oak stools ."
QUAD = {"aspect_term": "bar", "aspect_category": "ambience general", "opinion": "liked", "sentiment": "positive"}
VALUES = st.sampled_from(["a", "b", "positive", "negative", "conflict", "NULL", " a ", "", "zz", 1, None])
OBJECTS = st.sampled_from(list(ANSWER_KEYS.values())).flatmap(
    lambda keys: st.dictionaries(st.sampled_from([*keys, "more"]), VALUES, max_size=5)
)
ANSWERS = st.lists(OBJECTS | VALUES | st.lists(VALUES, max_size=2), max_size=4)


def aspect(target: str | None, polarity: str, *offsets: object, category: str = "FOOD#QUALITY") -> dict[str, Any]:
    return {
        "target": target,
        "polarity": polarity,
        "category": category,
        **dict(zip(("from", "to"), offsets, strict=False)),
    }


def annotated(sentence: str, *opinions: tuple[str, str, str, str]) -> dict[str, Any]:
    """A row of opener; the parts of an opinion are texts joined by +."""

    def spans(texts: str) -> list[list[str]]:
        parts = [text for text in texts.split("+") if text]
        return [parts, [f"{sentence.index(part)}:{sentence.index(part) + len(part)}" for part in parts]]

    keys = ("Source", "Target", "Polar_expression")
    return {
        "sentence": sentence,
        "opinions": [
            {**{key: spans(part) for key, part in zip(keys, one[:3], strict=True)}, "Polarity": one[3]}
            for one in opinions
        ],
    }


def opinion(holder: str, target: str, expression: str, polarity: str) -> dict[str, str]:
    return dict(zip(ANSWER_KEYS[OPENER], (holder, target, expression, polarity), strict=True))


def metrics(name: str, rows: list[dict[str, Any]], answers: list[Any]) -> list[float]:
    """Precision, recall and F1; answers that are no strings are shown as JSON."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in answers]
    return [float(value) for value in metrics_of(name, row_counts(name, rows, texts).sum(axis=0))]


def test_the_sets_are_those_of_the_protocol() -> None:
    assert {name: (one.category, one.labels, one.field, one.max_new_tokens) for name, one in SETS.items()} == {
        "sc/imdb": ("basic", ("negative", "positive"), "Label", 0),
        "sc/yelp2": ("basic", ("negative", "positive"), "Label", 0),
        "sc/sst2": ("basic", ("negative", "positive"), "Label", 0),
        "sc/twitter": ("basic", ("negative", "positive", "neutral"), "Label", 0),
        "multifaced/irony18": ("multifaceted", ("non-irony", "irony"), "Label", 0),
        "multifaced/tweeteval": ("multifaceted", ("anger", "joy", "sadness", "optimism"), "Label", 0),
        "multifaced/pstance": ("multifaceted", ("against", "favor"), "Label", 0),
        "multifaced/intimacy": (
            "multifaceted",
            ("not intimate", "moderately intimate", "highly intimate"),
            "Label",
            0,
        ),
        "absa/atsa_rest16": ("fine-grained", (), "Output", 150),
        "absa/acsa_rest16": ("fine-grained", (), "Output", 150),
        "absa/asqp_rest16": ("fine-grained", (), "Output", 150),
        "absa/opener": ("fine-grained", (), "Output", 300),
    }
    order = ["imdb", "yelp2", "sst2", "twitter", "irony18", "tweeteval", "pstance", "intimacy"]
    assert [name.split("/")[1] for name in SETS] == [*order, "atsa_rest16", "acsa_rest16", "asqp_rest16", "opener"]


@pytest.mark.parametrize("name", SETS)
def test_an_instruction_says_what_an_answer_may_hold(name: str) -> None:
    polarities = ("positive", "negative", "neutral", "NULL") if name in FINE_GRAINED and name != ACSA else ()
    categories = ASPECT_CATEGORIES if name in (ACSA, ASQP) else ()
    for word in (*SETS[name].labels, *ANSWER_KEYS.get(name, ()), *polarities, *categories):
        assert word in SETS[name].instruction
    assert ("{target}" in SETS[name].instruction) == (name == PSTANCE)
    example = parse_answer(SETS[name].instruction)
    assert example is None if SETS[name].labels else [tuple(one) for one in example or []] == [ANSWER_KEYS[name]]


def test_sets_are_named_by_themselves_or_by_category() -> None:
    assert names_of(None) == list(SETS)
    assert names_of("fine-grained") == list(FINE_GRAINED)
    assert names_of(" absa/opener,sc/imdb, sc/imdb ,basic") == [IMDB, "sc/yelp2", "sc/sst2", TWITTER, OPENER]
    with pytest.raises(InputError, match=r"'imdb', '' is no set.*basic, multifaceted, fine-grained.*absa/opener"):
        names_of("imdb,,sc/imdb")


def test_all_missing_files_are_listed_at_once(tmp_path: Path) -> None:
    data = write_sentibench(tmp_path)
    check_data(data, list(SETS))
    missing = [data / IMDB / "test.json", data / OPENER / "train.json", data / OPENER / "test.json"]
    for file in missing:
        file.unlink()
    with pytest.raises(InputError) as raised:
        check_data(data, list(SETS))
    assert [line.strip() for line in str(raised.value).splitlines()[1:4]] == [str(file) for file in missing]
    assert "3 file(s)" in str(raised.value)
    assert "HITSZ-HLT/Sentiment-Distillation" in str(raised.value)
    assert "--tasks" in str(raised.value)
    check_data(data, names_of("multifaceted"))


def test_files_are_read_with_and_without_byte_order_mark(tmp_path: Path) -> None:
    data = write_sentibench(tmp_path, train=5, test=4)
    marked = {(data / name / "test.json").read_bytes().startswith(b"\xef\xbb\xbf") for name in SETS}
    assert marked == {True, False}
    assert {name: (len(load_rows(data, name, "train")), len(load_rows(data, name, "test"))) for name in SETS} == (
        dict.fromkeys(SETS, (5, 4))
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMDB, b"[1,", r"not JSON in UTF-8"),
        (IMDB, b"[" * 100_000, r"not JSON in UTF-8"),
        (IMDB, '["é"]'.encode("latin-1"), r"not JSON in UTF-8"),
        (IMDB, [], r"not a JSON list of rows"),
        (IMDB, {"sentence": "a", "label": "positive"}, r"not a JSON list of rows"),
        (IMDB, ["a"], r"row 0 \(from 0\): it is not an object"),
        (IMDB, [{"sentence": "a", "label": "Positive"}, {"label": "positive"}], r"row 1 .*`sentence` is not a string"),
        (IMDB, [{"sentence": "a", "label": "neutral"}], r"row 0 .*'neutral' is none of negative, positive"),
        (IMDB, [{"sentence": "a", "label": 1}], r"`label` is not a string"),
        (PSTANCE, [{"sentence": "a", "label": "FAVOR"}], r"`target` is not a string"),
        (ATSA, [{"sentence": "a", "aspects": None}], r"its `aspects` is not a list"),
        (ATSA, [{"sentence": "a", "aspects": ["b"]}], r"in its `aspects`, an item is not an object"),
        (ATSA, [{"sentence": "a", "aspects": [{"polarity": "positive"}]}], r"`target` is not a string"),
        (ATSA, [{"sentence": "a", "aspects": [aspect("a", "positive", "x")]}], r"`from` or `to` is not a number"),
        (ATSA, [{"sentence": "a", "aspects": [aspect("a", "positive", 0, True)]}], r"`from` or `to` is not a number"),
        (ACSA, [{"sentence": "a", "aspects": [{"polarity": "positive"}]}], r"`category` is not a string"),
        (ASQP, [{"sentence": "a", "quards": [{"aspect": "b", "category": "c"}]}], r"`opinion` is not a string"),
        (OPENER, [{"sentence": "a", "opinions": [{"Polarity": "Positive"}]}], r"`Source`, `Target` or `Polar_"),
        (
            OPENER,
            [{"sentence": "a", "opinions": [{**annotated("a", ("a", "", "a", "x"))["opinions"][0], "Polarity": 1}]}],
            r"in its `opinions`, `Polarity` is not a string",
        ),
    ],
)
def test_rows_that_a_set_cannot_use_are_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = write_sentibench(tmp_path) / name / "train.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}.*{message}.*HITSZ-HLT"):
        load_rows(tmp_path, name, "train")


@pytest.mark.parametrize("spans", [[["a"]], [["a"], ["0-1"]], [["a"], []], [["a"], [0]], "a", [["a"], "0:1"]])
def test_spans_without_offsets_are_refused(tmp_path: Path, spans: Any) -> None:
    row = annotated("a", ("", "", "a", "Positive"))
    row["opinions"][0]["Target"] = spans
    (write_sentibench(tmp_path) / OPENER / "test.json").write_text(json.dumps([row]))
    with pytest.raises(InputError, match="offsets b:e"):
        load_rows(tmp_path, OPENER, "test")


def test_a_file_that_is_gone_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.json cannot be read.*HITSZ-HLT"):
        load_rows(tmp_path, IMDB, "train")


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_users_instructions_replace_ours(tmp_path: Path, suffix: str) -> None:
    given = {IMDB: "Review? Answer {yes}.", PSTANCE: "Against {target}?"}
    path = tmp_path / f"prompts.{suffix}"
    path.write_text("\ufeff" + json.dumps(given, indent="\t" if suffix == "json" else 2), encoding="utf-8")
    ours = {name: one.instruction for name, one in SETS.items()}
    assert load_instructions(None) == ours
    assert load_instructions(path) == ours | given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imdb: text", r"'imdb' is no set of SentiBench; the sets are sc/imdb"),
        ("sc/imdb: 3", r"the instruction of sc/imdb is not a string"),
        ("multifaced/pstance: text", r"lacks \{target\}"),
        ("- text", "must be a mapping"),
        ("a: [", "not valid JSON or YAML"),
        (None, "cannot be read"),
    ],
)
def test_instructions_that_are_none_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "prompts.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"prompts\.yaml.*{message}"):
        load_instructions(path)


LABELLED = [{"sentence": f"s{number}", "label": "NEGATIVE" if number % 2 else "positive"} for number in range(6)]


def test_a_prompt_is_instruction_demonstrations_and_sentence() -> None:
    train = [{"sentence": "good", "label": "POSITIVE"}]
    assert make_prompts(SETS[IMDB], [{"sentence": "bad", "label": "negative"}], train, 1, 42, "Rate {target}: {}.") == [
        "Rate {target}: {}.\n\nSentence: good\nLabel: positive\n\nSentence: bad\nLabel:"
    ]
    quads = [{"aspect": "NULL", "category": "food prices", "opinion": "café", "sentiment": "negative"}]
    shown = (
        '[\n  {\n    "aspect_term": "NULL",\n    "aspect_category": "food prices",\n'
        '    "opinion": "café",\n    "sentiment": "negative"\n  }\n]'
    )
    row = {"sentence": "a", "quards": quads}
    assert make_prompts(SETS[ASQP], [row], [row], 1, 42, "Q") == [
        f"Q\n\nSentence: a\nOutput: {shown}\n\nSentence: a\nOutput:"
    ]


def test_a_stance_is_asked_of_the_rows_target_and_shown_of_its_own() -> None:
    train = [{"sentence": "no", "label": "AGAINST", "target": "Joe Biden"}]
    test = [{"sentence": "{target}", "label": "FAVOR", "target": "Donald {x} Trump"}]
    assert make_prompts(SETS[PSTANCE], test, train, 1, 42, '{"on": "{target}"}') == [
        '{"on": "Donald {x} Trump"}\n\nSentence: no\nLabel: against(opinion towards \'Joe Biden\')\n\n'
        "Sentence: {target}\nLabel:"
    ]


@pytest.mark.parametrize("shots", [0, 1, 4, 6])
def test_demonstrations_are_drawn_anew_for_each_row_from_one_stream(shots: int) -> None:
    draw = random.Random(52)
    expected = [[one["sentence"] for one in draw.sample(LABELLED, shots)] for _ in LABELLED]
    prompts = make_prompts(SETS[IMDB], LABELLED, LABELLED, shots, 52, "I")
    assert [re.findall("Sentence: (.*)", prompt)[:-1] for prompt in prompts] == expected
    assert [prompt.count("\n\n") for prompt in prompts] == [shots + 1] * len(LABELLED)


def test_more_shots_than_training_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"sc/imdb: 7 shots of 6 training rows; lower --shots"):
        make_prompts(SETS[IMDB], LABELLED, LABELLED, 7, 42, "I")


def test_gold_answers_hold_the_gold_tuples() -> None:
    aspects = [
        aspect("stools", "negative", "41", "47", category="FOOD#STYLE_OPTIONS"),
        aspect("bar", "positive", "21", "24"),
        aspect("bar", "positive", "21", "24"),
        aspect("NULL", "neutral", "0", "0", category="SERVICE#GENERAL"),
    ]
    row = {"sentence": SENTENCE, "aspects": aspects}
    terms = [{"aspect_term": "bar", "sentiment": "positive"}, {"aspect_term": "stools", "sentiment": "negative"}]
    assert json.loads(gold_answer(ATSA, row)) == terms
    assert [tuple(one.values()) for one in json.loads(gold_answer(ACSA, row))] == [
        ("food style_options", "negative"),
        ("food quality", "positive"),
        ("food quality", "positive"),
        ("service general", "neutral"),
    ]
    assert gold_answer(ATSA, {"sentence": "a", "aspects": []}) == "[]"
    opinions = annotated(SENTENCE, ("We", "the old+stools", "liked", "Positive"), ("", "", "not", "NEGATIVE"))
    assert json.loads(gold_answer(OPENER, opinions)) == [
        opinion("We", "the old AND stools", "liked", "positive"),
        opinion("NULL", "NULL", "not", "negative"),
    ]
    assert json.loads(gold_answer(OPENER, annotated("a"))) == [opinion("NULL", "NULL", "NULL", "NULL")]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[]", []),
        (' [1, "a"] \n', [1, "a"]),
        ('Sure:\n```json\n[{"a": "b"}]\n``` done', [{"a": "b"}]),
        ('{"a": [1]}', [1]),
        ("\ufeff[1]", [1]),
        ("[1] and [2]", None),
        ("[1, 2", None),
        ("]1[", None),
        ('{"a": 1}', None),
        ("null", None),
        ("", None),
        ("[" * 200_000 + "]" * 200_000, None),
        (f"[{'9' * 5000}]", None),
        (r'["\ud800"]', ["\ud800"]),
    ],
)
def test_an_answer_is_the_whole_or_what_the_outer_brackets_hold(text: str, answer: list[Any] | None) -> None:
    assert parse_answer(text) == answer


@given(st.text(st.sampled_from('[]{}",:\\u d8NnaIe09-\n\ud800') | st.characters()))
def test_no_text_breaks_the_parser(text: str) -> None:
    answer = parse_answer(text)
    assert answer is None or isinstance(answer, list)
    row = {"sentence": "a", "aspects": [], "quards": [], "opinions": []}
    for name in FINE_GRAINED:
        assert metrics(name, [row], [text])[1:] == [0.0, 0.0]


def test_gold_terms_are_told_apart_by_their_offsets_and_ordered_by_them() -> None:
    aspects = [
        aspect("b", "positive", "100", "101"),
        aspect("b", "positive", "9", "10"),
        aspect("b", "positive", "9", "10"),
        aspect("b", "negative", "9", "10"),
        aspect(None, "positive"),
        aspect("NULL", "positive", "2", "3"),
        aspect("c", "neutral", "9", "9"),
        aspect("d", "neutral", None, 3),
        aspect("e", "neutral"),
    ]
    terms = gold_tuples(ATSA, {"sentence": "", "aspects": aspects})
    assert terms == [
        ("e", "neutral"),
        ("d", "neutral"),
        ("c", "neutral"),
        ("b", "positive"),
        ("b", "negative"),
        ("b", "positive"),
    ]


def test_gold_quadruples_are_compared_as_they_are() -> None:
    # as the published figures were made: white space around a gold value is kept, around a predicted one it is not
    quad = {"aspect": "bar", "category": "ambience general", "opinion": "liked ", "sentiment": "positive"}
    row = {"sentence": SENTENCE, "quards": [quad, quad]}
    assert gold_tuples(ASQP, row) == [("bar", "ambience general", "liked ", "positive")] * 2
    assert metrics(ASQP, [row], [gold_answer(ASQP, row)]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "item", "expected"),
    [
        (ASQP, {**QUAD, "opinion": " liked\n"}, [("bar", "ambience general", "liked", "positive")]),
        (ASQP, {**QUAD, "sentiment": "mixed"}, [("bar", "ambience general", "liked", "mixed")]),
        (ASQP, {**QUAD, "more": "x"}, []),
        (ASQP, {key: value for key, value in QUAD.items() if key != "opinion"}, []),
        (ASQP, {**QUAD, "opinion": None}, []),
        (ASQP, list(QUAD.values()), []),
        (ACSA, {"aspect_category": " food quality ", "sentiment": "neutral "}, [("food quality", "neutral")]),
        (ACSA, {**QUAD, "sentiment": "negative"}, [("ambience general", "negative")]),
        (ACSA, {"aspect_category": "food quality", "sentiment": "conflict"}, [None]),
        (ACSA, {"aspect_category": "food quality"}, [None]),
        (ACSA, {"aspect_category": 3, "sentiment": "neutral"}, [None]),
        (ACSA, "food quality", [None]),
        (ATSA, {"aspect_term": " oak bar", "sentiment": "conflict"}, [("oak bar", "conflict")]),
        (ATSA, {"aspect_term": "bar", "sentiment": "positive", "more": 1}, [("bar", "positive")]),
        (ATSA, {"aspect_term": "Bar", "sentiment": "positive"}, [None]),
        (ATSA, {"aspect_term": "bar", "sentiment": "Positive"}, [None]),
        (ATSA, {"aspect_term": None, "sentiment": "positive"}, [None]),
        (ATSA, None, [None]),
    ],
)
def test_an_item_is_a_tuple_or_wrong_or_dropped(name: str, item: Any, expected: list[Any]) -> None:
    assert predicted_tuples(name, {"sentence": SENTENCE}, [item]) == expected


@pytest.mark.parametrize(
    ("sentence", "spans"),
    [
        ("", []),
        (" ", []),
        ("a bc", [(0, 1), (2, 4)]),
        (" a", [(1, 2)]),
        ("  a", [(1, 1), (2, 3)]),
        ("a  b ", [(0, 1), (2, 2), (3, 4)]),
        ("a  ", [(0, 1), (2, 2)]),
        ("a\tb\nc", [(0, 5)]),
    ],
)
def test_tokens_are_split_at_every_single_space(sentence: str, spans: list[tuple[int, int]]) -> None:
    assert token_spans(sentence) == spans


def test_annotated_spans_cover_whole_tokens() -> None:
    row = annotated(SENTENCE, ("We", "the old+stools", "liked", "Positive"), ("", "", "not", "Negative"))
    assert gold_opinions(row) == [
        Opinion(frozenset({0}), frozenset({2, 3, 10}), frozenset({1}), "positive"),
        Opinion(NO_TOKENS, NO_TOKENS, frozenset({7}), "negative"),
    ]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        # "oak" is where it first occurs
        (opinion("We", "oak", " liked ", "positive"), (frozenset({0}), frozenset({4}), frozenset({1}))),
        # parts that are not found are left out
        (opinion("I", "old AND chairs AND stools", "not", "neutral"), (NO_TOKENS, frozenset({3, 10}), frozenset({7}))),
        (opinion("NULL", "NULL", "NULL", "negative"), (NO_TOKENS, NO_TOKENS, frozenset())),
        # no token ends where "bar but n" ends: the rest of the sentence; none begins at "e": nothing
        (opinion("e", "bar but n", "liked", "positive"), (NO_TOKENS, frozenset(range(5, 12)), frozenset({1}))),
        # an empty part is found at 0, where no token ends
        (opinion("We", "", "liked", "positive"), (frozenset({0}), frozenset(range(12)), frozenset({1}))),
    ],
)
def test_predicted_parts_are_where_they_first_occur(item: Any, expected: tuple[frozenset[int], ...]) -> None:
    assert predicted_opinions({"sentence": SENTENCE}, [item]) == [Opinion(*expected, item["sentiment_polarity"])]


def test_parts_are_split_at_and_even_inside_a_word() -> None:
    row = {"sentence": "Y S or SANDY ."}
    assert predicted_opinions(row, [opinion("SANDY", "SANDY", "or", "positive")]) == [
        Opinion(frozenset({3}), frozenset({0, 1}), frozenset({2}), "positive")
    ]


@pytest.mark.parametrize(
    "item",
    [
        {**opinion("We", "bar", "liked", "positive"), "more": "x"},
        {key: value for key, value in opinion("We", "bar", "liked", "positive").items() if key != "holder"},
        {**opinion("We", "bar", "liked", "positive"), "holder": None},
        opinion("We", "bar", "liked", "Positive"),
        opinion("We", "bar", "liked", "NULL"),
        ["We", "bar", "liked", "positive"],
    ],
)
def test_invalid_opinions_are_dropped(item: Any) -> None:
    assert predicted_opinions({"sentence": SENTENCE}, [item]) == []


def test_partial_overlaps_are_weighted() -> None:
    row = annotated(SENTENCE, ("We", "the old oak bar", "liked", "Positive"), ("", "stools", "not", "Negative"))
    answer = [opinion("We", "oak bar", "liked the", "positive"), opinion("NULL", "stools", "not", "positive")]
    # predicted: holder 1/1, target 2/2, expression 1/2; annotated: 1/1, 2/4, 1/1; the others differ in polarity
    assert row_counts(OPENER, [row], [json.dumps(answer)]).tolist() == [
        [pytest.approx(5 / 6), 2, pytest.approx(5 / 6), 2]
    ]
    assert metrics(OPENER, [row], [answer]) == [pytest.approx(5 / 12)] * 3


def test_the_best_overlap_counts_whatever_its_polarity_once_one_polarity_matches() -> None:
    row = annotated(SENTENCE, ("We", "the old oak bar", "liked", "Positive"))
    answer = [opinion("We", "oak bar", "liked", "positive"), opinion("We", "the old oak bar", "liked", "negative")]
    assert metrics(OPENER, [row], [answer]) == [0.5, 1.0, pytest.approx(2 / 3)]


def test_an_empty_holder_or_target_matches_an_empty_one_only() -> None:
    row = annotated(SENTENCE, ("", "", "not", "Negative"))
    assert metrics(OPENER, [row], [[opinion("NULL", "NULL", "not", "negative")]]) == [1.0, 1.0, 1.0]
    assert metrics(OPENER, [row], [[opinion("We", "NULL", "not", "negative")]]) == [0.0, 0.0, 0.0]
    assert metrics(OPENER, [row], [[opinion("NULL", "bar", "not", "negative")]]) == [0.0, 0.0, 0.0]
    assert metrics(OPENER, [row], [[opinion("NULL", "NULL", "NULL", "negative")]]) == [0.0, 0.0, 0.0]
    nothing = Opinion(NO_TOKENS, NO_TOKENS, frozenset(), "negative")
    assert total_weight([nothing], [nothing]) == 0.0


def test_labels_are_counted_in_any_case_and_others_are_wrong() -> None:
    rows = [{"label": label} for label in ("Negative", "positive", "neutral")]
    counts = row_counts(TWITTER, rows, [" NEGATIVE\n", "neutral", "great"])
    assert counts.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1]]
    assert counts.dtype == np.float64
    assert metrics_of(TWITTER, counts.sum(axis=0)).tolist() == [pytest.approx(1 / 3)] * 3


def test_unparseable_predictions_are_counted() -> None:
    assert unparseable(TWITTER, [" Positive ", "great", "", "positive."]) == 3
    assert unparseable(ATSA, ["[]", "none", "see [1]", '{"a": 1}']) == 2


@given(st.lists(st.tuples(*[st.sampled_from(SETS[TWITTER].labels)] * 2) | st.just(("neutral", "great")), min_size=1))
def test_label_metrics_equal_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = ([pair[side] for pair in pairs] for side in (0, 1))
    occurring = [label for label in SETS[TWITTER].labels if label in {*gold, *predicted}]
    expected = precision_recall_fscore_support(gold, predicted, labels=occurring, average="macro", zero_division=0)
    assert metrics(TWITTER, [{"label": label} for label in gold], predicted) == pytest.approx(expected[:3], abs=1e-12)


def by_list_membership(name: str, rows: list[dict[str, Any]], answers: list[list[Any]]) -> list[float]:
    """The protocol's own words: tuples with the number of their row, looked up in the list of the other side."""
    predicted = [(index, one) for index, row in enumerate(rows) for one in predicted_tuples(name, row, answers[index])]
    gold = [(index, one) for index, row in enumerate(rows) for one in gold_tuples(name, row)]
    precision = sum(one in gold for one in predicted) / len(predicted) if predicted else 0.0
    recall = sum(one in predicted for one in gold) / len(gold) if gold else 0.0
    return [precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0]


WORDS = st.sampled_from(["a", "b", "NULL", "zz"])
POLARITY = st.sampled_from(["positive", "negative"])
ASPECTS = st.builds(aspect, WORDS | st.none(), POLARITY, st.sampled_from(["0", "10", "2"]), category=WORDS)
QUADS = st.fixed_dictionaries({"aspect": WORDS, "category": WORDS, "opinion": WORDS, "sentiment": POLARITY})
OPINIONS = st.tuples(*[st.sampled_from(["", "a", "b zz", "a+zz"])] * 3, POLARITY)
ROWS = st.builds(
    lambda aspects, quads, opinions: {**annotated("a b zz", *opinions), "aspects": aspects, "quards": quads},
    st.lists(ASPECTS, max_size=3),
    st.lists(QUADS, max_size=3),
    st.lists(OPINIONS, max_size=3),
)


@given(st.sampled_from([ATSA, ACSA, ASQP]), st.lists(st.tuples(ROWS, ANSWERS), min_size=1, max_size=4))
def test_tuple_metrics_equal_list_membership(name: str, pairs: list[tuple[dict[str, Any], list[Any]]]) -> None:
    rows, answers = [row for row, _ in pairs], [answer for _, answer in pairs]
    assert metrics(name, rows, answers) == pytest.approx(by_list_membership(name, rows, answers), abs=1e-12)


@given(st.sampled_from(FINE_GRAINED), ROWS, ANSWERS)
def test_no_answer_scores_above_one(name: str, row: dict[str, Any], answer: list[Any]) -> None:
    counts = row_counts(name, [row], [json.dumps(answer)])[0]
    assert counts[0] <= counts[1] + 1e-12
    assert counts[2] <= counts[3] + 1e-12
    assert all(0 <= value <= 1 + 1e-12 for value in metrics(name, [row], [answer]))


@given(st.sampled_from([ATSA, ACSA, ASQP]), st.lists(ROWS, min_size=1, max_size=3))
def test_gold_answers_are_right(name: str, rows: list[dict[str, Any]]) -> None:
    rows = [
        {**row, "aspects": [{**one, "category": one["category"].upper()} for one in row["aspects"]]} for row in rows
    ]
    counts = row_counts(name, rows, [gold_answer(name, row) for row in rows]).sum(axis=0)
    assert counts[0] == counts[1] == counts[2] == counts[3]


@pytest.mark.parametrize("name", SETS)
def test_gold_answers_to_a_whole_set_score_one(tmp_path: Path, name: str) -> None:
    rows = load_rows(write_sentibench(tmp_path), name, "test")
    answers = [row["label"] if name == PSTANCE else gold_answer(name, row) for row in rows]
    assert metrics(name, rows, answers) == [1.0, 1.0, 1.0]
    assert unparseable(name, answers) == 0


def test_a_gold_answer_is_not_found_where_its_words_occur_before() -> None:
    row = annotated(SENTENCE, ("", "stools", "not", "Negative"))
    second = SENTENCE.rindex("oak")
    row["opinions"][0]["Target"] = [["oak"], [f"{second}:{second + 3}"]]
    assert metrics(OPENER, [row], [gold_answer(OPENER, row)]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", FINE_GRAINED)
def test_where_there_is_nothing_to_find_scores_are_zero(name: str) -> None:
    row = {"sentence": "a", "aspects": [], "quards": [], "opinions": []}
    assert metrics(name, [row], ["[]"]) == [0.0, 0.0, 0.0]


def test_metrics_are_taken_of_many_sums_at_once() -> None:
    sums = np.array([[[1.0, 2, 3, 4]], [[0, 0, 0, 4]]])
    assert metrics_of(ATSA, sums).tolist() == [[[0.5, 0.75, 0.6]], [[0.0, 0.0, 0.0]]]
    labels = np.array([[1.0, 1, 2, 0, 1, 0], [2, 2, 2, 0, 0, 0]])
    assert metrics_of(IMDB, labels).tolist() == [[0.5, 0.25, pytest.approx(1 / 3)], [1.0, 1.0, 1.0]]


def found_in(right: list[bool]) -> Any:
    """Counts of rows with one gold tuple and one prediction each."""
    return np.array([[one, 1, one, 1] for one in right], np.float64)


def test_rows_are_resampled_for_all_seeds_alike() -> None:
    right = [True, False, False, True, False, False, False]
    interval, draws = bootstrap(ATSA, [found_in(right), found_in([not one for one in right])], draws=50)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert draws.tolist() == [0.5] * 50


def test_the_interval_is_that_of_the_draws() -> None:
    counts = found_in([True] * 60 + [False] * 40)
    interval, draws = bootstrap(ATSA, [counts], draws=4000)
    assert interval.value == 0.6
    assert [interval.low, interval.high] == np.percentile(draws, [2.5, 97.5]).tolist()
    # of a share: plus and minus 1.96 standard errors of 0.049
    assert (interval.low, interval.high) == pytest.approx((0.504, 0.696), abs=0.011)
    assert draws.shape == (4000,)
    assert draws.std() == pytest.approx(0.049, abs=0.003)


def test_draws_are_repeatable_and_differ_by_seed() -> None:
    counts = [found_in([True, False, True, False, True])] * 3
    first, again, other = (bootstrap(ATSA, counts, draws=30, seed=seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_labels_are_resampled_too() -> None:
    rows = [{"label": label} for label in ("negative", "positive") * 40]
    counts = row_counts(IMDB, rows, ["negative", "positive"] * 30 + ["positive", "negative"] * 10)
    interval, draws = bootstrap(IMDB, [counts, counts])
    assert interval.value == 0.75
    assert 0.6 < interval.low < 0.7 < 0.8 < interval.high < 0.9
    assert draws.shape == (1000,)


def test_one_row_has_no_interval() -> None:
    interval, draws = bootstrap(ATSA, [found_in([True]), found_in([False])], draws=3)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert draws.tolist() == [0.5] * 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n\n"])
def test_predictions_are_read_in_their_order(tmp_path: Path, encoding: str, end: str) -> None:
    given = ["positive", "[\u2028]\n", ""]
    path = tmp_path / "predictions.jsonl"
    lines = [json.dumps({"prediction": one, "row": 1}, ensure_ascii=False) for one in given]
    path.write_bytes(("\n".join(lines) + end).encode(encoding))
    assert read_predictions(path, 3) == given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prediction": "a"}\n{"prediction": 1}', r"line 2: not an object .* 2 such lines are expected"),
        ('{"prediction": "a"}\n{"prediction": null}', r"line 2: not an object"),
        ('{"answer": "a"}\n{"prediction": "a"}', r"line 1: not an object"),
        ('{"prediction": "a"}\n\n{"prediction": "a"}', r"line 2: not an object"),
        ('"a"\n{"prediction": "a"}', r"line 1: not an object"),
        ('{"prediction": "a"', r"line 1: not an object"),
        ("", r"line 1: not an object"),
        ('{"prediction": "a"}', r" has 1 lines; 2 are expected, one per test row"),
        ('{"prediction": "a"}\n' * 3, r" has 3 lines; 2 are expected"),
        (None, r" cannot be read"),
    ],
)
def test_predictions_that_are_not_one_per_row_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "predictions.jsonl"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"predictions\.jsonl.*{message}"):
        read_predictions(path, 2)


def test_a_tiny_benchmark_is_deterministic(tmp_path: Path) -> None:
    first, second = write_sentibench(tmp_path / "a"), write_sentibench(tmp_path / "b")
    for name in SETS:
        assert load_rows(first, name, "test") == load_rows(second, name, "test")
        labels = {row["label"].lower() for row in load_rows(first, name, "test") if "label" in row}
        assert labels == set(SETS[name].labels)
