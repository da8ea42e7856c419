"""Chains that run at once: both models, and the processes that hold the moments of their states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrt_dist.commands._moments import CORES_OF_GPU, run_tiles, tile_gpu_bytes, tile_name
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.formatting import format_bytes
from lrt_dist.plan.cost import (
    GPU_FLOPS,
    NUMBER_BYTES,
    accumulate_bytes,
    forward_flops,
    moments_flops,
)
from lrt_dist.plan.memory import USABLE, cores_shared
from lrt_dist.plan.sharing import Party, shared_gpus
from lrt_dist.plan.tiles import Tile
from lrt_dist.runtime.contract import ChainSpec, StageSpec
from lrt_dist.sites import Side, Sided
from lrt_dist.tasks.accumulate import ROWS_PER_PRODUCT
from lrt_dist.tasks.moment_stage import BuildMomentStage
from lrt_dist.workspace.placement import chain, stage_plans
from lrt_dist.workspace.products import GPU, products_device
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
class Shares:
    """Who gets what of the machines.

    Attributes:
        replicas: of each model that is run.
        groups: tiles of each process that holds moments.
        memory: bytes of the largest of these processes.
        on: where they make their products.
    """

    replicas: dict[Side, int]
    groups: list[list[Tile]]
    memory: int
    on: str


@dataclass(frozen=True)
class Together:
    """What runs at once.

    Attributes:
        models: the chain of each model, by side.
        moments: one replica, whose stages hold some tiles each; all see every block.
    """

    models: dict[Side, ChainSpec]
    moments: ChainSpec


def together(run: Run, sides: Sequence[Side], index: RowIndex, kept: Path) -> Together:
    """Share the machines among all of them.

    Args:
        sides: whose models are run: one, where both are the same.
        kept: where moments in the making are kept.

    Raises:
        UserError: not all of them have room at once, and what would help.
    """
    largest = max(tile_gpu_bytes(run, tile) for tile in run_tiles(run))
    on, speed = products_device(run, largest)
    shares = shared_machines(
        run, sides, Sided.of(index.tokens), index.rows, Speeds(GPU_FLOPS, speed, on)
    )
    budget = run.config.extract.batch_tokens
    models = {
        side: chain(
            run,
            side,
            head=False,
            batch_tokens=budget,
            extracts=True,
            replicas=shares.replicas[side],
        )
        for side in sides
    }
    node = max(run.machines.node_cpus)
    cores = min(CORES_OF_GPU, node) if shares.on == GPU else max(1.0, node // 2)
    stages = tuple(
        StageSpec(
            BuildMomentStage(
                {tile_name(tile): tile for tile in tiles},
                run.config.fit.folds,
                index.digest,
                kept,
                shares.on,
            ),
            cpus=cores,
            gpus=1.0 if shares.on == GPU else 0.0,
            memory=_memory(run, tiles),
        )
        for tiles in shares.groups
    )
    moments = ChainSpec(stages, placement_timeout=run.config.cluster.placement_timeout)
    if run.machines.gpus:
        return Together(models, moments)
    specs = (*models.values(), moments)  # share the cores evenly
    cores = cores_shared(
        run.machines.node_cpus, sum(spec.replicas * len(spec.stages) for spec in specs)
    )
    return Together(
        {side: _with_cores(spec, cores) for side, spec in models.items()},
        _with_cores(moments, cores),
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
    nodes = 1 if run.config.cluster.address == "serial" else len(run.machines.node_cpus)
    tiles = run_tiles(run)
    if run.machines.gpus:
        replicas, count = _on_gpus(run, sides, tokens, rows, speeds, nodes)
    else:
        replicas, count = {side: _cpu_replicas(run, side, len(sides)) for side in sides}, nodes
    groups = _runs(tiles, count)
    memory, least = max((_memory(run, group), len(group)) for group in groups)
    if memory > max(run.machines.node_memory):
        raise UserError(
            f"extract.store: none holds the moments of {len(run.pairs)} pairs of layers in memory "
            f"while it extracts: {format_bytes(memory)} in one process with {least} of "
            f"{len(tiles)} tiles, and the largest node offers "
            f"{format_bytes(max(run.machines.node_memory))}; name fewer fit.pairs, use more or "
            "larger nodes, or set extract.store: zarr"
        )
    return Shares(replicas, groups, memory, speeds.on)


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
        flops = forward_flops(tokens[side], facts.block_parameters, max(run.layers[side]))
        least, most = (1, gpus) if asked == "auto" else (asked, asked)
        parties.append(Party(flops / speeds.model, step, least * step, most * step))
    if speeds.on == GPU:
        room = USABLE * run.machines.gpu_memory()
        counts = range(1, len(tiles) + 1)
        fewest = next(
            n for n in counts if max(_gpu_bytes(run, group) for group in _runs(tiles, n)) <= room
        )
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
    return replicas, given[-1] if speeds.on == GPU else nodes


def _cpu_replicas(run: Run, side: Side, sides: int) -> int:
    """As many as there would be with its part of the machines, unless the user says."""
    alone = chain(
        run, side, head=False, batch_tokens=run.config.extract.batch_tokens, extracts=True
    ).replicas
    return alone if run.config.cluster.replicas != "auto" else max(1, alone // (sides + 1))


def _memory(run: Run, tiles: Sequence[Tile]) -> int:
    """Bytes of its node that a process needs which holds some tiles."""
    folds = run.config.fit.folds
    layers = [tile.layers for tile in tiles]
    read = Sided.of(lambda side: len({n for some in layers for n in some[side]}) * run.widths[side])
    return accumulate_bytes(
        sum(tile.bytes(run.widths, folds) for tile in tiles),
        sum(read),
        read.source + (1 + run.config.fit.mismatched_draws) * read.target,
        max(run.config.extract.rows_per_unit, folds * ROWS_PER_PRODUCT),
        NUMBER_BYTES[run.config.extract.store_dtype],
        folds,
    )


def _gpu_bytes(run: Run, tiles: Sequence[Tile]) -> int:
    """Memory of a GPU that holds some tiles: the moments of all, and rows for one at a time."""
    sums = [tile.bytes(run.widths, run.config.fit.folds) for tile in tiles]
    rows = max(tile_gpu_bytes(run, tile) - n for tile, n in zip(tiles, sums, strict=True))
    return sum(sums) + rows


def _runs(tiles: Sequence[Tile], count: int) -> list[list[Tile]]:
    """Consecutive runs, as even as can be; none is empty."""
    size = math.ceil(len(tiles) / max(1, min(count, len(tiles))))
    return [list(tiles[begin : begin + size]) for begin in range(0, len(tiles), size)]


def _with_cores(spec: ChainSpec, cores: float) -> ChainSpec:
    return replace(spec, stages=tuple(replace(stage, cpus=cores) for stage in spec.stages))
