"""Maps solved from moments: which tasks there are, what each needs, and how long all would take."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from lrt_dist.errors import UserError
from lrt_dist.formatting import format_bytes
from lrt_dist.linear.methods import procrustes
from lrt_dist.plan.cost import (
    cores_of_task,
    eigh_flops,
    solve_bytes,
    solve_flops,
    solve_reads,
    svd_flops,
)
from lrt_dist.runtime.contract import Needs
from lrt_dist.sites import Direction, LayerPair
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
    return Needs(
        cpus=cores_of_task(max(map(max, sizes)), max(run.machines.node_cpus)),
        memory=max(solve_bytes(d, e, config.folds, config.mismatched_draws) for d, e in sizes),
    )


def plan_solving(run: Run, core_speed: float) -> Solving:
    """Count, without starting anything.

    Args:
        core_speed: operations a second of float64 products on all cores.

    Raises:
        UserError: none of the described nodes has room for a task.
    """
    tasks, needs = list(beginnings(run)), solve_needs(run)
    machines, described = run.machines, run.described
    speed, places = core_speed, 1
    if not run.in_this_process:
        speed *= needs.cpus / sum(machines.node_cpus)
        nodes = zip(machines.node_cpus, machines.node_memory, strict=True)
        places = sum(int(min(c // needs.cpus, m // needs.memory)) for c, m in nodes)
    if described and not places:
        raise UserError(
            f"solving the maps of one layer takes {needs.cpus:g} cores and "
            f"{format_bytes(needs.memory)} of a node, and no described node has both: describe "
            "larger nodes, or lower fit.folds or fit.mismatched_draws"
        )
    ends = [0.0] * max(1, places)  # of what each place was given so far
    for task in tasks:
        heapq.heapreplace(ends, ends[0] + _flops(run, task) / speed)
    seconds = max(ends)
    if described and described.storage:
        read = sum(_reads(run, task) for task in tasks)
        seconds = max(seconds, read / described.storage)
    return Solving(sum(len(task.ends) for task in tasks), len(tasks), needs, seconds / 3600)


def _widths(run: Run, beginning: Beginning) -> tuple[int, int]:
    """Of where its maps begin, and of where they end."""
    direction = beginning.direction
    return len(beginning.layers) * run.widths[direction.begin], run.widths[direction.end]


def _flops(run: Run, beginning: Beginning) -> int:
    """Operations of a task; a method of one's own is taken to cost what ridge regression does."""
    (d, e), config = _widths(run, beginning), run.config.fit
    solution = 0
    if run.method.ranked:
        solution = eigh_flops(e) + 2 * d * e * (e + 2 * min(d, e))
    elif run.method.solve is procrustes:
        solution = svd_flops(d, e) + 2 * d * e * min(d, e)
    ends = len(beginning.ends)
    return solve_flops(
        d,
        e,
        ends,
        config.folds,
        config.mismatched_draws,
        penalised=run.method.penalised,
        solution=solution,
    )


def _reads(run: Run, beginning: Beginning) -> int:
    """Bytes of moments that a task reads."""
    (d, e), config = _widths(run, beginning), run.config.fit
    return solve_reads(d, e, len(beginning.ends), config.folds, config.mismatched_draws)
