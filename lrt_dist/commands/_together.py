"""Chains that run at once: both models, and the processes that hold the moments of their states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrt_dist.commands._moment_processes import (
    Cores,
    Shares,
    counts_on_gpus,
    fits,
    moment_chain,
    places,
    process_memory,
)
from lrt_dist.commands._tiles import CORES_OF_GPU, layers_wanted, run_tiles
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.formatting import format_bytes
from lrt_dist.plan.cost import (
    GPU_FLOPS,
    forward_flops,
    moments_flops,
)
from lrt_dist.plan.memory import cores_shared
from lrt_dist.plan.sharing import Party, shared_gpus
from lrt_dist.plan.spreading import Group, spread_tiles
from lrt_dist.runtime.contract import ChainSpec
from lrt_dist.sites import Side, Sided
from lrt_dist.workspace.placement import extraction_chain, stage_plans
from lrt_dist.workspace.products import GPU
from lrt_dist.workspace.run import Run


@dataclass(frozen=True)
class Speeds:
    """Operations a second.

    Attributes:
        model: of a forward pass on one GPU.
        products: of float64 products on one GPU, or one core.
        on: which of the two makes the products.
    """

    model: float
    products: float
    on: str


@dataclass(frozen=True)
class Together:
    """What runs at once.

    Attributes:
        models: the chain of each model, by side.
        moments: see `moment_chain`.
        processes: tiles of each of its stages.
    """

    models: dict[Side, ChainSpec]
    moments: ChainSpec
    processes: list[Group]


def together(
    run: Run, sides: Sequence[Side], index: RowIndex, kept: Path, products: tuple[str, float]
) -> Together:
    """Share the machines among all of them.

    Args:
        sides: whose models are run: one, where both are the same.
        kept: where moments in the making are kept.
        products: see `products_device`.

    Raises:
        UserError: not all of them have room at once, and what would help.
    """
    on, speed = products
    shares = shared_machines(
        run, sides, Sided.of(index.tokens), index.rows, Speeds(GPU_FLOPS, speed, on)
    )
    tiles = run_tiles(run)
    models = {
        side: extraction_chain(run, side, shares.replicas[side], layers_wanted(run, side, tiles))
        for side in sides
    }
    return Together(
        {side: _with_cores(spec, shares.cores.states) for side, spec in models.items()},
        moment_chain(run, shares, index.digest, kept),
        shares.processes,
    )


def shared_machines(
    run: Run, sides: Sequence[Side], tokens: Sided[int], rows: int, speeds: Speeds
) -> Shares:
    """Give the models and the moments what lets the last of them end soonest.

    Args:
        sides: see `together`.
        tokens, rows: of the whole corpus.

    Raises:
        UserError: see `together`.
    """
    tiles, on_gpu = run_tiles(run), speeds.on == GPU
    nodes = places(run, on_gpu=on_gpu)
    if run.machines.gpus:
        replicas, count = _on_gpus(run, sides, tokens, rows, speeds, nodes)
    else:
        replicas, count = {side: _cpu_replicas(run, side, len(sides)) for side in sides}, nodes
    count = min(count, len(tiles))
    specs = {side: extraction_chain(run, side, replicas[side]) for side in sides}
    groups = spread_tiles(tiles, count, nodes, run.widths)
    moments = [process_memory(run, tiles) for of_node in groups for tiles in of_node]
    for spread in (True, False):
        for cores in _cores(run, specs, len(moments), on_gpu=on_gpu):
            shares = Shares(replicas, cores, groups, spread, max(moments), speeds.on)
            if fits(run, specs, shares):
                return shares
    models = [stage.memory for spec in specs.values() for stage in spec.stages * spec.replicas]
    raise UserError(
        f"extract.store: none keeps both models and the moments of {len(run.pairs)} pairs of "
        f"layers in memory at once: {format_bytes(sum(models))} and {format_bytes(sum(moments))} "
        f"of nodes' memory, in {len(models) + len(moments)} processes that need a core or a part "
        f"of one, up to {format_bytes(max(models + moments))} each; the nodes offer "
        f"{format_bytes(sum(run.machines.node_memory))} in all. Name fewer fit.pairs, use more or "
        "larger nodes, or set extract.store: zarr"
    )


def _cores(
    run: Run, models: Mapping[Side, ChainSpec], processes: int, *, on_gpu: bool
) -> list[Cores]:
    """Cores of a model's stage, and of a process with moments: what to try, the best first."""
    nodes = run.machines.node_cpus
    stages = sum(spec.replicas * len(spec.stages) for spec in models.values())
    if not run.machines.gpus:
        cores = cores_shared(nodes, stages + processes)
        return [Cores(cores, cores)]
    if on_gpu:  # which sort its rows on the cores
        return [Cores(1.0, float(cores)) for cores in range(CORES_OF_GPU, 0, -1)]
    beside = -(-stages // len(nodes))  # so that each node gets one of them
    return [Cores(1.0, float(max(1, int(min(nodes)) - beside)))]


def _on_gpus(
    run: Run, sides: Sequence[Side], tokens: Sided[int], rows: int, speeds: Speeds, nodes: int
) -> tuple[dict[Side, int], int]:
    """Replicas of each model, and how many processes hold moments."""
    gpus, budget = int(run.machines.gpus), run.config.extract.batch_tokens
    asked, tiles = run.config.cluster.replicas, run_tiles(run)
    stages, parties = {}, []
    for side in sides:
        facts = run.facts[side]
        step = stages[side] = len(stage_plans(run, side, head=False, batch_tokens=budget))
        flops = forward_flops(tokens[side], facts.active_parameters, max(run.layers[side]))
        least, most = (1, gpus) if asked == "auto" else (asked, asked)
        parties.append(Party(flops / speeds.model, step, least * step, most * step))
    if speeds.on == GPU:
        everything = sum(tile.bytes(run.widths, run.config.fit.folds) for tile in tiles)
        counts = range(math.ceil(everything / run.machines.gpu_memory()), len(tiles) + 1)
        fewest = next(counts_on_gpus(run, tiles, nodes, counts))
        flops = moments_flops(rows, sum(tile.entries(run.widths) for tile in tiles))
        parties.append(Party(flops / speeds.products, 1, fewest, len(tiles)))
    given = shared_gpus(parties, gpus)
    if given is None:
        raise UserError(
            "extract.store: none keeps both models and all moments at work at once, which takes "
            f"{sum(party.least for party in parties)} GPUs, and there are {gpus}: use more GPUs, "
            "name fewer fit.pairs, or set extract.store: zarr"
        )
    replicas = {side: given[n] // stages[side] for n, side in enumerate(sides)}
    if speeds.on != GPU:
        return replicas, nodes
    return replicas, next(counts_on_gpus(run, tiles, nodes, range(given[-1], 0, -1)))


def _cpu_replicas(run: Run, side: Side, sides: int) -> int:
    """As many as there would be with its part of the machines, unless the user says."""
    alone = extraction_chain(run, side).replicas
    return alone if run.config.cluster.replicas != "auto" else max(1, alone // (sides + 1))


def _with_cores(spec: ChainSpec, cores: float) -> ChainSpec:
    return replace(spec, stages=tuple(replace(stage, cpus=cores) for stage in spec.stages))
