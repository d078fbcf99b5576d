"""What a test of publishing needs: a refusal looked at closely, a dataset read back from the Hub, rows compared."""

import json
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl

from tests.hub_server import USERS

READ = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import snapshot_download
name, revision, folder = sys.argv[1:]
configs = {config: load_dataset(name, config, revision=revision) for config in
           get_dataset_config_names(name, revision=revision)}
snapshot_download(name, repo_type="dataset", revision=revision, local_dir=folder)
print(json.dumps({config: {split: rows.to_list() for split, rows in splits.items()}
                  for config, splits in configs.items()}))
"""


def check_refused(done: "CompletedProcess[str]", code: int, *words: str) -> None:
    """A message names cause and remedy; there is no traceback and no token in it."""
    told = " ".join(done.stderr.split())
    assert done.returncode == code, done.stdout + told
    assert [part for part in words if part not in told] == [], told
    assert not [part for part in (*USERS, "Traceback") if part in done.stdout + done.stderr]


def loaded(name: str, revision: str, folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return all splits of all configs as `datasets` loads them, in a process of its own; leave a snapshot too."""
    command = [sys.executable, "-c", READ, name, revision, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(done.stdout)
    return found


def rows_of(run: Path) -> pl.DataFrame:
    """Return every sample of a run with what its tables say of it."""
    tables = {path.stem: pl.read_parquet(path) for path in run.glob("*.parquet")}
    said = tables["instructions"].select("instruction_id", "task_type", "perspective_id", task_name="name")
    return (
        tables["responses"].drop("reason").rename({"sample_id": "id", "output": "completion"})
        .join(tables["texts"], on="text_id").join(said, on="instruction_id")
        .join(tables["perspectives"].select("perspective_id", perspective="head"), on="perspective_id")
        .join(tables["scores"].rename({"sample_id": "id"}), on="id", how="left")
        .join(tables["decisions"].select("kept", "reason", id="sample_id", rejected_by="stage"), on="id")
    )  # fmt: skip


def check_rows(shown: list[dict[str, Any]], rows: pl.DataFrame) -> None:
    """Check row by row, and column by column, all that the tables of the run say."""
    columns = [name for name in shown[0] if name in rows.columns]
    assert {"id", "prompt", "completion", "text", "domain", "task_type", "perspective"} <= {*columns}
    wanted = {row["id"]: row for row in rows.select(columns).to_dicts()}
    assert {row["id"]: {name: row[name] for name in columns} for row in shown} == wanted
    assert len(shown) == len(wanted)
