"""Moments of many tiles: held by processes while all stored hidden states go by, read once.

As many tiles are held at once as the machines have room for: a *wave*. What each process holds is
kept on disk now and then, so a fit that stops goes on from there. Where there is no room for that,
each tile is a task that reads for itself; its bits are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from lrt_dist.commands._blocks_ahead import AHEAD, BlocksAhead
from lrt_dist.commands._losses import through_losses
from lrt_dist.commands._moment_processes import (
    Cores,
    Shares,
    counts_on_gpus,
    fits,
    moment_chain,
    places,
    process_memory,
)
from lrt_dist.commands._rows import Records, run_blocks
from lrt_dist.commands._tiles import (
    CORES_OF_GPU,
    largest_on_gpu,
    layers_wanted,
    tile_needs,
)
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LostError, NoPlaceError, NoReplicaError
from lrt_dist.files import sweep
from lrt_dist.plan.cost import NUMBER_BYTES
from lrt_dist.plan.memory import host_bytes
from lrt_dist.plan.sharing import halves, processes_of_node
from lrt_dist.plan.spreading import spread_tiles
from lrt_dist.plan.tiles import Tile
from lrt_dist.runtime.contract import Chains, ChainSpec, Done, StageSpec
from lrt_dist.sites import Side
from lrt_dist.tasks.accumulate import (
    KEPT,
    MOMENTS,
    ROWS_PER_PRODUCT,
    kept_path,
    kept_units,
)
from lrt_dist.tasks.moment_stage import WriteTask
from lrt_dist.tasks.read import ReadStage, ReadTask
from lrt_dist.workspace.products import GPU, ProductsDevices
from lrt_dist.workspace.run import Run

READER_CORES = 0.25
"""Of a process that reads: it waits for disks, and sums up checksums."""
CORES_PER_READER = 16
"""Of a node, for each process that reads a store there."""
WORTH = 1.5
"""Times as many waves that good shares are worth."""
Wave = tuple[list[Tile], Shares]
"""Tiles that are held at once, and how the machines are shared meanwhile."""


def read_once(
    run: Run, index: RowIndex, records: Records, folder: Path, tiles: Mapping[Path, Tile]
) -> bool:
    """Accumulate the missing tiles of a run, from wherever they stand.

    Args:
        tiles: all, and where their moments go.
        records: of the fitted units.
        folder: of the moments, with the facts of their rows.

    Returns:
        Whether all is done: False where no process that holds a tile has room beside those that
        read, now or within `cluster.placement_timeout`, or what they held was lost twice in vain.

    Raises:
        IncompleteError: no node is left; or states cannot be read.
        CorruptionError: a chunk is not what was committed.
    """
    work = _Work(run, index, records, folder, tiles)
    try:
        while work.missing():
            through_losses(run, work.placed, work.take_in, work.reached)
    except (NoPlaceError, NoReplicaError, LostError) as error:
        run.runtime.look()
        if max(run.machines.node_cpus) < 1:  # there is no place for anything
            raise
        run.progress.note("moments", f"{error}; so each tile is read for itself")
        return False
    return True


def next_wave(run: Run, tiles: Sequence[Tile], on: str, most: int = 0) -> Wave | None:
    """As many of some tiles as there is room for at once; None where there is none for the first.

    Args:
        on: where products are made.
        most: tiles that had room before; 0 if that is not known.
    """
    least = -(-len(tiles) // most) if most else 1
    found: Wave | None = None
    waves_of_found = 0
    for count in itertools.chain([least], _growing(least + 1, len(tiles))):
        if found and count > WORTH * waves_of_found:
            break
        part = list(tiles[: -(-len(tiles) // count)])
        if shares := _shares(run, part, on, good=True):
            return part, shares
        if not found and (shares := _shares(run, part, on, good=False)):
            found, waves_of_found = (part, shares), count
    return found


def waves(run: Run, tiles: Sequence[Tile], on: str) -> list[Wave] | None:
    """All tiles, wave by wave; None where a tile has no room."""
    found: list[Wave] = []
    while tiles:
        wave = next_wave(run, tiles, on, len(found[-1][0]) if found else 0)
        if wave is None:
            return None
        found.append(wave)
        tiles = tiles[len(wave[0]) :]
    return found


def _growing(first: int, last: int) -> Iterator[int]:
    """Numbers from the first on, further and further apart; the last one is among them."""
    while first < last:
        yield first
        first += max(1, first // 4)
    yield last


def _shares(run: Run, tiles: Sequence[Tile], on: str, *, good: bool) -> Shares | None:
    """How the machines are shared while some tiles are held; None where there is no room.

    Args:
        good: whether there must be half as many processes and readers as would be best.
    """
    nodes, counts = _counts(run, tiles, on)
    readers = halves(_best_readers(run))
    if good:
        counts = [(count, cores) for count, cores in counts if 2 * count >= counts[0][0]]
        readers = [count for count in readers if 2 * count >= readers[0]]
    bringing = [_readers(run, tiles, dict.fromkeys(run.lead, number)) for number in readers]
    for count, cores in counts:
        groups = spread_tiles(tiles, count, nodes, run.widths)
        memory = max(process_memory(run, group) for of_node in groups for group in of_node)
        for chains, spread in itertools.product(bringing, (True, False)):
            replicas = {side: chain.replicas for side, chain in chains.items()}
            shares = Shares(replicas, Cores(READER_CORES, cores), groups, spread, memory, on)
            if fits(run, chains, shares):
                return shares
    return None


def _counts(run: Run, tiles: Sequence[Tile], on: str) -> tuple[int, list[tuple[int, float]]]:
    """Nodes that processes with moments are spread over; and how many processes, with how many
    cores each, the best first."""
    machines, sides = run.machines, len(set(run.lead))
    if run.in_this_process:
        fitting = counts_on_gpus(run, tiles, 1, [1]) if on == GPU else [1]
        return 1, [(count, 1.0) for count in fitting]
    if on == GPU:
        nodes = places(run, on_gpu=True)
        most = min(int(machines.gpus), len(tiles))
        fitting = list(counts_on_gpus(run, tiles, nodes, halves(most)))
        cores = [*map(float, range(CORES_OF_GPU, 0, -1)), 0.5]
        return nodes, [(count, each) for count in fitting for each in cores]
    # Nodes that are far smaller than others would make all processes small.
    large = [cpus for cpus in machines.node_cpus if 2 * cpus >= max(machines.node_cpus)]
    beside = READER_CORES * sides * -(-_best_readers(run) // len(machines.node_cpus))
    each = tile_needs(run, tiles[0]).cpus
    of_nodes = processes_of_node(min(large), beside, each, -(-len(tiles) // len(large)))
    return len(large), [(min(n * len(large), len(tiles)), cores) for n, cores in of_nodes]


def _best_readers(run: Run) -> int:
    """Processes that should read each store: no more than there are units ahead."""
    by_cores = sum(max(1, int(cpus // CORES_PER_READER)) for cpus in run.machines.node_cpus)
    block = max(1, run.config.fit.folds * ROWS_PER_PRODUCT // run.config.extract.rows_per_unit)
    return min(by_cores, AHEAD * block)


def _readers(
    run: Run, tiles: Sequence[Tile], replicas: Mapping[Side, int]
) -> dict[Side, ChainSpec]:
    """Processes that read the stores, so many for each."""
    extract, specs = run.config.extract, {}
    for side in sorted(set(run.lead)):
        layers = layers_wanted(run, side, tiles)
        memory = host_bytes(
            len(layers),
            extract.rows_per_unit,
            run.facts[side].width,
            NUMBER_BYTES[extract.store_dtype],
            carry_bytes=0,
        )
        specs[side] = ChainSpec(
            (StageSpec(ReadStage, cpus=READER_CORES, gpus=0.0, memory=memory, leaves=layers),),
            replicas[side],
            most=replicas[side],
            placement_timeout=run.config.cluster.placement_timeout,
            waits_for_others=False,
        )
    return specs


class _Work:
    """What is missing of a run's moments, and how it is done."""

    def __init__(
        self,
        run: Run,
        index: RowIndex,
        records: Records,
        folder: Path,
        tiles: Mapping[Path, Tile],
    ) -> None:
        self._run, self._index, self._records, self._folder = run, index, records, folder
        self._paths = {tile: path for path, tile in tiles.items()}
        self._blocks = run_blocks(run, index, records, folder)
        self._products = ProductsDevices(run, largest_on_gpu(run, tiles.values()))
        self._forget_other_cuts()

    def missing(self) -> list[Tile]:
        """Tiles whose moments are not there."""
        there = set(self._folder.glob(f"*{MOMENTS}"))
        return [tile for tile, path in self._paths.items() if path not in there]

    def reached(self) -> tuple[int, ...]:
        """Units in what was kept of each missing tile."""
        return tuple(len(kept_units(kept_path(self._paths[tile]))) for tile in self.missing())

    def placed(self) -> Wave | None:
        """What is held next, and by whom; None where all is written.

        Raises:
            NoPlaceError: there is no room.
        """
        run, missing = self._run, self.missing()
        if not missing:
            return None
        run.runtime.look()
        device, _ = self._products.now()
        wave = next_wave(run, missing, device)
        if wave is None:
            raise NoPlaceError(
                "there is no room for processes that hold moments beside others that read hidden "
                "states"
            )
        return wave

    def take_in(self, wave: Wave | None) -> None:
        """Hold some tiles while all states are read that they have not, and write them."""
        if wave is None:
            return
        run, (tiles, shares) = self._run, wave
        sweep(self._folder)
        if len(tiles) < len(missing := self.missing()):
            run.progress.note(
                "moments",
                f"{len(tiles)} of {len(missing)} tiles have room at once; the others come after",
            )
        kept = [kept_units(kept_path(self._paths[tile])) for tile in tiles]
        everywhere, blocks = set.intersection(*kept), self._blocks
        first = next(
            (n for n, block in enumerate(blocks) if not everywhere.issuperset(block.units)),
            len(blocks),
        )
        chain = moment_chain(run, shares, self._index.digest, self._folder, waits_for_others=False)
        with run.runtime.chains(chain) as chains:
            if first < len(blocks):
                self._read(chains, wave, first)
            most = max(map(len, shares.processes))
            write = WriteTask(self._folder, len(self._records), most, keeps=False)
            for outcome in chains.run([write]):
                assert isinstance(outcome, Done), outcome

    def _read(self, chains: Chains, wave: Wave, first: int) -> None:
        """Take in all blocks from the first wanted one on."""
        run, index, (tiles, shares) = self._run, self._index, wave
        readers = _readers(run, tiles, shares.replicas)
        with ExitStack() as stack:
            total = len(readers) * len(self._records)
            bar = stack.enter_context(run.progress.phase("moments", total, "units"))
            bar.resume(len(readers) * sum(len(block.units) for block in self._blocks[:first]))
            ahead = BlocksAhead(
                run,
                index,
                self._blocks,
                first,
                processes=shares.processes,
                known=self._records.keys(),
                known_records=lambda units: {unit: self._records[unit] for unit in units},
                kept=set(),
                absent=set(),
                record=_never,
                quarantine=_never,
                facts=self._folder,
                bar=bar,
                keeps_last=False,
            )
            wanted = {side: layers_wanted(run, side, tiles) for side in readers}
            stack.enter_context(
                ahead.fed(readers, lambda side, unit: self._task(side, wanted[side], unit))
            )
            for outcome in chains.run(ahead.tasks()):
                assert isinstance(outcome, Done), outcome
                ahead.ended(outcome)

    def _task(self, side: Side, layers: tuple[int, ...], unit: int) -> ReadTask:
        checksums = self._records[unit][side].checksums
        names = [f"{kind}/{layer}" for layer in layers for kind in ("layers", "norms")]
        return ReadTask(
            unit, self._run.folder.store_url(side), layers, {n: checksums[n] for n in names}
        )

    def _forget_other_cuts(self) -> None:
        """Delete what was kept of blocks that were cut otherwise, by another version."""
        order = [unit for block in self._blocks for unit in block.units]
        ends = {0, *itertools.accumulate(len(block.units) for block in self._blocks)}
        for path in self._folder.glob(f"*{KEPT}"):
            units = kept_units(path)
            if len(units) not in ends or units != set(order[: len(units)]):
                path.unlink()


def _never(*_: Any) -> NoReturn:
    """All units were computed before."""
    raise AssertionError
