"""Shards: every row once and in order, types that other datasets have too, names that follow the content."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets, load_dataset

from hub_cards import shards
from hub_cards.shards import write_shards
from stillhouse.schemas import PUBLISHED


def rows_of(count: int) -> pl.DataFrame:
    rows = [{name: f"{name} {number} é\U0001f600" for name in PUBLISHED} for number in range(count)]
    messages = [{"role": "user", "content": "ü"}, {"role": "assistant", "content": ""}]
    odd = {"messages": messages, "attributes": [], "difficulty": 0.5, "perplexity": None, "ifd": 1e300}
    return pl.DataFrame([row | odd for row in rows], schema=PUBLISHED)


def test_a_large_table_is_several_files_with_all_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(100)
    monkeypatch.setattr(shards, "GROUP_ROWS", 10)
    monkeypatch.setattr(shards, "SHARD_BYTES", rows.estimated_size() // 3)
    names = write_shards(tmp_path / "default", "train", rows)
    assert [name[:20] for name in names] == [f"train-{number:05d}-of-00004" for number in range(4)]
    assert pl.concat([pl.read_parquet(tmp_path / "default" / name) for name in names]).equals(rows)
    loaded = load_dataset(str(tmp_path), data_dir="default", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == rows.to_dicts()


def test_the_schema_has_features_and_types_of_other_datasets(tmp_path: Path) -> None:
    (name,) = write_shards(tmp_path, "train", rows_of(3))
    schema = pq.read_schema(tmp_path / name)
    assert b"huggingface" in schema.metadata
    assert schema.field("prompt").type == pa.string()
    assert schema.field("attributes").type.value_type == pa.string()
    loaded = load_dataset("parquet", data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "c"))
    other = Dataset.from_list([{"prompt": "a", "completion": "b"}])
    assert len(concatenate_datasets([loaded.select_columns(["prompt", "completion"]), other])) == 4


def test_row_groups_are_small_enough_to_look_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GROUP_ROWS", 10)
    (name,) = write_shards(tmp_path, "train", rows_of(25))
    found = pq.ParquetFile(tmp_path / name).metadata
    assert [found.row_group(number).num_rows for number in range(found.num_row_groups)] == [10, 10, 5]


def test_bytes_do_not_depend_on_the_pieces_that_rows_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GROUP_ROWS", 10)
    rows = rows_of(57)
    whole = write_shards(tmp_path, "train", rows)
    for size in (1, 7):
        assert write_shards(tmp_path, "train", pl.concat(rows.iter_slices(size), rechunk=False)) == whole
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=3)
    assert write_shards(tmp_path, "train", pl.scan_parquet(tmp_path / "rows.parquet")) == whole
    assert not list(tmp_path.glob(".*"))


def test_a_name_follows_the_content_and_no_rows_are_a_file_too(tmp_path: Path) -> None:
    first, again = (write_shards(tmp_path, "train", rows_of(3)) for _ in range(2))
    assert first == again != write_shards(tmp_path, "train", rows_of(4))
    (empty,) = write_shards(tmp_path, "test", rows_of(3).clear())
    assert pl.read_parquet(tmp_path / empty).schema == PUBLISHED
