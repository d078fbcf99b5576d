"""What a person sees of one sample's lineage, and of what differs between two runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from stillhouse.comparison import SPENT
from stillhouse.display import figures_table
from stillhouse.inspection import card, plain
from stillhouse.lineage import Step

Row = Mapping[str, Any]
MOVED_SHOWN = 3  # of each direction
SHOWN = 160  # characters of a prompt or an answer in a table
PARAMETERS = ("model", "revision", "api", "temperature", "max_tokens", "seed")


def lineage_cards(sample_id: str, steps: Sequence[Step], console: Console) -> Iterator[RenderableType]:
    """Yield which sample it is, and a card per step."""
    yield Text(f"Sample {plain(sample_id)}", style="bold")
    imported = any(step.name == "instruction" and not step.found.get("instruction") for step in steps)
    for number, step in enumerate(steps, start=1):
        values = _shown(step, imported) if step.found else {}
        yield card(f"{number} · {step.name}", values or {"": step.missing}, console)


def _shown(step: Step, imported: bool) -> dict[str, Any]:
    """Return what a card shows of a step: what its JSON holds, in words."""
    found = step.found
    if step.name == "attributes":
        return {one["name"]: f"{one['description']}; here: {one['value']}" for one in found["attributes"]}
    if step.name == "perspective":
        members = [f"{one['name']} ({one['count']:,})" for one in found["members"]]
        return {**found, "members": members}
    if step.name == "calls":
        return _shown_calls(found)
    if step.name == "checks":
        left_out = ("spans",) if imported else ("spans", "prompt")  # else it is the instruction and the text above
        return {name: value for name, value in found.items() if name not in left_out}
    if step.name == "scores" and found["nearest_id"]:
        nearest = f"{found['nearest_id']}, similarity {found['nearest_similarity']:.3f}: {found['nearest_prompt']}"
        return {**{name: value for name, value in found.items() if "nearest" not in name}, "nearest": nearest}
    if step.name == "gates":
        return dict(pair for one in found["findings"] for pair in _shown_finding(one))
    if step.name == "reviews":
        return dict(_shown_review(number, one) for number, one in enumerate(found["answers"], start=1))
    return dict(found)


def _shown_calls(found: Row) -> dict[str, Any]:
    values: dict[str, Any] = {"answer": found.get("missing")}
    for number, trace in enumerate(found.get("responses", []), start=1):
        label = f"answer {number}" if number > 1 else "answer"
        asked = {"told": trace["told"]} if trace["told"] else {"asked": _asked(trace["request"])}
        told = asked | {"as it came": trace["answer"], "spent": _spent(trace)}
        values |= {f"{label}: {name}": value for name, value in told.items()}
    for stage, label in (("attributes", "attributes by"), ("instructions", "instruction by")):
        calls = [f"call {trace['call_id'][:8]}: {_spent(trace)}" for trace in found.get(stage, [])]
        values |= {label: "\n".join(calls)} if calls else {}
    return values


def _asked(request: Row) -> str:
    prompt = request["prompt"]
    size = len(prompt) if isinstance(prompt, str) else sum(len(turn["content"]) for turn in prompt)
    told = [f"{name} {request[name]}" for name in PARAMETERS if request[name] is not None]
    told += [f"{name} {json.dumps(value)}" for name, value in request["options"].items()]
    told += ["answer constrained to a JSON Schema"] if request["schema"] else []
    return f"{', '.join(told)}; prompt of {size:,} characters (--json shows it)"


def _spent(trace: Row) -> str:
    tokens = f"{trace['prompt_tokens']:,} + {trace['output_tokens']:,} tokens"
    failed = [
        f"failed {datetime.fromtimestamp(one['failed_at'], UTC):%Y-%m-%d %H:%M}: {one['cause']}"
        for one in trace["failures"]
    ]
    corrected = ["a correction"] if trace["told"] else []
    return "; ".join([f"{tokens}, {trace['seconds']:.2f} s, ended by {trace['finish_reason']}", *corrected, *failed])


def _shown_finding(one: Row) -> Iterator[tuple[str, str]]:
    yield one["key"], f"{one['outcome']} ({one['gate']}): {one['reason']}"
    if one["completion"]:
        yield f"{one['key']} leaves as", one["completion"]


def _shown_review(number: int, one: Row) -> tuple[str, str]:
    told = [one["verdict"] or one["status"], *(one["faults"] or [])]
    told += [f"quality {one['rating']}"] if one["rating"] is not None else []
    told += [f"{name}: {one[name]}" for name in ("correction", "comment", "problem") if one[name]]
    state = "" if one["status"] == "submitted" else f", {one['status']}"
    return f"{number} {one['annotator']}", f"{', '.join(told)} (round {one['round']}, {one['source']}{state})"


def difference_parts(difference: Row) -> Iterator[RenderableType]:
    """Yield what differs, a table each."""
    names = [plain(name) for name in difference["names"]]
    yield Text(f"Before: {names[0]}. After: {names[1]}.")
    for title, label, key in (
        ("Settings", "key", "settings"),
        ("Versions", "key", "versions"),
        ("Funnel", "step", "funnel"),
        ("Kept by task type", "task_type", "task_types"),
        ("Kept by perspective", "perspective", "perspectives"),
    ):
        yield from _pairs(title, label, difference[key])
    yield from _scores(difference["scores"])
    yield Text(_kept(difference))
    yield from _moved(difference)
    yield from _changed(difference["changed_answers"])
    yield from _cost(difference["cost"])
    if difference["audit"]["before"] != difference["audit"]["after"]:
        yield from _pairs("Audit by people", "decision", [{"decision": "", **difference["audit"]}])


def _pairs(title: str, label: str, rows: Sequence[Row]) -> Iterator[RenderableType]:
    differing = [row for row in rows if row["before"] != row["after"]]
    if not differing:
        return
    table = figures_table(title, "", "before", "after")
    are_words = any(isinstance(row[side], str) for row in differing for side in ("before", "after"))
    for column in table.columns[1:]:
        column.overflow, column.justify = "fold", "left" if are_words else "right"
    for row in differing:
        table.add_row(Text(plain(row[label])), *(_value(row[side]) for side in ("before", "after")))
    yield from ("", table)


def _value(value: Any) -> Text:
    if value is None:
        return Text("–")
    return Text(plain(f"{value:,}" if type(value) is int else value if isinstance(value, str) else json.dumps(value)))


def _scores(rows: Sequence[Row]) -> Iterator[RenderableType]:
    differing = [row for row in rows if row["before"] != row["after"]]
    if not differing:
        return
    table = figures_table("Scores of what is kept", "", "least", "25 %", "median", "75 %", "most")
    for row in differing:
        for side in ("before", "after"):
            figures = row[side] or [None] * 5
            name = f"{row['score'].replace('_', ' ')}, {side}"
            table.add_row(name, *("–" if figure is None else f"{figure:,.3g}" for figure in figures))
    yield from ("", table)


def _kept(difference: Row) -> str:
    kept, steps = difference["kept"], {row["step"]: row for row in difference["funnel"]}
    decided = steps.get("kept", {"before": None, "after": None})
    for name, side in zip(difference["names"], ("before", "after"), strict=True):
        if decided[side] is None:
            return f"\nNothing is decided yet in {plain(name)}."
    if not kept["comparable"]:
        return "\nThey have no sample in common, so what came in and went out cannot be said."
    return f"\nKept in both: {kept['both']:,}; came in: {kept['came_in']:,}; went out: {kept['went_out']:,}."


def _moved(difference: Row) -> Iterator[RenderableType]:
    for direction, title in (("in", "Came in"), ("out", "Went out")):
        some = [row for row in difference["moved"] if row["direction"] == direction][:MOVED_SHOWN]
        if some:
            yield from ("", _examples(f"{title}, for example", some, ("prompt", "output", "why")))


def _changed(changed: Row) -> Iterator[RenderableType]:
    if changed["count"]:
        yield Text(f"\nOther answers to the same question: {changed['count']:,}")
        yield _examples("For example", changed["examples"][:MOVED_SHOWN], ("prompt", "before", "after"))


def _examples(title: str, rows: Sequence[Row], names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row("sample", Text(plain(row["sample_id"])))
        for name in names:
            table.add_row(name, Text(plain(_shortened(row[name] or "–"))))
    return table


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} […]"


def _cost(rows: Sequence[Row]) -> Iterator[RenderableType]:
    differing = [row for row in rows if row["before"] != row["after"]]
    if not differing:
        return
    table = figures_table(
        "Time and tokens, before → after", "stage", "seconds", "calls", "prompt tokens", "output tokens"
    )
    for row in differing:
        cells = [[(row[side] or {}).get(name) for side in ("before", "after")] for name in SPENT]
        table.add_row(row["stage"], *(_arrow(*cell) for cell in cells))
    yield from ("", table)


def _arrow(before: float | None, after: float | None) -> str:
    figures = ["–" if figure is None else f"{figure:,}" for figure in (before, after)]
    return "" if before is after is None else figures[0] if before == after else " → ".join(figures)
