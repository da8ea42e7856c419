"""Processes that hold the moments of tiles, beside the chains that bring them hidden states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrt_dist.commands._blocks_ahead import AHEAD
from lrt_dist.commands._tiles import block_rows, gpu_bytes, host_bytes, tile_name
from lrt_dist.plan.cost import NUMBER_BYTES
from lrt_dist.plan.memory import USABLE
from lrt_dist.plan.sharing import Room, have_room
from lrt_dist.plan.spreading import Group, spread_tiles
from lrt_dist.plan.tiles import Tile, numbers_held
from lrt_dist.runtime.contract import ChainSpec, StageSpec
from lrt_dist.sites import Side
from lrt_dist.tasks.moment_stage import BuildMomentStage
from lrt_dist.workspace.products import GPU
from lrt_dist.workspace.run import Run


@dataclass(frozen=True)
class Cores:
    """Of one process: one that brings states, a model's stage or a reader, or one with moments."""

    states: float
    moments: float


@dataclass(frozen=True)
class Shares:
    """Who gets what of the machines.

    Attributes:
        replicas: of each chain that brings states, by leading side.
        cores: of each stage of these chains, and of each process that holds moments.
        groups: tiles of each of these processes, node by node.
        spread: whether those of one list are on one node, and others on others; else they are on
            as few nodes as have room.
        memory: bytes of the largest of them.
        on: where they make their products.
    """

    replicas: dict[Side, int]
    cores: Cores
    groups: list[list[Group]]
    spread: bool
    memory: int
    on: str

    @property
    def processes(self) -> list[Group]:
        """Tiles of each process, one after the other."""
        return [tiles for of_node in self.groups for tiles in of_node]


def moment_chain(
    run: Run, shares: Shares, index_digest: str, kept: Path, *, waits_for_others: bool = True
) -> ChainSpec:
    """One replica, whose stages hold some tiles each; all see every block.

    Args:
        index_digest: of the row index.
        kept: where moments in the making are kept.
        waits_for_others: see `ChainSpec`.
    """
    stages = tuple(
        StageSpec(
            BuildMomentStage(
                {tile_name(tile): tile for tile in tiles},
                run.config.fit.folds,
                index_digest,
                kept,
                shares.on,
            ),
            cpus=shares.cores.moments,
            gpus=1.0 if shares.on == GPU else 0.0,
            memory=process_memory(run, tiles),
            node=node if shares.spread else None,
        )
        for node, groups in enumerate(shares.groups)
        for tiles in groups
    )
    return ChainSpec(
        stages,
        placement_timeout=run.config.cluster.placement_timeout,
        accumulates=True,
        waits_for_others=waits_for_others,
    )


def places(run: Run, *, on_gpu: bool) -> int:
    """Nodes that processes with moments are spread over."""
    if run.in_this_process:
        return 1
    machines = run.machines
    return sum(map(bool, machines.node_gpus)) if on_gpu else len(machines.node_cpus)


def fits(run: Run, bringing: Mapping[Side, ChainSpec], shares: Shares) -> bool:
    """Whether the nodes hold all at once.

    Args:
        bringing: chains that bring states.
    """
    gpus = 1.0 if shares.on == GPU else 0.0
    together = shares.groups if shares.spread else [[tiles] for tiles in shares.processes]
    moments = [
        Room(
            shares.cores.moments * len(groups),
            sum(process_memory(run, tiles) for tiles in groups),
            gpus * len(groups),
        )
        for groups in together
    ]
    if run.in_this_process:
        return sum(room.memory for room in moments) <= max(run.machines.node_memory)
    stages = [
        Room(shares.cores.states, stage.memory, stage.gpus)
        for spec in bringing.values()
        for stage in spec.stages * spec.replicas
    ]
    if shares.spread:
        return have_room(stages, _nodes(run), moments)
    return have_room([*stages, *moments], _nodes(run))


def process_memory(run: Run, tiles: Sequence[Tile]) -> int:
    """Bytes of its node that a process needs which holds some tiles."""
    needed = host_bytes(run, tiles)
    if run.in_this_process:  # without Ray's object store, states that come ahead lie here too
        numbers = sum(numbers_held(tiles, run.widths))
        number_bytes = NUMBER_BYTES[run.config.extract.store_dtype]
        needed += AHEAD * block_rows(run) * numbers * number_bytes
    return needed


def counts_on_gpus(
    run: Run, tiles: Sequence[Tile], nodes: int, counts: Iterable[int]
) -> Iterator[int]:
    """Those of some numbers of processes whose tiles have room on a GPU each. (With one more the
    largest may hold more, since tiles are not alike.)"""
    room = USABLE * run.machines.gpu_memory()

    def largest(processes: int) -> int:
        spread = spread_tiles(tiles, processes, nodes, run.widths)
        return max(gpu_bytes(run, group) for groups in spread for group in groups)

    return (count for count in counts if largest(count) <= room)


def _nodes(run: Run) -> list[Room]:
    """What each node has."""
    of_nodes = zip(
        run.machines.node_cpus, run.machines.node_memory, run.machines.node_gpus, strict=True
    )
    return [Room(*of_node) for of_node in of_nodes]
