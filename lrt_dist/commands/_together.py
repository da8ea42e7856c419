"""Chains that run at once: both models, and the processes that hold the moments of their states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrt_dist.commands._moments import CORES_OF_GPU, gpu_bytes, run_tiles, tile_name
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
from lrt_dist.plan.sharing import Party, Room, have_room, shared_gpus
from lrt_dist.plan.tiles import Tile, even_runs, numbers_held
from lrt_dist.runtime.contract import ChainSpec, StageSpec
from lrt_dist.sites import Side, Sided
from lrt_dist.tasks.accumulate import ROWS_PER_PRODUCT
from lrt_dist.tasks.moment_stage import BuildMomentStage
from lrt_dist.workspace.placement import extraction_chain, stage_plans
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
        model_cores: of each stage.
        groups: tiles of each process that holds moments.
        moment_cores: of each of these processes.
        memory: bytes of the largest of them.
        on: where they make their products.
    """

    replicas: dict[Side, int]
    model_cores: float
    groups: list[Sequence[Tile]]
    moment_cores: float
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
    largest = max(gpu_bytes(run, [tile]) for tile in run_tiles(run))
    on, speed = products_device(run, largest)
    shares = shared_machines(
        run, sides, Sided.of(index.tokens), index.rows, Speeds(GPU_FLOPS, speed, on)
    )
    models = {side: extraction_chain(run, side, shares.replicas[side]) for side in sides}
    stages = tuple(
        StageSpec(
            BuildMomentStage(
                {tile_name(tile): tile for tile in tiles},
                run.config.fit.folds,
                index.digest,
                kept,
                shares.on,
            ),
            cpus=shares.moment_cores,
            gpus=1.0 if shares.on == GPU else 0.0,
            memory=_memory(run, tiles),
        )
        for tiles in shares.groups
    )
    return Together(
        {side: _with_cores(spec, shares.model_cores) for side, spec in models.items()},
        ChainSpec(stages, placement_timeout=run.config.cluster.placement_timeout, accumulates=True),
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
    serial = run.config.cluster.address == "serial"
    nodes = 1 if serial else len(run.machines.node_cpus)
    tiles = run_tiles(run)
    if run.machines.gpus:
        replicas, count = _on_gpus(run, sides, tokens, rows, speeds, nodes)
    else:
        replicas, count = {side: _cpu_replicas(run, side, len(sides)) for side in sides}, nodes
    groups = _groups(tiles, count)
    specs = {side: extraction_chain(run, side, replicas[side]) for side in sides}
    memory = [_memory(run, group) for group in groups]
    on_gpu = speeds.on == GPU
    for model_cores, moment_cores in _cores(run, specs, len(groups), on_gpu=on_gpu):
        processes = [
            *(
                Room(model_cores, stage.memory, stage.gpus)
                for spec in specs.values()
                for stage in spec.stages * spec.replicas
            ),
            *(Room(moment_cores, needed, 1.0 if on_gpu else 0.0) for needed in memory),
        ]
        alone = serial and sum(memory) <= max(run.machines.node_memory)
        if alone or have_room(processes, _nodes(run)):
            return Shares(replicas, model_cores, groups, moment_cores, max(memory), speeds.on)
    models = sum(process.memory for process in processes) - sum(memory)
    raise UserError(
        f"extract.store: none keeps both models and the moments of {len(run.pairs)} pairs of "
        f"layers in memory at once: {format_bytes(models)} and {format_bytes(sum(memory))} of "
        f"nodes' memory, in {len(processes)} processes that need a core or a part of one, up to "
        f"{format_bytes(max(process.memory for process in processes))} each; the nodes offer "
        f"{format_bytes(sum(run.machines.node_memory))} in all. Name fewer fit.pairs, use more or "
        "larger nodes, or set extract.store: zarr"
    )


def _cores(
    run: Run, models: Mapping[Side, ChainSpec], processes: int, *, on_gpu: bool
) -> list[tuple[float, float]]:
    """Cores of a model's stage, and of a process with moments: what to try, the best first."""
    nodes = run.machines.node_cpus
    stages = sum(spec.replicas * len(spec.stages) for spec in models.values())
    if not run.machines.gpus:
        cores = cores_shared(nodes, stages + processes)
        return [(cores, cores)]
    if on_gpu:  # which sort its rows on the cores
        return [(1.0, float(cores)) for cores in range(CORES_OF_GPU, 0, -1)]
    beside = -(-stages // len(nodes))  # so that each node gets one of them
    return [(1.0, float(max(1, int(min(nodes)) - beside)))]


def _nodes(run: Run) -> list[Room]:
    """What each node has, if GPUs are spread evenly."""
    machines = run.machines
    gpus = machines.gpus / len(machines.node_cpus)
    both = zip(machines.node_cpus, machines.node_memory, strict=True)
    return [Room(cpus, memory, gpus) for cpus, memory in both]


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
            n for n in counts if max(gpu_bytes(run, group) for group in _groups(tiles, n)) <= room
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
    alone = extraction_chain(run, side).replicas
    return alone if run.config.cluster.replicas != "auto" else max(1, alone // (sides + 1))


def _memory(run: Run, tiles: Sequence[Tile]) -> int:
    """Bytes of its node that a process needs which holds some tiles."""
    folds = run.config.fit.folds
    return accumulate_bytes(
        sum(tile.bytes(run.widths, folds) for tile in tiles),
        sum(numbers_held(tiles, run.widths)),
        max(tile.numbers_multiplied(run.widths) for tile in tiles),
        max(run.config.extract.rows_per_unit, folds * ROWS_PER_PRODUCT),
        NUMBER_BYTES[run.config.extract.store_dtype],
        folds,
    )


def _groups(tiles: Sequence[Tile], count: int) -> list[Sequence[Tile]]:
    """Tiles of so many processes, or of as many as there are tiles."""
    return even_runs(tiles, min(count, len(tiles)))


def _with_cores(spec: ChainSpec, cores: float) -> ChainSpec:
    return replace(spec, stages=tuple(replace(stage, cpus=cores) for stage in spec.stages))
