"""Two ways from two models to moments, and what each takes: through stores, or straight."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrt_dist.commands._blocks_ahead import KEEPING, KEPT_EVERY
from lrt_dist.commands._tiles import gpu_bytes, leaf_units, run_tiles, tile_needs
from lrt_dist.commands._together import Shares, Speeds, layers_passed_on, shared_machines
from lrt_dist.commands.extract_into_moments import STORED
from lrt_dist.plan.cost import NUMBER_BYTES, moments_flops, store_bytes
from lrt_dist.plan.memory import USABLE
from lrt_dist.plan.spreading import Group
from lrt_dist.plan.tiles import layers_of, numbers_held, plan_blocks, rows_read_again
from lrt_dist.runtime.preflight import product_speed
from lrt_dist.sites import Side, Sided
from lrt_dist.tasks.accumulate import ROWS_PER_PRODUCT
from lrt_dist.workspace.placement import extraction_chain
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
        extraction_hours: of each model alone; with `none` of both and the moments at once.
        stored_bytes: of each model, in the end.
        tiles: in which the moments of all pairs are accumulated.
        processes: that hold all tiles at once; 0 where each tile is a task.
        memory: bytes of the largest of these tasks, or processes.
        moments_bytes: of all tiles, on disk.
        read_bytes: from both stores, for all tiles and mismatched rows.
        received_bytes: of hidden states from other nodes, by the node that wants most.
        written_bytes: of moments, most of which are deleted again.
        on: which make the products, cores or GPUs.
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


class Ways:
    """Both ways of one run, on its machines."""

    def __init__(self, run: Run, extraction: Extraction) -> None:
        self._run, self._extraction = run, extraction
        self._tiles = run_tiles(run)
        self._units = -(-extraction.rows // run.config.extract.rows_per_unit)
        folds = run.config.fit.folds
        self._moments = sum(tile.bytes(run.widths, folds) for tile in self._tiles)
        self._flops = moments_flops(
            extraction.rows, sum(tile.entries(run.widths) for tile in self._tiles)
        )
        self._core_speed = float64_speed(run)
        self._gpu_speed = self._one_gpu_float64()
        self._on_gpus = self._gpu_speed * run.machines.gpus > self._core_speed

    def way(self, store: str) -> Way:
        """
        Raises:
            UserError: it cannot be gone, and why.
        """
        return self._straight() if store == "none" else self._stored()

    def _stored(self) -> Way:
        run, rows = self._run, self._extraction.rows
        extract, folds = run.config.extract, run.config.fit.folds
        stored = Sided.of(lambda side: self._store_bytes(side, rows))
        chains = Sided.of(lambda side: extraction_chain(run, side))
        replicas = Sided.of(lambda side: chains[side].replicas)
        hours = Sided.of(
            lambda side: (
                max(
                    self._model_seconds(side, replicas[side] * len(chains[side].stages)),
                    self._storage_seconds(stored[side]),
                    self._units * DRIVER_SECONDS,
                )
                / 3600
            )
        )
        leaf = leaf_units(run, self._tiles, self._units)
        block_rows = folds * ROWS_PER_PRODUCT
        again = rows_read_again(rows, leaf, extract.rows_per_unit, block_rows)
        numbers = [tile.numbers_read(run.widths) for tile in self._tiles]
        read = NUMBER_BYTES[extract.store_dtype] * sum(
            rows * sum(n) + again * n.target for n in numbers
        )
        leaves = -(-self._units // leaf)
        written = self._moments * (2 * leaves - 1)  # each leaf, and a merge less than leaves
        merged = self._moments * 2 * (leaves - 1)
        fit_seconds = max(
            self._flops / max(self._core_speed, self._gpu_speed * run.machines.gpus),
            self._storage_seconds(read + written + merged),
        )
        return Way(
            store="zarr",
            replicas=replicas,
            extraction_hours=hours,
            stored_bytes=stored,
            tiles=len(self._tiles),
            processes=0,
            memory=max(tile_needs(run, tile).memory for tile in self._tiles),
            moments_bytes=self._moments,
            read_bytes=read,
            received_bytes=0,
            written_bytes=written,
            on="GPUs" if self._on_gpus else "cores",
            hours=sum(hours) + fit_seconds / 3600,
        )

    def _straight(self) -> Way:
        run, extraction = self._run, self._extraction
        sides = sorted(set(run.lead))
        speeds = (
            Speeds(extraction.speed, self._gpu_speed, GPU)
            if self._on_gpus
            else Speeds(extraction.speed, self._core_speed, CPU)
        )
        shares = shared_machines(run, sides, extraction.tokens, extraction.rows, speeds)
        seconds = self._straight_seconds(sides, shares)
        kept = self._moments / self._storage
        times = 2 + int(seconds // max(KEPT_EVERY, KEEPING * kept))  # the last one, and the end
        rows = min(extraction.rows, STORED * run.config.extract.rows_per_unit)
        norms = 4 * (extraction.rows - rows)
        return Way(
            store="none",
            replicas=Sided.of(lambda side: shares.replicas.get(side, 0)),
            extraction_hours=Sided(seconds / 3600, seconds / 3600),
            stored_bytes=Sided.of(
                lambda side: self._store_bytes(side, rows) + norms * len(run.layers[side])
            ),
            tiles=len(self._tiles),
            processes=len(shares.processes),
            memory=shares.memory,
            moments_bytes=self._moments,
            read_bytes=0,
            received_bytes=self._received(shares),
            written_bytes=self._moments * times,
            on="GPUs" if self._on_gpus else "cores",
            hours=seconds / 3600,
        )

    def _straight_seconds(self, sides: list[Side], shares: Shares) -> float:
        """Until the last of those that work at once has ended."""
        run, flops, replicas = self._run, self._extraction.flops, shares.replicas
        processes = shares.processes
        driver = self._driver_seconds(sides, processes)
        network = (
            self._received(shares) / run.described.network
            if run.described and run.described.network
            else 0.0
        )
        held = max(sum(numbers_held(tiles, run.widths)) for tiles in processes)
        number_bytes = NUMBER_BYTES[run.config.extract.store_dtype]
        copying = self._extraction.rows * held * number_bytes / COPYING
        if not run.machines.gpus:  # all share the cores
            models = sum(flops[side] for side in sides) / self._extraction.speed
            return max(driver, network, copying, models + self._flops / self._core_speed)
        products = self._gpu_speed * len(processes) if self._on_gpus else self._core_speed
        stages = {side: len(extraction_chain(run, side).stages) for side in sides}
        models = max(self._model_seconds(s, replicas[s] * stages[s]) for s in sides)
        return max(driver, network, copying, models, self._flops / products)

    def _driver_seconds(self, sides: list[Side], processes: Sequence[Group]) -> float:
        """To send all units through both models, and all blocks to all processes with moments."""
        run, units = self._run, self._units
        left = sum(len(layers_passed_on(run, side)) for side in sides)
        rows_per_unit, folds = run.config.extract.rows_per_unit, run.config.fit.folds
        blocks = len(plan_blocks(range(units), rows_per_unit, folds * ROWS_PER_PRODUCT))
        # Every unit comes once, and its target states a second time, as a partner.
        wanted = [layers_of(tiles) for tiles in processes]
        handles = units * sum(len(of.source) + 2 * len(of.target) for of in wanted)
        return (
            units * (len(sides) * DRIVER_SECONDS + left * LAYER_SECONDS)
            + blocks * len(processes) * BLOCK_SECONDS
            + handles * HANDLE_SECONDS
        )

    def _received(self, shares: Shares) -> int:
        """Bytes of hidden states that the node with the most of them gets from others, which
        compute as much as it does: of every layer that one of its processes wants, once."""
        run, machines = self._run, self._run.machines
        nodes = sum(map(bool, machines.node_gpus)) or len(machines.node_cpus)
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
        widths = dict.fromkeys(self._run.layers[side], self._run.facts[side].width)
        return store_bytes(rows, widths, self._run.config.extract.store_dtype)

    @property
    def _storage(self) -> float:
        """Bytes a second."""
        described = self._run.described
        return described.storage if described and described.storage else DISK

    def _storage_seconds(self, count: int) -> float:
        """Seconds in which so many bytes are written or read; 0 where nobody said how fast."""
        described = self._run.described
        return count / described.storage if described and described.storage else 0.0

    def _one_gpu_float64(self) -> float:
        """Operations a second of float64 products on one GPU; 0 where they are not known, or where
        a tile has no room there."""
        described = self._run.described
        largest = max(gpu_bytes(self._run, [tile]) for tile in self._tiles)
        if described is None or largest > USABLE * described.bytes_of_gpu:
            return 0.0
        return REACHED_FLOAT64 * described.float64_of_gpu


def float64_speed(run: Run) -> float:
    """Operations a second of float64 products on all cores, if they are like those here."""
    cores = sum(run.machines.node_cpus) / (os.cpu_count() or 1)
    return cores * product_speed(torch.randn(1024, 1024, dtype=torch.float64))
