"""Rows as Parquet shards that `datasets`, Polars and the Hub's viewer read alike."""

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from stillhouse.store import file_digest

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SHARD_BYTES = 500_000_000  # of rows in memory at most; the file is about a third of it
GROUP_ROWS = 20_000  # about 50 MB in memory: a reader of a few rows loads so many, and so does the writer


def write_shards(folder: Path, split: str, rows: pl.DataFrame | pl.LazyFrame) -> list[str]:
    """Write rows into files of `folder` as they come, and return the names.

    A name holds a digest of its rows: `datasets` caches a local folder by its file names and would go on serving the
    rows of an earlier build. The schema carries the features that `datasets` takes, with plain strings and lists:
    Polars' large ones could not be put together with other people's datasets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _Shards(folder, split)
    for group in rows.lazy().collect_batches(chunk_size=GROUP_ROWS, maintain_order=True):
        shards.write(group)
    if not shards.paths:
        shards.write(pl.DataFrame(schema=rows.lazy().collect_schema()))
    return shards.close()


class _Shards:
    """The files of a split: names tell how many there are, so they are given at the end."""

    def __init__(self, folder: Path, split: str) -> None:
        self.paths: list[Path] = []
        self._folder, self._split, self._size = folder, split, 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, group: pl.DataFrame) -> None:
        """Write a row group, into another file where it does not fit into this one."""
        table = _plain_table(group)
        size = int(group.estimated_size())
        if self._writer is None or self._size + size > SHARD_BYTES:
            self._writer = self._open(table.schema)
        self._writer.write_table(table, GROUP_ROWS)
        self._size += size

    def close(self) -> list[str]:
        """Give the files their names, and return these."""
        self._end()
        names = []
        for number, path in enumerate(self.paths):
            names.append(f"{self._split}-{number:05d}-of-{len(self.paths):05d}-{file_digest(path)[:12]}.parquet")
            path.rename(self._folder / names[-1])
        return names

    def _open(self, schema: "pa.Schema") -> "pq.ParquetWriter":
        import pyarrow.parquet as pq

        self._end()
        self.paths.append(self._folder / f".{self._split}-{len(self.paths)}.part")
        return pq.ParquetWriter(
            self.paths[-1],
            schema,
            compression="zstd",
            write_page_index=True,  # the viewer reads single pages
            use_content_defined_chunking=True,  # the Hub stores what two versions share once
        )

    def _end(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer, self._size = None, 0


def _plain_table(rows: pl.DataFrame) -> "pa.Table":
    import pyarrow as pa
    from datasets import Features

    # In one piece: where pages end depends on the pieces, which come as threads have made them.
    table = rows.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    features = Features.from_arrow_schema(pa.schema([(field.name, _plain(field.type)) for field in table.schema]))
    return table.cast(features.arrow_schema)


def _plain(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    return kind
