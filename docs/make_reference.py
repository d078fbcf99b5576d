"""Write the pages of docs/reference/ from the code: recipe, tables and commands.

Run: make reference    (python docs/make_reference.py; tests/test_docs_reference.py says whether they are up to date)
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import polars as pl
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup
from typer.main import get_command

from stillhouse import schemas
from stillhouse.cli import app
from stillhouse.recipe import Recipe
from stillhouse.sections import Section

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Made by docs/make_reference.py; do not edit: `make reference` writes it anew. -->"
BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
LENGTHS = {"minLength": "{} characters or more", "maxLength": "{} characters at most"}
LENGTHS |= {"minItems": "{} or more", "maxItems": "{} at most"}
KINDS = {Path: "path", str: "text", int: "whole number", float: "number", bool: "flag"}
PUBLISHED = ("PUBLISHED", "REJECTED", "CORRECTIONS")
OTHERS = ("REVIEWS", "FRAME", "FAILURES", "EVALUATION", "LEAKS")


def recipe_page() -> str:
    """Return the page of the recipe: every section and key, its type, default and meaning."""
    whole = Recipe.model_json_schema()
    single = [key for key, part in whole["properties"].items() if not _section_of(part, whole)]
    lines = [NOTE, "", "# Recipe", "", _paragraph(Recipe), "", *_key_table(Recipe, whole, single), ""]
    for key, part in whole["properties"].items():
        if key not in single:
            lines += _section_lines(key, _model(_section_of(part, whole)), 2)
    return _page(lines)


def _section_lines(key: str, model: type[Section], depth: int) -> list[str]:
    """Return the heading and table of a section, then those of the sections inside it."""
    whole = model.model_json_schema()
    lines = [f"{'#' * depth} `{key}`", "", _paragraph(model), "", *_key_table(model, whole, whole["properties"]), ""]
    for name, part in whole["properties"].items():
        inner = _section_of(part, whole) or _section_of(part.get("items", {}), whole)
        if inner:
            lines += _section_lines(f"{key}.{name}", _model(inner), 3)
    return lines


def _key_table(model: type[Section], whole: dict[str, Any], keys: Any) -> list[str]:
    rows = []
    for key in keys:
        part = whole["properties"][key]
        given = model.model_fields[key].get_default()
        default = "required" if given is PydanticUndefined else "" if given is None else _default(given)
        rows.append((f"`{key}`", _kind(part, whole), default, part.get("description", "")))
    return _table(("key", "type", "default", "meaning"), rows)


def _kind(part: dict[str, Any], whole: dict[str, Any]) -> str:
    """Return a JSON Schema in words."""
    if "anyOf" in part:
        return " or ".join(_kind(one, whole) for one in part["anyOf"] if one.get("type") != "null")
    if "$ref" in part:
        return "mapping"
    if "enum" in part or "const" in part:
        return "one of " + ", ".join(_code(value) for value in part.get("enum", [part.get("const")]))
    told = {"array": "list", "object": "mapping"}.get(part["type"], part["type"])
    inside = part.get("items", {})
    if inside:
        told += " of mappings" if "$ref" in inside else f": {_kind(inside, whole)}"
    bounds = [f"{sign} {part[name]:,}" for name, sign in BOUNDS.items() if name in part]
    bounds += [words.format(part[name]) for name, words in LENGTHS.items() if name in part]
    bounds += [f"pattern `{part['pattern']}`"] if "pattern" in part else []
    return ", ".join([told, *bounds])


def _section_of(part: dict[str, Any], whole: dict[str, Any]) -> str | None:
    """Return the name of the section that a key holds, if it holds one."""
    references = [one["$ref"] for one in (part, *part.get("anyOf", [])) if "$ref" in one]
    return references[0].rpartition("/")[2] if references else None


def _model(name: str | None) -> type[Section]:
    """Return the section of a name: a class of stillhouse.sections."""
    found = {kind.__name__: kind for kind in _subclasses(Section)}
    return found[str(name)]


def _subclasses(kind: type[Section]) -> Iterator[type[Section]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _default(value: Any) -> str:
    return "see below" if isinstance(value, Section) else _code(value)


def _paragraph(model: type[Section]) -> str:
    return " ".join((model.__doc__ or "").split())


def tables_page() -> str:
    """Return the page of the tables: every column, its type and meaning, as stillhouse/schemas.py has them."""
    about, meanings = _comments()
    lines = [
        NOTE,
        "",
        "# Tables",
        "",
        "Each table of a run folder is one Parquet file with exactly these columns.",
        "",
    ]
    for title, names in (
        ("Tables of a run", [name.upper() for name in schemas.TABLES]),
        ("Published configs", PUBLISHED),
        ("Other tables", OTHERS),
    ):
        lines += [f"## {title}", ""]
        for name in names:
            schema: pl.Schema = getattr(schemas, name)
            shown = {"PUBLISHED": "default"}.get(name, name.lower())
            lines += [f"### `{shown}`", "", about[name], ""]
            rows = [(f"`{column}`", _dtype(kind), meanings(name, column)) for column, kind in schema.items()]
            lines += [*_table(("column", "type", "meaning"), rows), ""]
    return _page(lines)


def _comments() -> tuple[dict[str, str], Callable[[str, str], str]]:
    """Return what the comments of schemas.py say: above each table, and of each of its columns.

    A column without a comment has that of the first table that explains it.
    """
    source = Path(schemas.__file__).read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    about, own, first = {}, {}, {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            about[name] = _above(node.lineno, comments)
            for keyword in node.value.keywords:
                meaning = comments.get(keyword.value.end_lineno or 0)
                if keyword.arg and meaning:
                    own[name, keyword.arg] = meaning
                    first.setdefault(keyword.arg, meaning)
    return about, lambda name, column: own.get((name, column)) or first[column]


def _above(line: int, comments: dict[int, str]) -> str:
    found = []
    while line - 1 in comments:
        line -= 1
        found.insert(0, comments[line])
    return " ".join(found)


def _dtype(kind: pl.DataType) -> str:
    """Return a type as a person would say it."""
    if isinstance(kind, pl.List):
        return f"list of {_dtype(kind.inner)}"  # type: ignore[arg-type]
    if isinstance(kind, pl.Struct):
        return "{" + ", ".join(f"{field.name}: {_dtype(field.dtype)}" for field in kind.fields) + "}"  # type: ignore[arg-type]
    if isinstance(kind, pl.Enum):
        return "one of " + ", ".join(f"`{value}`" for value in kind.categories)
    return str(kind).partition("(")[0].lower()


def commands_page() -> str:
    """Return the page of the commands: what `--help` says of each, with its examples."""
    lines = [NOTE, "", "# Commands", "", "`stillhouse COMMAND --help` says the same.", ""]
    for name, command in _commands(get_command(app), "stillhouse"):
        lines += [f"## `{name}`", "", str(command.help or "").strip(), ""]
        kinds = get_type_hints(command.callback)
        rows = [_parameter(one, kinds[one.name]) for one in command.params if one.name in kinds]
        lines += [*_table(("", "type", "default", "meaning"), rows), ""]
        examples = re.sub(r"^Examples?: ", "", command.epilog or "")
        if examples:
            lines += ["```bash", *examples.split(" | "), "```", ""]
    return _page(lines)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _parameter(parameter: Any, kind: Any) -> tuple[str, str, str, str]:
    """Return the row of an argument or option."""
    is_option = parameter.param_type_name == "option"
    shown = ", ".join([*parameter.opts, *parameter.secondary_opts]) if is_option else _metavar(parameter)
    default = "required" if parameter.required else "" if _is_nothing(parameter.default) else _code(parameter.default)
    return f"`{shown}`", _words(kind), default, str(parameter.help or "")


def _words(kind: Any) -> str:
    """Return the type of an argument or option in words."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is list:
        return f"{_words(parts[0])}, repeatable"
    if get_origin(kind) is tuple:
        return " and ".join(map(_words, parts))
    return _words(parts[0]) if parts else KINDS[kind]


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper()


def _is_nothing(default: Any) -> bool:
    return default in (None, False, "", ())


def _code(value: Any) -> str:
    text = str(value) if isinstance(value, Path) else json.dumps(value, ensure_ascii=False)
    return f"`{text.strip(chr(34))}`"


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(heading), "|" + "---|" * len(heading), *map(line, rows)]


def _page(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"recipe.md": recipe_page, "tables.md": tables_page, "commands.md": commands_page}


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
