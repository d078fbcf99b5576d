"""The run folder: whole writes, one process at a time, and clear words for damage."""

from pathlib import Path

import polars as pl
import pytest

from stillhouse.errors import InputError, RunError
from stillhouse.schemas import TEXTS
from stillhouse.store import RunFolder, replace_folder, write_atomically

ROW = {"text_id": "t", "text": "hello", "domain": "d", "source": "s", "licence": "l", "language": "en"}


def test_a_table_comes_back_as_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_table("texts", pl.DataFrame([ROW]))
    assert folder.read_table("texts").to_dicts() == [ROW]
    assert folder.read_table("texts").schema == TEXTS
    assert [path.name for path in tmp_path.iterdir()] == ["texts.parquet"]


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"texts: missing columns \['language'\], unexpected columns \['extra'\]"):
        RunFolder(tmp_path).write_table("texts", pl.DataFrame([ROW]).drop("language").with_columns(extra=1))
    assert not list(tmp_path.iterdir())


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "texts.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="cannot be read"):
        RunFolder(tmp_path).read_table("texts")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        RunFolder(tmp_path).manifest()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(InputError, match="is not empty and not a run folder"):
        RunFolder(tmp_path).manifest()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is not the manifest of a run"):
        RunFolder(tmp_path).manifest()


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked(), pytest.raises(RunError, match="another process is working"), RunFolder(tmp_path).locked():
        pass


def test_replacing_a_folder_keeps_one_of_them(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
