"""Published data as training sees it: pinned to a commit on the Hub, as it lies in a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.errors import InputError
from tests.hub_server import serve_hub
from tests.test_hub_cards_hub import NAME, write_folder
from training.data import find_dataset

PUBLISH = """
import sys
from pathlib import Path
from hub_cards.hub import Repo, publish
print(publish(Path(sys.argv[1]), Repo(sys.argv[2]), tag=sys.argv[3]).commit)
"""
FIND = """
import json, sys
from dataclasses import asdict
from training.data import find_dataset
print(json.dumps(asdict(find_dataset(sys.argv[1], sys.argv[2] or None))))
"""


def run(script: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_tag_and_a_branch_become_the_commit_they_stand_for(tmp_path: Path) -> None:
    with serve_hub() as server:
        hub = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_writer", "HF_HOME": str(tmp_path / "home")}
        hub["HF_HUB_DISABLE_XET"] = "1"
        first, second = (
            run(PUBLISH, write_folder(tmp_path / tag, version), NAME, tag, **hub)
            for version, tag in enumerate(("v1", "v2"), 1)
        )
        old, new = (json.loads(run(FIND, NAME, revision, **hub)) for revision in ("v1", ""))
    assert (old["revision"], new["revision"]) == (first, second)
    assert (old["facts"], new["facts"]) == ({"version": 1}, {"version": 2})
    assert old["files"] == {"train": ["default/train-1.parquet"], "test": ["default/test-1.parquet"]}


def test_a_folder_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_dataset(str(write_folder(tmp_path / "moods")), None)
    assert (found.revision, found.facts) == (None, {"version": 1})
    assert found.files == {"train": ["default/train-1.parquet"], "test": ["default/test-1.parquet"]}
    monkeypatch.chdir(tmp_path)
    for relative in ("moods", "./moods/", "../" + tmp_path.name + "/moods"):
        assert find_dataset(relative, None).files == found.files
    (tmp_path / "moods" / "facts.json").unlink()
    assert find_dataset(str(tmp_path / "moods"), None).facts == {}


def test_a_run_folder_is_told_from_its_dataset(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    with pytest.raises(InputError, match=r"is a run folder; the dataset it made is .*/dataset$"):
        find_dataset(str(tmp_path), None)


@pytest.mark.parametrize("content", ["[1]", "{", ""])
def test_facts_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    (write_folder(tmp_path / "moods") / "facts.json").write_text(content, "utf-8")
    with pytest.raises(InputError, match="moods"):
        find_dataset(str(tmp_path / "moods"), None)
