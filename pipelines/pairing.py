"""Pairing: which texts meet which instructions, evenly over perspectives, task types and domains."""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """What an instruction covers."""

    instruction_id: str
    perspective_id: str
    task_type: str


def pair_evenly(
    texts: Sequence[tuple[str, str]], instructions: Sequence[Cell], samples: int, seed: int
) -> list[tuple[str, str]]:
    """Return up to `samples` distinct pairs (text_id, instruction_id), spread evenly; `texts` holds (id, domain).

    Each pair goes where the fewest are, decided in this order: the perspective with the fewest pairs; of its task types
    the one with the fewest pairs in all, then in the perspective; the domain with the fewest pairs in both, then in
    all; the instruction likewise; then the text of that domain with the fewest uses that the instruction has not met.
    What is still equal is decided by an order drawn from `seed`. So, until one has no pair left to give, any two
    perspectives differ by at most one pair, as do any two domains of a perspective and type, and perspectives with a
    choice of types make up for those without.
    """
    shuffled = random.Random(seed)
    cells, pool = sorted(instructions, key=lambda cell: cell.instruction_id), sorted(texts)
    shuffled.shuffle(cells)
    shuffled.shuffle(pool)
    plan = _Plan(pool, cells)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < samples and plan.open:
        pairs.append(plan.next_pair())
    return pairs


class _Plan:
    """What is left to be paired, and how often everything was."""

    def __init__(self, texts: list[tuple[str, str]], cells: list[Cell]) -> None:
        self.queues: dict[str, list[tuple[int, int, str]]] = defaultdict(list)  # domain: (uses, order, text)
        for order, (text_id, domain) in enumerate(texts):
            self.queues[domain].append((0, order, text_id))
        # perspective -> task type -> domain -> instructions that have a text left to meet there
        self.open: dict[str, dict[str, dict[str, list[str]]]] = {}
        for cell in cells:
            by_domain = self.open.setdefault(cell.perspective_id, {}).setdefault(cell.task_type, {})
            for domain in self.queues:
                by_domain.setdefault(domain, []).append(cell.instruction_id)
        self.count: Counter[tuple[str, ...]] = Counter()
        self.met: dict[str, set[str]] = defaultdict(set)

    def next_pair(self) -> tuple[str, str]:
        """Take the pair that is due."""
        perspective = self._fewest((), self.open)
        task_type = min(
            self.open[perspective], key=lambda name: (self.count["all", "1", name], self.count[perspective, name])
        )
        domains = self.open[perspective][task_type]
        domain = self._fewest((perspective, task_type), domains)
        instruction = self._fewest((perspective, task_type, domain), domains[domain])
        text = self._least_used_text(domain, instruction)
        place = (perspective, task_type, domain, instruction)
        for depth, name in enumerate(place):
            self.count[place[: depth + 1]] += 1
            self.count["all", str(depth), name] += 1
        if self.count[place] == len(self.queues[domain]):
            self._close(place)
        return text, instruction

    def _fewest(self, before: tuple[str, ...], choices: Iterable[str]) -> str:
        depth = str(len(before))
        return min(choices, key=lambda name: (self.count[*before, name], self.count["all", depth, name]))

    def _least_used_text(self, domain: str, instruction: str) -> str:
        queue, met = self.queues[domain], self.met[instruction]
        passed = []
        while queue[0][2] in met:
            passed.append(heapq.heappop(queue))
        uses, order, text = queue[0]
        heapq.heapreplace(queue, (uses + 1, order, text))
        for entry in passed:
            heapq.heappush(queue, entry)
        met.add(text)
        return text

    def _close(self, place: tuple[str, str, str, str]) -> None:
        """Take out an instruction that has met all texts of a domain, and whatever is empty without it."""
        perspective, task_type, domain, instruction = place
        types = self.open[perspective]
        types[task_type][domain].remove(instruction)
        if not types[task_type][domain]:
            del types[task_type][domain]
        if not types[task_type]:
            del types[task_type]
        if not types:
            del self.open[perspective]
