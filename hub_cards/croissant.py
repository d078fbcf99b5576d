"""Croissant metadata of a dataset folder: files with their digests, and the columns of each config."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from stillhouse.store import file_digest

PARQUET = "application/x-parquet"
LICENCES = "https://spdx.org/licenses/"
SPDX = re.compile(r"[A-Za-z0-9.+-]+")


def croissant(facts: Mapping[str, Any], configs: Mapping[str, Mapping[str, Sequence[str]]], folder: Path) -> str:
    """Return the content of `croissant.json` (Croissant 1.0), which mlcroissant reads the rows by.

    `configs` names the files of each split of each config in `folder`; each is a record set. Nested columns are left
    out: Croissant has fields of single values and lists of them.
    """
    import mlcroissant

    files, records = [], []
    for config, splits in configs.items():
        for split, names in splits.items():
            for number, name in enumerate(names):
                path, key = f"{config}/{name}", f"{config}-{split}" + (f"-{number}" if len(names) > 1 else "")
                digest = file_digest(folder / path)
                files.append(
                    mlcroissant.FileObject(
                        id=key, name=key, content_url=path, encoding_formats=[PARQUET], sha256=digest
                    )
                )
                records.append(_records(key, pl.read_parquet_schema(folder / path)))
    metadata = mlcroissant.Metadata(
        name=facts["name"],
        description=f"Distillation dataset {facts['name']}: {facts['funnel']['kept']} rows, made with stillhouse.",
        cite_as="CompEffDist, EMNLP 2025, arXiv 2510.24425",
        license=[_licence(facts["licence"])] if facts["licence"] else None,
        distribution=files,
        record_sets=records,
    )
    return json.dumps(metadata.to_json(), indent=2, ensure_ascii=False, default=str) + "\n"


def _records(key: str, schema: Mapping[str, Any]) -> Any:
    import mlcroissant

    fields = []
    for name, dtype in schema.items():
        kind = _type_of(dtype.inner if isinstance(dtype, pl.List) else dtype)
        if kind is None:
            continue
        source = mlcroissant.Source(file_object=key, extract=mlcroissant.Extract(column=name))
        fields.append(mlcroissant.Field(id=f"{key}/{name}", name=name, data_types=kind, source=source))
    return mlcroissant.RecordSet(id=f"{key}-rows", name=f"{key}-rows", fields=fields)


def _licence(licence: str) -> str:
    """Return the address of an SPDX licence; other terms are named as they are."""
    return f"{LICENCES}{licence}" if SPDX.fullmatch(licence) else licence


def _type_of(dtype: Any) -> Any:
    from mlcroissant import DataType

    if dtype.is_integer():
        return DataType.INTEGER
    if dtype.is_float():
        return DataType.FLOAT
    return {pl.String: DataType.TEXT, pl.Boolean: DataType.BOOL}.get(dtype.base_type())
