"""Rows as Parquet shards that `datasets`, Polars and the Hub's viewer read alike."""

import hashlib
import io
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_BYTES = 500_000_000  # of rows in memory; the file is about a third of it
GROUP_ROWS = 20_000  # about 50 MB in memory: a reader of a few rows loads so many


def write_shards(folder: Path, split: str, rows: pl.DataFrame) -> list[str]:
    """Write rows into files of `folder` and return their names.

    A name holds a digest of its rows: `datasets` caches a local folder by its file names and would go on serving the
    rows of an earlier build. The schema carries the features that `datasets` takes, with plain strings and lists:
    Polars' large ones could not be put together with other people's datasets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, ceil(rows.estimated_size() / SHARD_BYTES))
    parts = rows.iter_slices(max(1, ceil(len(rows) / count))) if len(rows) else [rows]
    names = []
    for number, part in enumerate(parts):
        content = _parquet(part)
        digest = hashlib.sha256(content).hexdigest()[:12]
        names.append(f"{split}-{number:05d}-of-{count:05d}-{digest}.parquet")
        (folder / names[-1]).write_bytes(content)
    return names


def _parquet(rows: pl.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    features = Features.from_arrow_schema(pa.schema([(field.name, _plain(field.type)) for field in table.schema]))
    content = io.BytesIO()
    pq.write_table(
        table.cast(features.arrow_schema),
        content,
        row_group_size=GROUP_ROWS,
        compression="zstd",
        write_page_index=True,  # the viewer reads single pages
        use_content_defined_chunking=True,  # the Hub stores what two versions share once
    )
    return content.getvalue()


def _plain(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    return kind
