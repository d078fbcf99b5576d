"""Troubleshooting quotes messages as the code prints them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGES = ("stillhouse", "pipelines", "curation", "hub_cards", "training", "reports")
HOLE = "\0"  # in the place of what is filled in


def source_strings() -> set[str]:
    """Return every string of the code; what is filled in is a HOLE."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            found.update(strings_of(ast.parse(path.read_text(encoding="utf-8"))))
    return found


def strings_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in node.values]
            yield "".join(map(str, parts))


def quoted() -> list[str]:
    """Return the messages of the page, which are the code in the first cell of a row, and the reasons of answers."""
    page = PAGE.read_text(encoding="utf-8")
    messages = [message for _, message in re.findall(r"^\| (`+) ?(.+?) ?\1 \|", page, re.MULTILINE)]
    reasons = page.partition("Reasons of single answers")[2].partition("##")[0]
    return messages + re.findall(r"`(.+?)`", reasons)


def is_printed(message: str, strings: set[str]) -> bool:
    """Say whether one string of the code holds all constant parts of a message, in their order, and a hole between."""
    pattern = re.compile(f"[^{HOLE}]*{HOLE}.*?".join(map(re.escape, message.split("…"))), re.DOTALL)
    return any(pattern.search(string) for string in strings)


def test_every_quoted_message_is_in_the_code() -> None:
    strings = source_strings()
    assert [message for message in quoted() if not is_printed(message, strings)] == []


def test_the_page_quotes_messages_of_every_part() -> None:
    assert len(quoted()) > 60
    assert not is_printed("a message that … nobody prints", source_strings())
