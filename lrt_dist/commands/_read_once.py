"""Moments of many tiles: held by processes while all stored hidden states go by, read once.

As many tiles are held at once as the machines have room for: a *wave*. What each process holds is
kept on disk now and then, so a fit that stops goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from lrt_dist.commands._blocks_ahead import BlocksAhead
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
    gpu_bytes,
    layers_wanted,
    run_tiles,
    tile_needs,
    tile_path,
)
from lrt_dist.commands._unit_stream import UnitStream
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.formatting import format_bytes
from lrt_dist.plan.cost import NUMBER_BYTES
from lrt_dist.plan.memory import host_bytes
from lrt_dist.plan.sharing import processes_of_node
from lrt_dist.plan.spreading import spread_tiles
from lrt_dist.plan.tiles import Tile, layers_of
from lrt_dist.runtime.contract import Chains, ChainSpec, Done, StageSpec
from lrt_dist.sites import Side
from lrt_dist.tasks.accumulate import kept_path, kept_units
from lrt_dist.tasks.moment_stage import WriteTask
from lrt_dist.tasks.read import ReadStage, ReadTask
from lrt_dist.workspace.products import GPU, products_device
from lrt_dist.workspace.run import Run

READER_CORES = 0.25
"""Of a process that reads: it waits for disks, and sums up checksums."""
Wave = tuple[list[Tile], Shares]
"""Tiles that are held at once, and how the machines are shared meanwhile."""


def read_once(run: Run, index: RowIndex, records: Records, folder: Path) -> None:
    """Accumulate the missing tiles of a run, from wherever they stand.

    Args:
        records: of the fitted units.
        folder: of the moments, with the facts of their rows.

    Raises:
        UserError: no node has room for a tile.
        IncompleteError: see `through_losses`.
        CorruptionError: a chunk is not what was committed.
    """
    work = _Work(run, index, records, folder)
    while work.missing():
        through_losses(run, work.placed, work.take_in, work.reached)


def waves(run: Run, tiles: Sequence[Tile], on: str) -> Iterator[Wave]:
    """All tiles in as few waves as there is room for.

    Args:
        on: where products are made.

    Raises:
        UserError: no node has room for a tile.
    """
    while tiles:
        parts = (tiles[: -(-len(tiles) // count)] for count in range(1, len(tiles) + 1))
        wave = next(((list(p), s) for p in parts if (s := _shares(run, p, on))), None)
        if wave is None:
            largest = max(process_memory(run, [tile]) for tile in tiles)
            raise UserError(
                f"a process that holds moments of one tile needs {format_bytes(largest)} and "
                f"{tile_needs(run, tiles[0]).cpus} cores of its node, beside those that read; the "
                f"largest node offers {format_bytes(max(run.machines.node_memory))} and "
                f"{max(run.machines.node_cpus):g} cores: use larger nodes, or lower "
                "fit.tile_bytes or fit.folds"
            )
        yield wave
        tiles = tiles[len(wave[0]) :]


def _shares(run: Run, tiles: Sequence[Tile], on: str) -> Shares | None:
    """How the machines are shared while some tiles are held; None where there is no room."""
    machines, on_gpu = run.machines, on == GPU
    nodes, readers = places(run, on_gpu=on_gpu), _readers(run, tiles)
    if on_gpu:
        cores = [float(cores) for cores in range(CORES_OF_GPU, 0, -1)]
        most = 1 if run.in_this_process else int(machines.gpus)
        counts = range(min(most, len(tiles)), 0, -1)
        count = next(counts_on_gpus(run, tiles, nodes, counts), None)
        if count is None:
            return None
    else:
        each, beside = tile_needs(run, tiles[0]).cpus, READER_CORES * len(readers)
        of_node, share = processes_of_node(min(machines.node_cpus), beside, each)
        count = 1 if run.in_this_process else min(nodes * of_node, len(tiles))
        cores = [share]
    groups = spread_tiles(tiles, count, nodes, run.widths)
    memory = max(process_memory(run, group) for of_node in groups for group in of_node)
    replicas = {side: spec.replicas for side, spec in readers.items()}
    for spread in (True, False):
        for each_has in cores:
            shares = Shares(replicas, Cores(READER_CORES, each_has), groups, spread, memory, on)
            if fits(run, readers, shares):
                return shares
    return None


def _readers(run: Run, tiles: Sequence[Tile]) -> dict[Side, ChainSpec]:
    """Processes that read the stores, one of each on each node."""
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
        stage = StageSpec(ReadStage, cpus=READER_CORES, gpus=0.0, memory=memory, leaves=layers)
        count = len(run.machines.node_cpus)
        timeout = run.config.cluster.placement_timeout
        specs[side] = ChainSpec((stage,), count, most=count, placement_timeout=timeout)
    return specs


class _Work:
    """What is missing of a run's moments, and how it is done."""

    def __init__(self, run: Run, index: RowIndex, records: Records, folder: Path) -> None:
        self._run, self._index, self._records, self._folder = run, index, records, folder
        self._blocks = run_blocks(run, index, records, folder)
        self._devices: dict[tuple[tuple[float, ...], ...], str] = {}
        self._forget_other_cuts()

    def missing(self) -> list[Tile]:
        """Tiles whose moments are not there."""
        return [tile for tile in run_tiles(self._run) if not self._path(tile).exists()]

    def reached(self) -> tuple[int, ...]:
        """Units in what was kept of each missing tile."""
        return tuple(len(kept_units(kept_path(self._path(tile)))) for tile in self.missing())

    def placed(self) -> Wave:
        """What is held next, and by whom.

        Raises:
            UserError: see `waves`.
        """
        run, missing = self._run, self.missing()
        run.runtime.look()
        machines = (run.machines.node_cpus, run.machines.node_gpus)
        if machines not in self._devices:  # a GPU is asked, which takes its time
            largest = max(gpu_bytes(run, [tile]) for tile in missing)
            self._devices[machines], _ = products_device(run, largest)
        return next(waves(run, missing, self._devices[machines]))

    def take_in(self, wave: Wave) -> None:
        """Hold some tiles while all states are read that they have not, and write them."""
        run, (tiles, shares) = self._run, wave
        if len(tiles) < len(missing := self.missing()):
            run.progress.note(
                "moments",
                f"{len(tiles)} of {len(missing)} tiles have room at once; the others come after",
            )
        kept = [kept_units(kept_path(self._path(tile))) for tile in tiles]
        everywhere, blocks = set.intersection(*kept), self._blocks
        first = next(
            (n for n, block in enumerate(blocks) if not everywhere.issuperset(block.units)),
            len(blocks),
        )
        chain = moment_chain(run, shares, self._index.digest, self._folder)
        with run.runtime.chains(chain) as chains:
            if first < len(blocks):
                self._read(chains, wave, first)
            for outcome in chains.run([WriteTask(self._folder, len(self._records))]):
                assert isinstance(outcome, Done), outcome

    def _read(self, chains: Chains, wave: Wave, first: int) -> None:
        """Take in all blocks from the first wanted one on."""
        run, index, (tiles, shares) = self._run, self._index, wave
        readers = _readers(run, tiles)
        with ExitStack() as stack:
            total = len(readers) * len(self._records)
            bar = stack.enter_context(run.progress.phase("moments", total, "units"))
            bar.resume(len(readers) * sum(len(block.units) for block in self._blocks[:first]))
            ahead = BlocksAhead(
                run,
                index,
                self._blocks,
                first,
                layers=tuple(layers_of(group) for group in shares.processes),
                known=self._records.keys(),
                known_records=lambda units: {unit: self._records[unit] for unit in units},
                kept=set(),
                absent=set(),
                record=_never,
                quarantine=_never,
                facts=self._folder,
                bar=bar,
            )
            streams = {
                side: stack.enter_context(
                    UnitStream(
                        run.runtime, spec, ahead.wanted[side], partial(self._task, side, tiles)
                    )
                )
                for side, spec in readers.items()
            }
            ahead.feed(streams)
            for outcome in chains.run(ahead.tasks()):
                assert isinstance(outcome, Done), outcome
                ahead.ended(outcome)

    def _task(self, side: Side, tiles: Sequence[Tile], unit: int) -> ReadTask:
        layers = layers_wanted(self._run, side, tiles)
        checksums = self._records[unit][side].checksums
        names = [f"{kind}/{layer}" for layer in layers for kind in ("layers", "norms")]
        return ReadTask(
            unit, self._run.folder.store_url(side), layers, {n: checksums[n] for n in names}
        )

    def _forget_other_cuts(self) -> None:
        """Delete what was kept of blocks that were cut otherwise, by another version."""
        whole, cut = set[int](), {frozenset[int]()}
        for block in self._blocks:
            whole.update(block.units)
            cut.add(frozenset(whole))
        for tile in self.missing():
            path = kept_path(self._path(tile))
            if kept_units(path) not in cut:
                path.unlink()

    def _path(self, tile: Tile) -> Path:
        return tile_path(self._folder, tile)


def _never(*_: Any) -> NoReturn:
    """All units were computed before."""
    raise AssertionError
