"""Texts come in from every kind of source; what is blank, double or broken is counted or named."""

import tracemalloc
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.errors import InputError
from stillhouse.sections import TextSource
from stillhouse.texts import normalise, read_texts, text_id

TEXTS = ["Great soup, café style.", "Line one, line two", "Жаль, не понравилось 😞"]


def write_source(folder: Path, suffix: str) -> Path:
    path = folder / f"texts.{suffix}"
    frame = pl.DataFrame({"body": TEXTS, "kind": ["a", "b", "a"]})
    if suffix == "parquet":
        frame.write_parquet(path)
    elif suffix == "csv":
        frame.write_csv(path)
    elif suffix == "json":
        frame.write_json(path)
    elif suffix == "txt":
        path.write_text("\n".join(TEXTS), encoding="utf-8")
    else:
        frame.write_ndjson(path)
    return path


def source(path: Path, **fields: object) -> TextSource:
    return TextSource.model_validate({"path": str(path), **fields})


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_tables_are_read_with_their_domains(tmp_path: Path, suffix: str) -> None:
    table, counts = read_texts([source(write_source(tmp_path, suffix), column="body", domain_column="kind")])
    assert table["text"].to_list() == TEXTS
    assert table["domain"].to_list() == ["a", "b", "a"]
    assert counts == {"read": 3, "blank": 0, "duplicate": 0}


def test_a_text_file_has_one_text_per_line(tmp_path: Path) -> None:
    table, _ = read_texts([source(write_source(tmp_path, "txt"), licence="CC0-1.0")])
    assert table["text"].to_list() == TEXTS
    assert set(table["licence"]) == {"CC0-1.0"}


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n', encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a source", encoding="utf-8")
    assert read_texts([source(tmp_path)])[0]["text"].to_list() == ["one", "two", "three"]


def test_a_dataset_id_is_loaded_by_datasets(tmp_path: Path) -> None:
    write_source(tmp_path, "csv")
    found = TextSource(path=None, dataset=str(tmp_path), column="body", limit=2)
    assert read_texts([found])[0]["text"].to_list() == TEXTS[:2]


def test_a_missing_dataset_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("huggingface_hub.constants", "datasets.config"):  # else the Hub is asked again for half a minute
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"nobody/nothing.*cannot be loaded"):
        read_texts([TextSource(path=None, dataset="nobody/nothing")])


def test_blank_and_double_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text('text\nFine.\n"  "\n""\nFINE. \nOther\n', encoding="utf-8-sig")
    table, counts = read_texts([source(path)])
    assert table["text"].to_list() == ["Fine.", "Other"]
    assert counts == {"read": 5, "blank": 2, "duplicate": 1}


def test_near_repeats_are_left_out_and_counted_where_the_recipe_says_so(tmp_path: Path) -> None:
    first = "The room was clean, the staff were kind, and breakfast was cold on both days of our stay."
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([first, f" {first.upper()}", f"{first}!!", "Other", f"{first} Never again, sorry!"]))
    table, counts = read_texts([source(path, domain="hotel")], similarity=0.9)
    assert table["text"].to_list() == [first, "Other", f"{first} Never again, sorry!"]
    assert table["domain"].to_list() == ["hotel"] * 3
    assert counts == {"read": 5, "blank": 0, "duplicate": 1, "near_duplicate": 1}
    assert len(read_texts([source(path)])[0]) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "line 2 is not a JSON object"),
        ("a.jsonl", b'{"body": "x"}\n', "has no column `text`; it has: body"),
        ("a.jsonl", b'{"text": 3}\n', "holds Int64, not text"),
        ("a.csv", b"text\nok\ncaf\xe9\n", r"line 3: not UTF-8 \(byte 0xe9\).*iconv"),
        ("a.parquet", b"not parquet", "not a readable parquet file"),
        ("a.pdf", b"x", "of no known kind; readable: .csv"),
        ("a.txt", b"\n \n", "no text is left of 2 rows read"),
    ],
)
def test_broken_sources_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_texts([source(path)])


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_texts([source(tmp_path / "no.jsonl")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no readable file"):
        read_texts([source(tmp_path / "empty")])


def test_the_table_is_the_same_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "texts.csv"
    texts = [f"Room {number % 40} was cold, and nobody cared." for number in range(50)]
    pl.DataFrame({"text": texts, "domain": [f"d{number}" for number in range(50)]}).write_csv(path)
    for batch in (1, 7, 1000):
        monkeypatch.setattr("stillhouse.schemas.BATCH_ROWS", batch)
        monkeypatch.setattr("stillhouse.texts.BATCH_ROWS", batch)
        table, counts = read_texts([source(path, domain_column="domain", limit=45)], similarity=0.99)
        assert table["text"].to_list() == texts[:40]
        assert table["domain"].to_list() == [f"d{number}" for number in range(40)]
        assert counts == {"read": 45, "blank": 0, "duplicate": 5, "near_duplicate": 0}


def test_texts_do_not_stay_python_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.schemas.BATCH_ROWS", 50)

    def peak(count: int) -> int:
        path = tmp_path / f"{count}.parquet"
        pl.DataFrame({"text": [f"{number} {'x' * 300}" for number in range(count)]}).write_parquet(path)
        tracemalloc.start()
        read_texts([source(path)])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    grown = peak(40_000) - peak(26_000)  # Polars hands over 25,000 strings at a time
    assert grown / 14_000 < 200, "bytes per text of 300; its id takes some"


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert text_id(f"  {text}\n") == text_id(text)
