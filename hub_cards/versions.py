"""What a version of a dataset changes against the one before, told from the facts of both."""

from collections.abc import Mapping
from typing import Any

TOLD = (
    *("funnel.kept", "funnel.valid", "funnel.texts", "recipe_digest", "teacher.model", "teacher.revision"),
    *("student.student", "curation.rate", "curation.strategy", "audit.decision", "licence", "versions.stillhouse"),
)


def changes_since(former: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is other than in the version before: key, before, now.

    Where nothing is, these are the changes that the version before told: publishing again then changes no byte.
    """
    if former is None:
        return []
    if _without_changes(former) == _without_changes(facts):
        return list(former.get("changes", []))
    values = ((key, _at(former, key), _at(facts, key)) for key in TOLD)
    return [{"key": key, "before": before, "now": now} for key, before, now in values if before != now]


def _without_changes(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key != "changes"}


def _at(facts: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    value = facts.get(section)
    return value if not name else value.get(name) if isinstance(value, Mapping) else None
