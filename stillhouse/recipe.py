"""The recipe: one YAML file is one run."""

import difflib
import re
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from stillhouse.errors import InputError
from stillhouse.remote import is_url
from stillhouse.sections import (
    Attributes,
    Curation,
    Domain,
    Imported,
    Instructions,
    Perspectives,
    Publish,
    Responses,
    Review,
    Runtime,
    Section,
    Teacher,
    Texts,
    TextSource,
    is_path,
)

SectionType = TypeVar("SectionType", bound=Section)


class Recipe(Section):
    """A whole run."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=80,
        description="Name of the run: of its folder under runs/, and of the dataset.",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of every draw; the same seed makes the same rows.")
    texts: Texts
    imported: Imported | None = Field(None, description="Curate prompts and completions that exist already.")
    domain: Domain = Domain.model_validate({})
    teacher: Teacher = Teacher.model_validate({})
    attributes: Attributes = Attributes.model_validate({})
    perspectives: Perspectives = Perspectives.model_validate({})
    instructions: Instructions = Instructions.model_validate({})
    responses: Responses = Responses.model_validate({})
    curation: Curation = Curation.model_validate({})
    review: Review = Review.model_validate({})
    publish: Publish = Publish.model_validate({})
    runtime: Runtime = Runtime.model_validate({})

    @model_validator(mode="after")
    def _imported_texts_are_taken_as_they_are(self) -> Self:
        if self.imported and self.texts.similarity:
            raise ValueError("`texts.similarity` is for texts, not for `imported` rows; use `curation.similarity`")
        return self

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Self:
        if self.runtime.max_cost and not self.teacher.price:
            raise ValueError("`runtime.max_cost` needs `teacher.price`")
        return self


def from_options(section: type[SectionType], options: dict[str, Any]) -> SectionType:
    """Return a section made of options of a command. Raises InputError naming the option that is wrong."""
    try:
        return section.model_validate(options)
    except ValidationError as error:
        faults = (
            f"--{'.'.join(map(str, fault['loc'])).replace('_', '-')}: {fault['msg']}" if fault["loc"] else fault["msg"]
            for fault in error.errors()
        )
        raise InputError("; ".join(faults)) from error


def read_mapping(path: Path, kind: str, what: str) -> dict[str, Any]:
    """Return the keys of a YAML file of a `kind`. Raises InputError where it is not a mapping of `what`."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{kind} {path} does not exist. It has to be a mapping of {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{kind} {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{kind} {path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{kind} {path} must be a mapping of {what}")
    return data


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe; relative paths in it start at the recipe's own folder.

    Raises InputError that lists every fault, each with its key and the remedy.
    """
    data = read_mapping(path, "recipe", "sections, like recipes/demo.yaml")
    return recipe_of(data, path.resolve().parent, f"recipe {path}")


def recipe_of(data: dict[str, Any], folder: Path, name: str = "recipe") -> Recipe:
    """Check the sections of a recipe, whose relative paths start at `folder`. Raises InputError as `load_recipe`."""
    try:
        return anchor_paths(Recipe.model_validate(data), folder)
    except ValidationError as error:
        faults = "\n".join(f"  {_explain(fault)}" for fault in error.errors())
        raise InputError(f"{name} has {error.error_count()} fault(s):\n{faults}") from error


def anchor_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with absolute paths; relative ones start at `folder`."""

    def anchor(path: str) -> str:
        return path if is_url(path) else str((folder / Path(path).expanduser()).resolve())

    def anchored_model(reference: str | list[str] | None) -> str | list[str] | None:
        if reference is None:
            return None
        if isinstance(reference, list):
            return [anchor(one) if is_path(one) else one for one in reference]
        return anchor(reference) if is_path(reference) else reference

    def anchored(section: Section, *keys: str) -> Section:
        return section.model_copy(update={key: anchored_model(getattr(section, key)) for key in keys})

    def anchored_sources(sources: list[TextSource]) -> list[TextSource]:
        return [
            source.model_copy(update={"path": anchor(source.path)}) if source.path else source for source in sources
        ]

    leaks = recipe.publish.leaks
    leaks = leaks.model_copy(update={"evaluation": anchored_sources(leaks.evaluation)})
    return recipe.model_copy(
        update={
            "texts": recipe.texts.model_copy(update={"sources": anchored_sources(recipe.texts.sources)}),
            "publish": recipe.publish.model_copy(update={"leaks": leaks}),
            "teacher": anchored(recipe.teacher, "model", "tokenizer"),
            "perspectives": anchored(recipe.perspectives, "encoder"),
            "curation": anchored(recipe.curation, "encoder", "student", "proxy"),
        }
    )


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys_beside(fault["loc"])
        close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    message = re.sub(r"^Value error, ", "", fault["msg"])
    given = fault["input"]
    hidden = isinstance(given, dict) or "api_key" in key  # a key may have been written where its name belongs
    return f"{key}: {message}" + ("" if hidden else f" (given: {given!r})")


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            inside = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
            model = next((kind for kind in inside if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
