"""The plan of a run that nobody has made: hours, cost, shuffles and the first bottleneck, from measured rates.

    python benchmarks/paper_plan.py --measure             # writes benchmarks/rates.json, in some minutes
    python benchmarks/paper_plan.py                       # 100 million samples of 20 million texts
    python benchmarks/paper_plan.py --samples 1000000 --texts 1000000 --nodes 4 --cores 32 --node-price 1.5
    python benchmarks/paper_plan.py --one-machine         # the rates of stages, and their memory

Nodes have so many cores and one replica of the teacher each. What the teacher does in a second and costs in an hour is
given, not measured. `--write` puts both tables where docs/scale.md shows them.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.paper_rates import MEMORY, RATE, RATES, ROOT, STAGES, Rates, measure, read_rates, rendered
from curation.scoring import BLOCK_ROWS

PLAN, ONE_MACHINE = (ROOT / "benchmarks" / name for name in ("paper_plan.md", "one_machine.md"))
HOUR = 3600
PARTS = 3  # of a sample that are embedded: instruction, text, output
SHOWN_HOURS = 0.1
WORTH = 0.1  # share of all hours that twice as many nodes must save


@dataclass(frozen=True)
class Size:
    """How large the run is."""

    samples: int = 100_000_000
    texts: int = 20_000_000
    instructions: int = 1_080


@dataclass(frozen=True)
class Machines:
    """What it runs on: nodes of so many cores, each with a replica of the teacher; prices by the hour."""

    nodes: int = 64
    cores: int = 32
    node_price: float = 1.5
    teacher_tokens: float = 5_000  # a second and replica, prompts and outputs together
    teacher_price: float = 4.0


@dataclass(frozen=True)
class Step:
    """A step of the run.

    `alone` are the hours that no node more would shorten: of the driver, or of what has to follow each other.
    `shared` are the hours of one core, or of one replica of the teacher, which nodes share. Both go on at the same
    time. `shuffle` and `disk` are bytes: between nodes or through the object store, and on the driver's disk.
    """

    name: str
    work: str
    place: str
    alone: float
    shared: float = 0.0
    shuffle: float = 0.0
    disk: float = 0.0

    def hours(self, machines: Machines) -> float:
        """Return the hours with so many nodes."""
        per_node = machines.cores if self.place == "cluster" else 1
        return max(self.alone, self.shared / (machines.nodes * per_node))

    def cost(self, machines: Machines) -> float:
        """Return what it costs: all nodes where they share in it, else the driver's."""
        hours = self.hours(machines)
        if not self.shared:
            return hours * machines.node_price
        replica = machines.teacher_price if self.place == "teacher" else 0.0
        return hours * machines.nodes * (machines.node_price + replica)


def steps_of(size: Size, rates: Rates, teacher_tokens: float, scope: str) -> list[Step]:
    """Return the steps of a run in their order. `scope` is `curation.duplicates`: `instruction` or `all`."""
    asked = [_asked(name, rows, rates, teacher_tokens) for name, rows in _asked_rows(size).items()]
    curated = [_alone(name, size.samples, rates) for name in ("decisions", "audit", "gates", "dataset")]
    scored = [_embedding(size, rates), _near_duplicates(size, rates, scope), _scoring(size, rates)]
    return [_alone("texts", size.texts, rates), *asked, *scored, _alone("scores", size.samples, rates), *curated]


def _asked_rows(size: Size) -> dict[str, int]:
    return {"attributes": size.texts, "responses": size.samples}


def _alone(name: str, rows: int, rates: Rates) -> Step:
    """Return a stage, or what is left of it, that the driver's process does."""
    hours = rows / rates.value(name, RATE) / HOUR
    return Step(name, f"{_short(rows)} rows", "driver", hours, disk=rows * rates.disk(name))


def _asked(name: str, rows: int, rates: Rates, teacher_tokens: float) -> Step:
    """Return a stage that asks: one process sends, checks and writes down what the replicas answer."""
    tokens = rows * _tokens(name, rates)
    journal = rows * rates.value(f"{name}: journal.sqlite", "bytes/row")  # every call and answer stands there
    return Step(
        name=name,
        work=f"{_short(rows)} calls, {_short(tokens)} tokens",
        place="teacher",
        alone=rows / rates.value(name, RATE) / HOUR,
        shared=tokens / teacher_tokens / HOUR,
        shuffle=journal,
        disk=rows * rates.disk(name),
    )


def _tokens(name: str, rates: Rates) -> float:
    return sum(rates.value(name, f"{kind} tokens") for kind in ("prompt", "output"))


def _embedding(size: Size, rates: Rates) -> Step:
    """Return the step that embeds texts and outputs, as if no output were there twice."""
    values = size.texts + size.samples
    vector = 4 * rates.value("embedding", "dimensions")
    return Step(
        name="embedding",
        work=f"{_short(values)} texts and outputs",
        place="cluster",
        alone=0.0,
        shared=values / rates.value("embedding", "texts/s per core") / HOUR,
        shuffle=values * (rates.value("embedding", "bytes/text") + vector),
        disk=values * rates.value("vectors.npz", "bytes/vector"),
    )


def _scoring(size: Size, rates: Rates) -> Step:
    return Step(
        name="scoring",
        work=f"{_short(size.samples)} samples",
        place="cluster",
        alone=0.0,
        shared=size.samples / rates.value("scoring", "samples/s per core") / HOUR,
        shuffle=size.samples * rates.value("scoring", "bytes/sample"),
    )


def _near_duplicates(size: Size, rates: Rates, scope: str) -> Step:
    """Return the comparison of all pairs of a group, in steps of two blocks; those of a chain follow each other."""
    groups = 1 if scope == "all" else size.instructions
    found = compared(size.samples, groups)
    second = 1 / rates.value("near-duplicates", "pairs/s per core")
    block = BLOCK_ROWS * PARTS * 4 * rates.value("embedding", "dimensions")
    return Step(
        name=f"near-duplicates, `{scope}`",
        work=f"{_short(found.pairs)} pairs in {_short(found.steps)} steps",
        place="cluster",
        alone=found.chain * second / HOUR,
        shared=found.pairs * second / HOUR,
        shuffle=2 * found.steps * block,
    )


@dataclass(frozen=True)
class Compared:
    """How `find_across_blocks` compares: pairs, steps, and at most so many pairs in steps that follow each other."""

    pairs: float
    steps: int
    chain: float


def compared(rows: int, groups: int, block: int = BLOCK_ROWS) -> Compared:
    """Return what it takes to compare the rows of each of some groups of the same size."""
    blocks, group = math.ceil(rows / block), rows / groups
    steps = spans = 0  # a group spans so many blocks
    for number in range(blocks):
        end = min((number + 1) * block, rows)
        of_last = math.ceil(end / group)  # the group of the block's last row, from 1
        more = max(0, math.ceil(min(of_last * group, rows) / block) - number - 1)
        steps += 1 + more
        spans = max(spans, 1 + more)
    return Compared(rows * group / 2, steps, (1.5 * spans - 1) * min(group, block) ** 2)


def total_hours(steps: Sequence[Step], machines: Machines) -> float:
    """Return the hours of all steps, one after the other."""
    return sum(step.hours(machines) for step in steps)


def bottleneck(steps: Sequence[Step]) -> Step:
    """Return the step that takes longest where nodes cost nothing and there are as many as one likes."""
    return max(steps, key=lambda step: step.alone)


def enough_nodes(steps: Sequence[Step], at: Callable[[int], Machines]) -> int:
    """Return after how many nodes twice as many save less than WORTH of all hours."""
    return next(
        nodes for nodes in count(1) if total_hours(steps, at(2 * nodes)) > (1 - WORTH) * total_hours(steps, at(nodes))
    )


def plan(size: Size, machines: Machines, rates: Rates) -> str:
    """Return the plan as Markdown."""
    made = {scope: steps_of(size, rates, machines.teacher_tokens, scope) for scope in ("instruction", "all")}
    steps, other = made["instruction"], made["all"]
    head = ("step", "work", "where", "core or replica hours", f"hours, {machines.nodes} nodes", "hours at least")
    rows = [_row(step, machines) for step in steps]
    total = ("**all**", "", "", "", f"**{_hours(total_hours(steps, machines))}**", f"**{_hours(_alone_hours(steps))}**")
    sums = (f"**{_bytes(sum(one.shuffle for one in steps))}**", f"**{_bytes(sum(one.disk for one in steps))}**")
    instead = next(_row(one, machines) for one in other if one.name.startswith("near-duplicates"))
    table = _table([(*head, "through the network", "on the driver's disk"), *rows, (*total, *sums), instead])
    told = [*_outcome(steps, other, machines), *_driver(size, rates), *_assumed(size, machines, rates)]
    return "\n".join([*table, "", *(f"- {line}" for line in told), ""])


def _row(step: Step, machines: Machines) -> tuple[str, ...]:
    shared = f"{_figure(step.shared)} {'replica' if step.place == 'teacher' else 'core'}" if step.shared else ""
    hours = (_hours(step.hours(machines)), _hours(step.alone))
    return (step.name, step.work, step.place, shared, *hours, _bytes(step.shuffle), _bytes(step.disk))


def _outcome(steps: Sequence[Step], other: Sequence[Step], machines: Machines) -> Iterator[str]:
    """Say what both scopes of duplicates come to."""
    for scope, made in (("instruction", steps), ("all", other)):
        first, hours = bottleneck(made), total_hours(made, machines)
        cost = sum(step.cost(machines) for step in made)
        enough = enough_nodes(made, lambda nodes: replace(machines, nodes=nodes))
        why = "steps that follow each other" if first.place == "cluster" else "the driver's one process"
        yield (
            f"**With `duplicates: {scope}`**: {_figure(hours)} hours with {machines.nodes} nodes, for {_figure(cost)} "
            f"at the prices below. However many nodes: {_figure(_alone_hours(made))} hours. The first bottleneck is "
            f"**{first.name}**, {_figure(first.alone)} hours of {why}. From {enough:,} nodes on, twice as many save "
            f"less than {WORTH:.0%}."
        )
    compared = next(step for step in other if step.name.startswith("near-duplicates"))
    flow = 8 * compared.shuffle / (compared.hours(machines) * HOUR * machines.nodes) / 1e9
    yield (
        f"Comparing all with all moves {_bytes(compared.shuffle)}, if no block is where it is needed: {_figure(flow)} "
        "Gbit a second into each node. Nothing else comes near that."
    )


def _driver(size: Size, rates: Rates) -> Iterator[str]:
    """Say what the driver's machine must have."""
    rows = {name: size.texts if name in ("texts", "attributes") else size.samples for name in STAGES}
    peaks = {name: rates.memory(name, rows[name]) for name in STAGES}
    most = max(peaks, key=lambda name: peaks[name])
    measured = sorted(rate.rows for rate in rates.rates if (rate.name, rate.unit) == (most, MEMORY))
    yield (
        f"Memory of the driver: {_figure(peaks[most])} GB, in {most}, on the line through its peaks at {measured[0]:,} "
        f"and {measured[-1]:,} rows. A stage that writes its rows as they come needs less than such a line says."
    )
    yield (
        f"Perspectives and instructions do not grow with the samples: {_figure(rates.value('instructions', 'calls'))} "
        f"calls and {_short(_tokens('instructions', rates))} tokens."
    )


def _assumed(size: Size, machines: Machines, rates: Rates) -> Iterator[str]:
    """Say what was given and not measured, and on what the rest was."""
    million = machines.teacher_price / (machines.teacher_tokens * HOUR) * 1e6
    yield (
        f"**Assumed, not measured**: a replica of the teacher on each node does {machines.teacher_tokens:,.0f} tokens "
        f"a second and costs {machines.teacher_price:g} an hour ({million:.2g} for a million tokens); a node has "
        f"{machines.cores} cores and costs {machines.node_price:g} an hour; its cores are as fast as the measured one; "
        f"the samples are of {size.instructions:,} instructions, as many each."
    )
    yield (
        f"Measured on {rates.machine}, {rates.cores} cores, at up to "
        f"{max(rate.rows for rate in rates.rates if rate.unit == RATE):,} rows; the rest is arithmetic. No run of "
        f"{_short(size.samples)} samples has been made."
    )


def one_machine(rates: Rates) -> str:
    """Return the rows per second and peaks of memory of stages, and what a core does with models, as Markdown."""
    names = list(dict.fromkeys(rate.name for rate in rates.rates if rate.unit == RATE))
    told = {RATE: "rows/s at", MEMORY: "peak GB at"}
    known = {(rate.name, rate.unit, rate.rows): rate.value for rate in rates.rates}
    columns = [(unit, rows) for unit in told for rows in sorted({key[2] for key in known if key[1] == unit})]
    head = ("step", *(f"{told[unit]} {_short(rows)}" for unit, rows in columns))
    rows = [(name, *(_known(known.get((name, *column))) for column in columns)) for name in names]
    return "\n".join([*_table([head, *rows]), "", _core(rates), ""])


def _core(rates: Rates) -> str:
    """Say what a core does with models, and compares."""
    units = {"embedding": "texts", "scoring": "samples", "near-duplicates": "pairs"}
    embedded, scored, compared = (_short(rates.value(name, f"{unit}/s per core")) for name, unit in units.items())
    return (
        f"With the offline models one core embeds {embedded} texts a second, or scores {scored} samples, or compares "
        f"{compared} pairs of samples. Measured on {rates.machine}, {rates.cores} cores."
    )


def _known(value: float | None) -> str:
    return "" if value is None else _figure(value)


def _alone_hours(steps: Sequence[Step]) -> float:
    return sum(step.alone for step in steps)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _figure(value: float) -> str:
    """Return a number with two significant digits, since more are not known; whole ones of up to 100 as they are."""
    return f"{float(f'{value:.2g}'):,g}"


def _hours(value: float) -> str:
    return _figure(value) if value >= SHOWN_HOURS else f"< {SHOWN_HOURS}"


def _short(number: float) -> str:
    """Return a large number in words."""
    names = ("", " thousand", " million", " billion", " trillion")
    power = min(len(names) - 1, int(math.log10(max(1.0, number))) // 3)
    return f"{_figure(number / 1000**power)}{names[power]}"


def _bytes(size: float) -> str:
    """Return bytes in GB or TB; nothing where there are none."""
    if not size:
        return ""
    return f"{_figure(size / 1e12)} TB" if size >= 1e12 else f"{_figure(size / 1e9)} GB"


def main() -> None:
    """Measure, or print what follows from what was measured."""
    given = _arguments()
    if given.measure:
        RATES.write_text(rendered(measure([int(size) for size in given.sizes.split(",")])), encoding="utf-8")
        return
    rates = read_rates()
    size = Size(given.samples, given.texts, given.instructions)
    machines = Machines(
        given.nodes, given.cores, given.node_price, given.teacher_tokens_per_second, given.teacher_price
    )
    if given.write:
        PLAN.write_text(plan(size, machines, rates), encoding="utf-8")
        ONE_MACHINE.write_text(one_machine(rates), encoding="utf-8")
    else:
        print(one_machine(rates) if given.one_machine else plan(size, machines, rates), end="")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("measure", "one-machine", "write"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--sizes", default="2000,20000", help="samples of the runs that are measured")
    for name in ("samples", "texts", "instructions"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Size(), name))
    parser.add_argument("--nodes", type=int, default=Machines().nodes)
    parser.add_argument("--cores", type=int, default=Machines().cores, help="of a node")
    parser.add_argument("--node-price", type=float, default=Machines().node_price, help="an hour")
    parser.add_argument("--teacher-tokens-per-second", type=float, default=Machines().teacher_tokens, help="a replica")
    parser.add_argument("--teacher-price", type=float, default=Machines().teacher_price, help="a replica and hour")
    return parser.parse_args()


if __name__ == "__main__":
    main()
