"""Maps solved from moments: which tasks there are, what each needs, and how long all would take."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

from lrt_dist.errors import UserError
from lrt_dist.formatting import format_bytes
from lrt_dist.linear.methods import procrustes
from lrt_dist.plan.cost import (
    curve_flops,
    eigh_flops,
    solve_bytes,
    solve_flops,
    solve_reads,
    svd_flops,
)
from lrt_dist.plan.tiles import even_runs
from lrt_dist.runtime.contract import Needs
from lrt_dist.sites import Direction, LayerPair
from lrt_dist.workspace.placement import task_needs
from lrt_dist.workspace.run import Run


@dataclass(frozen=True)
class Beginning:
    """The maps of one task, which begin alike.

    Attributes:
        direction: which way they go.
        layers: where they begin: one layer, or several if the direction is joint.
        ends: layers where they end.
    """

    direction: Direction
    layers: tuple[int, ...]
    ends: tuple[int, ...]


class WithEnds(Protocol):
    """A frozen dataclass that says where maps end."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def ends(self) -> tuple[Any, ...]: ...


T = TypeVar("T", bound=WithEnds)


@dataclass(frozen=True)
class Solving:
    """What all maps of a run take.

    Attributes:
        maps: that are fitted, without those of mismatched rows.
        tasks: in which they are solved.
        needs: of each task.
        hours: of all of them.
    """

    maps: int
    tasks: int
    needs: Needs
    hours: float


def beginnings(run: Run) -> Iterator[Beginning]:
    """One for each source layer, each joint group, and each target layer with reverse maps."""
    targets = sorted({pair.target for pair in run.pairs})
    for source in sorted({pair.source for pair in run.pairs}):
        ends = tuple(pair.target for pair in run.pairs if pair.source == source)
        yield Beginning(Direction.FORWARD, (source,), ends)
    for group in run.joint:
        ends = tuple(t for t in targets if all(LayerPair(s, t) in run.pairs for s in group))
        if ends:
            yield Beginning(Direction.JOINT, group, ends)
    if run.config.fit.reverse:
        for target in targets:
            ends = tuple(pair.source for pair in run.pairs if pair.target == target)
            yield Beginning(Direction.REVERSE, (target,), ends)


def solve_needs(run: Run) -> Needs:
    """What the largest of the tasks needs."""
    config = run.config.fit
    sizes = [_widths(run, beginning) for beginning in beginnings(run)]
    memory = max(solve_bytes(d, e, config.folds, config.mismatched_draws) for d, e in sizes)
    return task_needs(run, max(map(max, sizes)), memory)


def places_for(run: Run, needs: Needs) -> int:
    """Tasks that have room at once."""
    if run.in_this_process:
        return 1
    nodes = zip(run.machines.node_cpus, run.machines.node_memory, strict=True)
    return sum(int(min(cpus // needs.cpus, memory // needs.memory)) for cpus, memory in nodes)


def spread(tasks: Sequence[T], places: int) -> list[T]:
    """The same maps in as many tasks as there are places, where there would be fewer: each part of
    a task decomposes the moments of its beginning for itself, in time that nobody else wants."""
    parts = max(1, places // len(tasks))
    return [
        replace(task, ends=tuple(ends))
        for task in tasks
        for ends in even_runs(task.ends, min(parts, len(task.ends)))
    ]


def plan_solving(run: Run, core_speed: float) -> Solving:
    """Count, without starting anything.

    Args:
        core_speed: operations a second of float64 products on all cores.

    Raises:
        UserError: none of the described nodes has room for a task.
    """
    needs = solve_needs(run)
    described = run.described
    places = places_for(run, needs)
    whole = list(beginnings(run))
    tasks, curves = spread(whole, places), [replace(task, ends=task.ends[:1]) for task in whole]
    share = 1.0 if run.in_this_process else needs.cpus / sum(run.machines.node_cpus)
    if described and not places:
        raise UserError(
            f"a task that solves maps takes {format_bytes(needs.memory)} of a node, and no "
            "described node has as much: describe larger ones, or lower fit.folds or "
            "fit.mismatched_draws"
        )
    operations = _longest([_flops(run, task) for task in tasks], places)
    operations += _longest([_curve_flops(run, task) for task in curves], places)
    seconds = operations / (core_speed * share)
    if described and described.storage:
        read = sum(_reads(run, task) for task in (*tasks, *curves))
        seconds = max(seconds, read / described.storage)
    return Solving(sum(len(task.ends) for task in tasks), len(tasks), needs, seconds / 3600)


def _widths(run: Run, beginning: Beginning) -> tuple[int, int]:
    """Of where its maps begin, and of where they end."""
    direction = beginning.direction
    return len(beginning.layers) * run.widths[direction.begin], run.widths[direction.end]


def _longest(operations: Sequence[int], places: int) -> int:
    """Of the place with the most of some tasks, which take the next place that is free."""
    taken = [0] * max(1, places)
    for count in operations:
        heapq.heapreplace(taken, taken[0] + count)
    return max(taken)


def _flops(run: Run, beginning: Beginning) -> int:
    """Operations of a task."""
    (d, e), config = _widths(run, beginning), run.config.fit
    return solve_flops(
        d,
        e,
        len(beginning.ends),
        config.folds,
        config.mismatched_draws,
        penalised=run.method.penalised,
        solution=_solution_flops(run, d, e),
    )


def _curve_flops(run: Run, beginning: Beginning) -> int:
    """Operations of the learning curve of one end."""
    d, e = _widths(run, beginning)
    return curve_flops(
        d,
        e,
        run.config.fit.folds,
        penalised=run.method.penalised,
        solution=_solution_flops(run, d, e),
    )


def _solution_flops(run: Run, d: int, e: int) -> int:
    """Operations of a solution beside those of ridge regression; 0 for a method of one's own."""
    if run.method.ranked:
        return eigh_flops(e) + 2 * d * e * (e + 2 * min(d, e))
    if run.method.solve is procrustes:
        return svd_flops(d, e) + 2 * d * e * min(d, e)
    return 0


def _reads(run: Run, beginning: Beginning) -> int:
    """Bytes of moments that a task reads."""
    (d, e), config = _widths(run, beginning), run.config.fit
    return solve_reads(d, e, len(beginning.ends), config.folds, config.mismatched_draws)
