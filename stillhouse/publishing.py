"""Publishing: a run or a trained student goes to the Hub or into a folder, if nothing speaks against it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from stillhouse.build import fingerprints
from stillhouse.display import Display
from stillhouse.errors import InputError, RunError
from stillhouse.job import opened, quiet_libraries
from stillhouse.recipe import load_recipe
from stillhouse.schemas import TABLES
from stillhouse.sections import UNKNOWN
from stillhouse.stages import stages_of
from stillhouse.store import RunFolder

if TYPE_CHECKING:
    from hub_cards.folders import Published
    from hub_cards.hub import Kind, Repo


@dataclass(frozen=True)
class Publishing:
    """How something is published: see `stillhouse publish --help`."""

    tag: str | None = None
    message: str = ""
    pull_request: bool = False
    private: bool = True
    dry_run: bool = False
    waiver: str | None = None  # why it is published though no audit accepts it


def publish(path: Path, to: str, how: Publishing) -> "Published | None":
    """Publish the dataset of a run, or a student that `stillhouse train` made; return what became of it.

    Raises as `check_publishable` and `hub_cards.hub.publish` do.
    """
    quiet_libraries()
    is_student = not (path / "manifest.json").exists() and (path / "config.json").exists()
    target = _target(to, "model" if is_student else "dataset")
    if is_student:
        return _publish_student(path, target, how)
    folder = opened(path)
    with folder.locked():
        check_publishable(folder, how.waiver, Display(Console()))
        return _send(_dataset_for(folder, how.waiver, target), target, how)


def _target(to: str, kind: "Kind") -> "Repo | Path":
    from hub_cards.hub import Repo

    if not to.startswith((".", "/", "~")):
        return Repo(to, kind)
    try:
        return Path(to).expanduser()
    except RuntimeError as error:  # nobody has that name
        raise InputError(f"--to {to}: {error}; give another folder") from error


def _publish_student(path: Path, target: "Repo | Path", how: Publishing) -> "Published | None":
    from hub_cards.model import write_model_card

    if how.waiver is not None:
        raise InputError("--without-audit is for datasets; a student's card says what its dataset's audit found")
    write_model_card(path, _id_of(target))
    return _send(path, target, how)


def _send(folder: Path, target: "Repo | Path", how: Publishing) -> "Published | None":
    """Send a finished folder, or show what would be sent."""
    from hub_cards.hub import plan, publish

    display = Display(Console())
    if how.dry_run:
        display.file_changes(plan(folder, target), (folder / "README.md").read_text(encoding="utf-8"))
        return None
    with display:
        display.start("publish", total=1)
        made = publish(
            folder, target, tag=how.tag, message=how.message, pull_request=how.pull_request, private=how.private,
            report=lambda done, total: display.start("publish", total) if not done else display.update(done),
        )  # fmt: skip
    display.published(made)
    return made


def check_publishable(folder: RunFolder, waiver: str | None, display: Display) -> None:
    """Raise where a run may not leave: stages not done, licences not stated, an audit that does not accept it."""
    from hub_cards.facts import terms_of
    from hub_cards.licences import check_source_licences

    recipe, path, manifest = load_recipe(folder.recipe_path), folder.path, folder.manifest()
    missing = [stage.name for stage in stages_of(recipe) if stage.name not in manifest["stages"]]
    if missing:
        is_decided = "decisions" not in missing
        command = f"review apply {path}" if is_decided else f"run {folder.recipe_path} --out {path}"
        raise InputError(f"{path}: not done yet: {', '.join(missing)}; `stillhouse {command}` does that")
    if manifest["stages"]["audit"]["input"] != fingerprints(stages_of(recipe), recipe, folder)["audit"]["input"]:
        raise InputError(f"{path} has verdicts that its dataset does not know; `stillhouse review apply {path}` first")
    check_source_licences(recipe.texts.sources)
    if recipe.publish.licence == UNKNOWN:
        raise InputError("publish.licence: state the licence of the dataset in the recipe, then `run --update`")
    terms = None if recipe.imported else terms_of(recipe.model_dump(mode="json"))
    if terms and terms.outputs != "allowed":
        display.warn(f"training on answers of {recipe.teacher.model} is {terms.outputs}: {terms.note}")
    findings = folder.findings()
    if findings["decision"] != "accepted" and not (waiver and waiver.strip()):
        raise RunError(
            f"{path} is {findings['decision']}: {findings['why']}. `stillhouse review status {path}` shows it; to "
            'publish it all the same, say why: --without-audit "WORDS THAT WILL STAND IN THE CARD"'
        )


def _dataset_for(folder: RunFolder, waiver: str | None, target: "Repo | Path") -> Path:
    """Write the dataset as it is to stand at the target, with what changes against the version there."""
    from hub_cards.dataset import Found, write_dataset
    from hub_cards.hub import former_facts

    recipe, manifest = load_recipe(folder.recipe_path).model_dump(mode="json"), folder.manifest()
    tables = {name: folder.scan_table(name) for name in TABLES}
    accepted = folder.findings()["decision"] == "accepted"
    found = Found(
        folder.findings(),
        folder.found_by_gates(),
        waiver=None if accepted else waiver,
        former=former_facts(target),
        repo=_id_of(target),
    )
    place = folder.path / "publish"
    write_dataset(place, tables, manifest, recipe, found)
    return place


def _id_of(target: "Repo | Path") -> str | None:
    return None if isinstance(target, Path) else target.id
