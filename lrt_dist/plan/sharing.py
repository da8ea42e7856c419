"""How chains that run at once share machines: all have room, and none is waited for long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

QUICK = 1.15
"""Times as long as it takes at least is quick enough, if processes are fewer then."""
SMALL = 8
"""Numbers of processes up to which each is tried."""


@dataclass(frozen=True)
class Party:
    """Work that is done on GPUs beside other work.

    Attributes:
        seconds: in which one GPU would do it.
        step: GPUs that it takes at a time: the stages of a replica.
        least: GPUs below which it cannot be done.
        most: GPUs above which further ones are of no use.
    """

    seconds: float
    step: int
    least: int
    most: int


def shared_gpus(parties: Sequence[Party], gpus: int) -> list[int] | None:
    """GPUs of each party, such that the last one ends as early as can be; None where there are
    fewer than all of them need.

    Each starts with what it needs, and the one that would end last gets more, as long as there is
    some.
    """
    given = [party.least for party in parties]
    if sum(given) > gpus:
        return None
    while True:
        growing = [
            n
            for n, party in enumerate(parties)
            if given[n] + party.step <= party.most and sum(given) + party.step <= gpus
        ]
        if not growing:
            return given
        last = max(growing, key=lambda n: parties[n].seconds / given[n])
        given[last] += parties[last].step


def processes_of_node(cpus: float, beside: float, each: int, tiles: int) -> list[tuple[int, float]]:
    """How many processes a node's cores are for, which share some tiles evenly, and cores of each:
    the quickest first, then fewer and fewer. A process has a thread for each whole core of its
    own, and one at least; more threads than twice `each` are taken to be of no use.

    Args:
        cpus: cores of the node.
        beside: those that are taken by others.
        each: cores of a process that a task of its kind would have.
        tiles: of the node.
    """
    free = max(cpus - beside, cpus / 2)

    def turns(count: int) -> float:
        return math.ceil(tiles / count) / min(max(1, int(free / count)), 2 * each)

    def cores(count: int) -> float:
        share = free / count
        return float(int(share)) if share >= 1 else math.floor(100 * share) / 100

    counts = range(1, max(1, min(int(cpus), tiles)) + 1)
    enough = QUICK * min(map(turns, counts))
    best = next(count for count in counts if turns(count) <= enough)
    return [(count, cores(count)) for count in halves(best)]


def halves(number: int) -> list[int]:
    """A number, its half, and so on down to 1; small ones one by one."""
    found = [number]
    while found[-1] > 1:
        found.append(found[-1] - 1 if found[-1] <= SMALL else found[-1] // 2)
    return found


@dataclass(frozen=True)
class Room:
    """What a process needs of its node, or a node has: cores, bytes of memory, and GPUs."""

    cpus: float
    memory: float
    gpus: float = 0.0

    def holds(self, other: Room) -> bool:
        """Whether there is room for it."""
        return self.cpus >= other.cpus and self.memory >= other.memory and self.gpus >= other.gpus

    def share_left(self, other: Room) -> float:
        """The share of its cores, memory and GPUs that stays free beside the other, added up over
        those that the other needs."""
        both = ((self.cpus, other.cpus), (self.memory, other.memory), (self.gpus, other.gpus))
        return sum((there - needed) / there for there, needed in both if needed)

    def without(self, other: Room) -> Room:
        """What is left beside it."""
        return Room(self.cpus - other.cpus, self.memory - other.memory, self.gpus - other.gpus)


def have_room(
    processes: Sequence[Room], nodes: Sequence[Room], spread: Sequence[Room] = ()
) -> bool:
    """Whether all fit on the nodes at once: the largest first, each on the first node that holds
    it.

    Args:
        spread: what is placed before, each on a node of its own as far as can be, and on that of
            which most is left then, as Ray does.
    """
    left, taken = list(nodes), set[int]()
    for needed in _largest_first(spread):
        holding = [n for n, node in enumerate(left) if node.holds(needed)]
        if not holding:
            return False
        home = max(holding, key=lambda n: (n not in taken, left[n].share_left(needed)))
        left[home] = left[home].without(needed)
        taken.add(home)
    for needed in _largest_first(processes):
        home = next((n for n, node in enumerate(left) if node.holds(needed)), -1)
        if home < 0:
            return False
        left[home] = left[home].without(needed)
    return True


def _largest_first(processes: Sequence[Room]) -> list[Room]:
    return sorted(processes, key=lambda p: (p.gpus, p.memory, p.cpus), reverse=True)
