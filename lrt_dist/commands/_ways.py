"""Two ways from two models to moments, and what each takes: through stores, or straight."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrt_dist.commands._blocks_ahead import AHEAD, SOONEST, kept_every
from lrt_dist.commands._moment_processes import Shares
from lrt_dist.commands._read_once import Wave, waves
from lrt_dist.commands._tiles import (
    largest_on_gpu,
    layers_wanted,
    leaf_units,
    run_tiles,
    tile_needs,
)
from lrt_dist.commands._together import Speeds, shared_machines
from lrt_dist.commands.extract_into_moments import STORED
from lrt_dist.formatting import format_bytes
from lrt_dist.plan.cost import NUMBER_BYTES, moments_flops, store_bytes
from lrt_dist.plan.memory import USABLE
from lrt_dist.plan.spreading import Group
from lrt_dist.plan.tiles import (
    MANY_TILES,
    Tile,
    layers_of,
    numbers_held,
    plan_blocks,
    rows_read_again,
)
from lrt_dist.runtime.contract import ChainSpec
from lrt_dist.sites import Side, Sided
from lrt_dist.tasks.accumulate import ROWS_PER_PRODUCT
from lrt_dist.workspace.placement import extraction_chain, stage_plans
from lrt_dist.workspace.products import CPU, GPU
from lrt_dist.workspace.run import Run

REACHED_FLOAT64 = 0.7
"""Share of a described GPU's operations a second that large float64 products are assumed to
reach."""
DRIVER_SECONDS = 0.004
"""In which the driver sends a unit through and commits it (docs/scale.md)."""
LAYER_SECONDS, BLOCK_SECONDS, HANDLE_SECONDS = 2e-5, 0.0006, 1e-5
"""In which it takes each layer of a unit that goes into moments, sends a block to a process that
holds moments, and with it each handle to such a layer (`python -m benchmarks driver_per_layer
driver_per_block`)."""
COPYING = 5e9
"""Bytes a second that a process which holds moments copies together from units, in one thread; half
of what it was on a machine with nothing else to do."""
READING = 5e8
"""Bytes a second that a process reads from a store, checked: a third of what it was from the page
cache (`python -m benchmarks reader`)."""
DISK = 1e9
"""Bytes a second that are written where nobody said how fast storage is."""


@dataclass(frozen=True)
class Extraction:
    """What is known of the work of both models.

    Attributes:
        rows: of the corpus.
        tokens: of each model.
        flops: of each model's forward passes.
        speed: operations a second of a GPU, or of all cores together.
    """

    rows: int
    tokens: Sided[int]
    flops: Sided[float]
    speed: float


@dataclass(frozen=True)
class Way:
    """What one way takes.

    Attributes:
        store: `extract.store` of this way.
        replicas: of each model.
        extraction_hours: of each model alone, its loading included; with `none` of both and the
            moments at once.
        stored_bytes: of each model, in the end.
        tiles: in which the moments of all pairs are accumulated.
        processes: that hold tiles while states go by; 0 where each tile is a task.
        memory: bytes of the largest of these tasks, or processes.
        moments_bytes: of all tiles, on disk.
        read_bytes: from both stores, for all tiles and mismatched rows.
        received_bytes: of hidden states from other nodes, by the node that wants most.
        written_bytes: of moments, most of which are deleted again.
        on: which make the products, cores or GPUs, and why cores although there are GPUs.
        hours: from the beginning of extraction to the last moments.
    """

    store: str
    replicas: Sided[int]
    extraction_hours: Sided[float]
    stored_bytes: Sided[int]
    tiles: int
    processes: int
    memory: int
    moments_bytes: int
    read_bytes: int
    received_bytes: int
    written_bytes: int
    on: str
    hours: float

    @property
    def passes(self) -> float:
        """`read_bytes` over the bytes of the stores."""
        return self.read_bytes / max(1, sum(self.stored_bytes))


@dataclass(frozen=True)
class _Fit:
    """What the moments take of what is stored; see `Way`."""

    processes: int
    memory: int
    read: int
    received: int
    written: int
    seconds: float


class Ways:
    """Both ways of one run, on its machines."""

    def __init__(self, run: Run, extraction: Extraction, core_speed: float) -> None:
        """`core_speed`: operations a second of float64 products on all cores."""
        self._run, self._extraction = run, extraction
        self._tiles = run_tiles(run)
        self._units = -(-extraction.rows // run.config.extract.rows_per_unit)
        folds = run.config.fit.folds
        self._moments = sum(tile.bytes(run.widths, folds) for tile in self._tiles)
        self._core_speed = core_speed
        self._gpu_speed = self._one_gpu_float64()
        self._on_gpus = self._gpu_speed * run.machines.gpus > self._core_speed
        self._device, self._on = (GPU, "GPUs") if self._on_gpus else (CPU, self._on_cores())

    def way(self, store: str) -> Way:
        """
        Raises:
            UserError: it cannot be gone, and why.
        """
        return self._straight() if store == "none" else self._stored()

    def _stored(self) -> Way:
        run, rows = self._run, self._extraction.rows
        stored = Sided.of(lambda side: self._store_bytes(side, rows))
        chains = Sided.of(lambda side: extraction_chain(run, side))
        hours = Sided.of(lambda side: self._extraction_seconds(side, chains[side]) / 3600)
        many = len(self._tiles) >= MANY_TILES
        found = waves(run, self._tiles, self._device) if many else None
        fit = self._in_waves(found) if found else self._by_leaves()
        return Way(
            store="zarr",
            replicas=Sided.of(lambda side: chains[side].replicas if self._is_run(side) else 0),
            extraction_hours=hours,
            stored_bytes=stored,
            tiles=len(self._tiles),
            processes=fit.processes,
            memory=fit.memory,
            moments_bytes=self._moments,
            read_bytes=fit.read,
            received_bytes=fit.received,
            written_bytes=fit.written,
            on=self._on,
            hours=sum(hours) + fit.seconds / 3600,
        )

    def _extraction_seconds(self, side: Side, chain: ChainSpec) -> float:
        """Of a model alone: until its weights are there, and then all states are stored."""
        if not self._is_run(side):
            return 0.0
        return self._load_seconds(side, chain.replicas) + max(
            self._model_seconds(side, chain.replicas * len(chain.stages)),
            self._storage_seconds(self._store_bytes(side, self._extraction.rows)),
            self._units * DRIVER_SECONDS,
        )

    def _load_seconds(self, side: Side, replicas: int) -> float:
        """In which so many replicas read the weights of their blocks from the storage."""
        run = self._run
        budget = run.config.extract.batch_tokens
        stages = stage_plans(run, side, head=False, batch_tokens=budget)
        return self._storage_seconds(replicas * sum(stage.weight_bytes for stage in stages))

    def _is_run(self, side: Side) -> bool:
        """Whether the model of a side is run for it: one model is run once for both."""
        return self._run.lead[side] is side

    def _by_leaves(self) -> _Fit:
        """Each tile is read for itself, in leaves that are merged."""
        run, extract, rows = self._run, self._run.config.extract, self._extraction.rows
        leaf = leaf_units(run, self._tiles, self._units)
        block_rows = run.config.fit.folds * ROWS_PER_PRODUCT
        again = rows_read_again(rows, leaf, extract.rows_per_unit, block_rows)
        numbers = [tile.numbers_read(run.widths) for tile in self._tiles]
        read = NUMBER_BYTES[extract.store_dtype] * sum(
            rows * sum(n) + again * n.target for n in numbers
        )
        leaves = -(-self._units // leaf)
        written = self._moments * (2 * leaves - 1)  # each leaf, and a merge less than leaves
        merged = self._moments * 2 * (leaves - 1)
        memory = max(tile_needs(run, tile).memory for tile in self._tiles)
        products = max(self._core_speed, self._gpu_speed * run.machines.gpus)
        seconds = max(
            self._flops(self._tiles) / products, self._storage_seconds(read + written + merged)
        )
        return _Fit(0, memory, read, 0, written, seconds)

    def _in_waves(self, found: Sequence[Wave]) -> _Fit:
        """As many tiles as have room are held at once, while all states that they want go by."""
        run, sides = self._run, sorted(set(self._run.lead))
        number_bytes = NUMBER_BYTES[run.config.extract.store_dtype]
        fits = []
        for tiles, shares in found:
            wanted = {side: len(layers_wanted(run, side, tiles)) for side in sides}
            reads = {
                side: self._extraction.rows * wanted[side] * run.facts[side].width * number_bytes
                for side in sides
            }
            kept = sum(tile.bytes(run.widths, run.config.fit.folds) for tile in tiles)
            work = max(
                self._driver_seconds(sides, tiles, shares.processes),
                self._moment_seconds(shares, len(run.machines.node_cpus)),
                self._reader_seconds(reads, shares),
            )
            times = self._times_kept(max(work, self._storage_seconds(sum(reads.values()))), kept)
            meanwhile = sum(reads.values()) + times * kept
            seconds = max(work, self._storage_seconds(meanwhile)) + self._storage_seconds(kept)
            fits.append(
                _Fit(
                    len(shares.processes),
                    shares.memory,
                    sum(reads.values()),
                    self._received(shares, len(run.machines.node_cpus)),
                    (times + 1) * kept,
                    seconds,
                )
            )
        return _Fit(
            max(fit.processes for fit in fits),
            max(fit.memory for fit in fits),
            sum(fit.read for fit in fits),
            sum(fit.received for fit in fits),
            sum(fit.written for fit in fits),
            sum(fit.seconds for fit in fits),
        )

    def _reader_seconds(self, reads: Mapping[Side, int], shares: Shares) -> float:
        """In which the readers of each store read so many bytes; no more are at work than there are
        units ahead."""
        ahead = AHEAD * self._units / len(self._blocks())
        return max(
            count / (READING * min(shares.replicas[side], ahead)) for side, count in reads.items()
        )

    def _blocks(self) -> list[tuple[int, ...]]:
        rows_per_unit, folds = self._run.config.extract.rows_per_unit, self._run.config.fit.folds
        return plan_blocks(range(self._units), rows_per_unit, folds * ROWS_PER_PRODUCT)

    def _straight(self) -> Way:
        run, extraction = self._run, self._extraction
        sides = sorted(set(run.lead))
        products = self._gpu_speed if self._on_gpus else self._core_speed
        speeds = Speeds(extraction.speed, products, self._device)
        shares = shared_machines(run, sides, extraction.tokens, extraction.rows, speeds)
        work = self._straight_seconds(sides, shares)
        times = 2 + self._times_kept(work, self._moments)  # with the last block, and at the end
        seconds = work + self._storage_seconds(2 * self._moments)
        rows = min(extraction.rows, STORED * run.config.extract.rows_per_unit)
        return Way(
            store="none",
            replicas=Sided.of(lambda side: shares.replicas.get(side, 0)),
            extraction_hours=Sided(seconds / 3600, seconds / 3600),
            stored_bytes=Sided.of(lambda side: self._store_bytes(side, rows)),
            tiles=len(self._tiles),
            processes=len(shares.processes),
            memory=shares.memory,
            moments_bytes=self._moments,
            read_bytes=0,
            received_bytes=self._received(shares, self._computing_nodes()),
            written_bytes=self._moments * times,
            on=self._on,
            hours=seconds / 3600,
        )

    def _straight_seconds(self, sides: list[Side], shares: Shares) -> float:
        """Until the last of those that work at once has ended."""
        run, flops, replicas = self._run, self._extraction.flops, shares.replicas
        driver = self._driver_seconds(sides, self._tiles, shares.processes)
        moments = self._moment_seconds(shares, self._computing_nodes())
        load = sum(self._load_seconds(side, replicas[side]) for side in sides)
        if not run.machines.gpus:  # all share the cores
            models = sum(flops[side] for side in sides) / self._extraction.speed
            products = self._flops(self._tiles) / self._core_speed
            return load + max(driver, moments, models + products)
        stages = {side: len(extraction_chain(run, side).stages) for side in sides}
        models = max(self._model_seconds(s, replicas[s] * stages[s]) for s in sides)
        return load + max(driver, moments, models)

    def _moment_seconds(self, shares: Shares, bringing: int) -> float:
        """In which processes get their states, copy them together, and multiply them.

        Args:
            bringing: nodes that states come from.
        """
        run, processes = self._run, shares.processes
        network = (
            self._received(shares, bringing) / run.described.network
            if run.described and run.described.network
            else 0.0
        )
        held = max(sum(numbers_held(tiles, run.widths)) for tiles in processes)
        number_bytes = NUMBER_BYTES[run.config.extract.store_dtype]
        copying = self._extraction.rows * held * number_bytes / COPYING
        products = max(self._flops(group) for group in processes) / self._process_speed(shares)
        return max(network, copying, products)

    def _process_speed(self, shares: Shares) -> float:
        """Operations a second of the products of one process with moments."""
        if self._on_gpus:
            return self._gpu_speed
        if self._run.in_this_process:
            return self._core_speed
        most = 2 * max(tile_needs(self._run, tile).cpus for tile in self._tiles)
        threads = min(max(1, int(shares.cores.moments)), most)
        return self._core_speed * threads / sum(self._run.machines.node_cpus)

    def _flops(self, tiles: Sequence[Tile]) -> int:
        """Operations of the products of some tiles."""
        entries = sum(tile.entries(self._run.widths) for tile in tiles)
        return moments_flops(self._extraction.rows, entries)

    def _times_kept(self, seconds: float, count: int) -> int:
        """How often so many bytes of moments are kept while they are accumulated."""
        if seconds < SOONEST:
            return 0
        return 1 + int((seconds - SOONEST) // kept_every(count / self._storage))

    def _driver_seconds(
        self, sides: list[Side], tiles: Sequence[Tile], processes: Sequence[Group]
    ) -> float:
        """To have all units computed, or read, and to send all blocks to all processes that hold
        some tiles."""
        run, units = self._run, self._units
        left = sum(len(layers_wanted(run, side, tiles)) for side in sides)
        blocks = len(self._blocks())
        # Every unit comes once, and its target states a second time, as a partner.
        wanted = [layers_of(tiles) for tiles in processes]
        handles = units * sum(len(of.source) + 2 * len(of.target) for of in wanted)
        return (
            units * (len(sides) * DRIVER_SECONDS + left * LAYER_SECONDS)
            + blocks * len(processes) * BLOCK_SECONDS
            + handles * HANDLE_SECONDS
        )

    def _computing_nodes(self) -> int:
        """Nodes that models are on."""
        machines = self._run.machines
        return sum(map(bool, machines.node_gpus)) or len(machines.node_cpus)

    def _received(self, shares: Shares, nodes: int) -> int:
        """Bytes of hidden states that the node with the most of them gets from others, which bring
        as much as it does: of every layer that one of its processes wants, once.

        Args:
            nodes: that states come from.
        """
        run = self._run
        together = shares.groups if shares.spread else [shares.processes]  # any node may want all
        layers = [layers_of(itertools.chain(*groups)) for groups in together]
        states = [{(run.lead[s], n) for s in Side for n in of_node[s]} for of_node in layers]
        numbers = max(sum(run.widths[lead] for lead, _ in of_node) for of_node in states)
        row_bytes = numbers * NUMBER_BYTES[run.config.extract.store_dtype]
        return self._extraction.rows * row_bytes * (nodes - 1) // nodes

    def _model_seconds(self, side: Side, gpus: int) -> float:
        """Of a model on so many GPUs, as far as there are; or on all cores."""
        devices = min(gpus, self._run.machines.gpus) if self._run.machines.gpus else 1
        return self._extraction.flops[side] / (self._extraction.speed * devices)

    def _store_bytes(self, side: Side, rows: int) -> int:
        """Of a side's store with the states of so many rows, and the norms of all."""
        if not self._is_run(side):  # they are in the other side's
            return 0
        layers = self._run.stored_layers(side)
        widths = dict.fromkeys(layers, self._run.facts[side].width)
        others = self._extraction.rows - rows
        states = store_bytes(rows, widths, self._run.config.extract.store_dtype)
        return states + 4 * others * len(layers)

    @property
    def _storage(self) -> float:
        """Bytes a second."""
        described = self._run.described
        return described.storage if described and described.storage else DISK

    def _storage_seconds(self, count: int) -> float:
        """Seconds in which so many bytes are written or read; 0 where nobody said how fast."""
        described = self._run.described
        return count / described.storage if described and described.storage else 0.0

    def _on_cores(self) -> str:
        """That products are made there, and why."""
        described, needed = self._run.described, self._largest_on_gpu
        if described is None or needed <= USABLE * described.bytes_of_gpu or not described.gpus:
            return "cores"
        return (
            f"cores, since a tile takes {format_bytes(needed)} of a GPU's "
            f"{format_bytes(described.bytes_of_gpu)} (lower fit.tile_bytes)"
        )

    @property
    def _largest_on_gpu(self) -> int:
        """Bytes of a GPU that the largest tile takes alone."""
        return largest_on_gpu(self._run, self._tiles)

    def _one_gpu_float64(self) -> float:
        """Operations a second of float64 products on one GPU; 0 where they are not known, or where
        a tile has no room there."""
        described = self._run.described
        if described is None or self._largest_on_gpu > USABLE * described.bytes_of_gpu:
            return 0.0
        return REACHED_FLOAT64 * described.float64_of_gpu
