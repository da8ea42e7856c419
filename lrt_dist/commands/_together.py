"""Chains that run at once: both models, and the processes that hold the moments of their states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrt_dist.commands._moments import run_tiles, tile_gpu_bytes, tile_name
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
from lrt_dist.sites import Side
from lrt_dist.tasks.accumulate import ROWS_PER_PRODUCT
from lrt_dist.tasks.moment_stage import BuildMomentStage
from lrt_dist.workspace.placement import chain, stage_plans
from lrt_dist.workspace.products import CPU, GPU, products_device
from lrt_dist.workspace.run import Run


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
    tiles = run_tiles(run)
    if run.machines.gpus:
        replicas, groups, device = _on_gpus(run, sides, index, tiles)
    else:
        replicas, device = dict.fromkeys(sides), CPU
        groups = _runs(tiles, 1 if _is_serial(run) else len(run.machines.node_cpus))
    budget = run.config.extract.batch_tokens
    models = {
        side: chain(
            run, side, head=False, batch_tokens=budget, extracts=True, replicas=replicas[side]
        )
        for side in sides
    }
    moments = ChainSpec(
        tuple(_moment_stage(run, group, index, kept, device) for group in groups),
        placement_timeout=run.config.cluster.placement_timeout,
    )
    if run.machines.gpus:
        return Together(models, moments)
    specs = (*models.values(), moments)
    cores = cores_shared(
        run.machines.node_cpus, sum(spec.replicas * len(spec.stages) for spec in specs)
    )
    return Together(
        {side: _with_cores(spec, cores) for side, spec in models.items()},
        _with_cores(moments, cores),
    )


def _on_gpus(
    run: Run, sides: Sequence[Side], index: RowIndex, tiles: list[Tile]
) -> tuple[dict[Side, int | None], list[list[Tile]], str]:
    """Replicas of each model, the tiles of each process, and where these make their products."""
    gpus, budget = int(run.machines.gpus), run.config.extract.batch_tokens
    asked = run.config.cluster.replicas
    parties, stages = [], {}
    for side in sides:
        facts = run.facts[side]
        stages[side] = len(stage_plans(run, side, head=False, batch_tokens=budget))
        flops = forward_flops(index.tokens(side), facts.block_parameters, max(run.layers[side]))
        least, most = (1, gpus) if asked == "auto" else (asked, asked)
        step = stages[side]
        parties.append(Party(flops / GPU_FLOPS, step, least * step, most * step))
    on, speed = products_device(run, max(tile_gpu_bytes(run, tile) for tile in tiles))
    if on == GPU:
        room = USABLE * run.machines.gpu_memory()
        fewest = next(
            n
            for n in range(1, len(tiles) + 1)
            if max(_gpu_bytes(run, group) for group in _runs(tiles, n)) <= room
        )
        flops = moments_flops(index.rows, sum(tile.entries(run.widths) for tile in tiles))
        parties.append(Party(flops / speed, 1, fewest, len(tiles)))
    given = shared_gpus(parties, gpus)
    if given is None:
        raise UserError(
            f"extract.store: none keeps both models and all moments at work at once, which takes "
            f"{sum(party.least for party in parties)} GPUs, and there are {gpus}: use more GPUs, "
            "name fewer fit.pairs, or set extract.store: zarr"
        )
    replicas = {side: given[n] // stages[side] for n, side in enumerate(sides)}
    count = given[-1] if on == GPU else len(run.machines.node_cpus)
    return dict(replicas), _runs(tiles, count), on


def _moment_stage(
    run: Run, tiles: list[Tile], index: RowIndex, kept: Path, device: str
) -> StageSpec:
    folds = run.config.fit.folds
    layers = [tile.layers for tile in tiles]
    read = {
        side: len({n for some in layers for n in some[side]}) * run.widths[side] for side in Side
    }
    sums = sum(tile.bytes(run.widths, folds) for tile in tiles)
    memory = accumulate_bytes(
        sums,
        sum(read.values()),
        read[Side.SOURCE] + (1 + run.config.fit.mismatched_draws) * read[Side.TARGET],
        max(index.rows_per_unit, folds * ROWS_PER_PRODUCT),
        NUMBER_BYTES[run.config.extract.store_dtype],
        folds,
    )
    largest = max(run.machines.node_memory)
    if memory > largest:
        raise UserError(
            f"extract.store: none holds the moments of {len(run.pairs)} pairs of layers in memory "
            f"while it extracts: {format_bytes(memory)} in one process of {len(tiles)} tiles, and "
            f"the largest node offers {format_bytes(largest)}; name fewer fit.pairs, use more or "
            "larger nodes, or set extract.store: zarr"
        )
    return StageSpec(
        BuildMomentStage(
            {tile_name(tile): tile for tile in tiles}, folds, index.digest, kept, device
        ),
        cpus=1.0,
        gpus=1.0 if device == GPU else 0.0,
        memory=memory,
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


def _is_serial(run: Run) -> bool:
    return run.config.cluster.address == "serial"
