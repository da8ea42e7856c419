"""How large units and batches of a run should be, for `plan` to propose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrt_dist.errors import UserError
from lrt_dist.plan.cost import NUMBER_BYTES
from lrt_dist.plan.filling import batch_cost, better_budget, better_rows
from lrt_dist.sites import Side, Sided
from lrt_dist.workspace.placement import chain
from lrt_dist.workspace.run import Run

UNITS_OF_REPLICA = 16
"""Fewest units for each replica: at the end of a run replicas wait for the last one."""
ROUNDS = 8
"""Each of the two sizes decides what the other should be; they settle after two or three."""


@dataclass(frozen=True)
class Work:
    """What the sizes are chosen for.

    Attributes:
        rows: of the whole corpus.
        sites: of each segment of a sample.
        lengths: tokens of each segment of the sample in each model.
        flops: of each model's forward passes; the models count by them.
        replicas: the most of a model.
    """

    rows: int
    sites: Sequence[int]
    lengths: Sided[Sequence[int]]
    flops: Sided[float]
    replicas: int


def better_sizes(run: Run, work: Work) -> dict[str, int]:
    """Settings that are worth to be changed, and their values; none of them where all is well."""
    extract = run.config.extract
    rows, tokens = extract.rows_per_unit, extract.batch_tokens
    for _ in range(ROUNDS):
        before = rows, tokens
        rows = _better_rows(run, work, rows, tokens)
        tokens = _better_tokens(run, work, rows, tokens)
        if (rows, tokens) == before:
            break
    found = {"rows_per_unit": rows, "batch_tokens": tokens}
    return {
        f"extract.{key}": value for key, value in found.items() if value != getattr(extract, key)
    }


def _better_rows(run: Run, work: Work, rows_per_unit: int, batch_tokens: int) -> int:
    """Of the model that has the larger part of the work; rows are those of both."""
    if run.folder.has_activations():
        return rows_per_unit  # too late
    side = max(Side, key=lambda s: work.flops[s])
    found = better_rows(
        work.lengths[side],
        work.sites,
        rows_per_unit,
        batch_tokens,
        max(run.widths) * NUMBER_BYTES[run.config.extract.store_dtype],
        work.rows // (UNITS_OF_REPLICA * work.replicas),
    )
    return found or rows_per_unit


def _better_tokens(run: Run, work: Work, rows_per_unit: int, batch_tokens: int) -> int:
    """For both models, each as much as it takes of the time. Larger batches are fuller; but a model
    may be cut into more stages for them, and no chain fits into the GPUs that are left then.

    A segment goes through a model in one piece: a batch has room for the longest.
    """
    machines, shared = run.machines, run.config.cluster.replicas == "auto"

    def lost(side: Side, budget: int) -> float:
        spec = chain(run, side, head=False, batch_tokens=budget, extracts=True)
        used = spec.replicas * len(spec.stages)
        idle = max(1.0, machines.gpus / used) if machines.gpus and shared else 1.0
        return idle * batch_cost(work.lengths[side], work.sites, rows_per_unit, budget)

    def cost(budget: int) -> float | None:
        if budget < run.config.corpus.max_tokens and budget != batch_tokens:
            return None
        try:
            both = sum(work.flops[side] * lost(side, budget) for side in Side)
        except UserError:  # the models do not fit
            return None
        return both / sum(work.flops)

    return better_budget(cost, batch_tokens) or batch_tokens
