"""A stage that holds the moments of some tiles, and takes blocks of units in, one after the other.

Hidden states come with each block as handles: nothing is read from a store. What the stage holds is
kept on disk when a block says so, and a stage that is built again goes on from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrt_dist.errors import LostError
from lrt_dist.linear.moments import RowBuffer
from lrt_dist.models.host_allocator import keep_freed_memory
from lrt_dist.parcels import Handle, contents_of
from lrt_dist.plan.tiles import Tile, layers_of
from lrt_dist.sites import Side, Sided
from lrt_dist.tasks.accumulate import KEPT, MOMENTS, TileSums
from lrt_dist.tasks.blocks import Block, BlockSorter, RowFacts, SortedBlock, States
from lrt_dist.tasks.extract import UnitRows

Place = tuple[Side, int, int]
"""Side, unit and layer."""


@dataclass(frozen=True)
class BlockTask:
    """A block to take in. One that comes out of the order of the run is refused.

    Attributes:
        number: of the block, in the order of the run.
        block: its units and their partners.
        before: number of units in all blocks before it.
        facts: of the rows.
        held: the `UnitRows` of its units, and of the target model those of its partners.
        layers: that each stage wants.
        tiles: that a stage holds, at most.
        keep: whether to write down afterwards what the stage holds, a tile a batch.
    """

    number: int
    block: Block
    before: int
    facts: RowFacts
    held: Mapping[Place, Handle]
    layers: tuple[Sided[tuple[int, ...]], ...]
    tiles: int
    keep: bool

    @property
    def receipt_type(self) -> type[Kept]:
        """Of every stage, if `keep`."""
        return Kept

    @property
    def key(self) -> str:
        return f"block {self.number}"

    @property
    def batches(self) -> int:
        return 1 + self.tiles if self.keep else 1

    def smaller(self) -> None:
        """A block is what the run says that it is."""

    def for_stage(self, stage: int) -> BlockTask:
        """With the states that the stage wants: others need not come to its node."""
        layers = self.layers[stage]
        held = {(s, unit, n): h for (s, unit, n), h in self.held.items() if n in layers[s]}
        return replace(self, held=held, layers=())


@dataclass(frozen=True)
class WriteTask:
    """Write the moments of every tile, a tile a batch, once all blocks are in.

    Attributes:
        folder: where they go.
        units: that must be in.
        tiles: that a stage holds, at most.
        keeps: whether what was kept stays, for whoever asks whether all is written.
    """

    folder: Path
    units: int
    tiles: int
    keeps: bool

    @property
    def key(self) -> str:
        return "moments"

    @property
    def batches(self) -> int:
        return self.tiles

    def smaller(self) -> None:
        """See `BlockTask`."""


@dataclass(frozen=True)
class Kept:
    """What was kept, in so many seconds."""

    seconds: float


class MomentStage:
    """See `runtime.contract.Stage`."""

    def __init__(
        self, tiles: dict[str, Tile], folds: int, index_digest: str, kept: Path, device: str
    ) -> None:
        """Go on from what was kept.

        Args:
            tiles: by the names under which their moments are kept.
            kept: folder in which they are.
            device: where products are made.
        """
        self._names, self._folder = tuple(tiles), kept
        buffer = RowBuffer(device)  # tiles take turns
        self._sums = {
            name: TileSums(tile, folds, index_digest, buffer) for name, tile in tiles.items()
        }
        for name, sums in self._sums.items():
            sums.take_up(kept / f"{name}{KEPT}")
        self._layers = layers_of(tiles.values())
        self._draws = max(tile.draws for tile in tiles.values())
        self._sorter: BlockSorter | None = None
        self._device = device
        # Target states of a block's partners: they are the next block's, as a rule.
        self._partners: tuple[int, ...] = ()
        self._further: States | None = None
        self._steps: dict[str, Callable[[int], None]] = {}
        self._keeping: dict[str, float] = {}
        self._lock = threading.Lock()

    def open(self, task: BlockTask | WriteTask) -> None:
        """Gather and sort a block's rows while the block before is multiplied. Its handles are let
        go of here, see `Handle`."""
        step: Callable[[int], None]
        if isinstance(task, WriteTask):
            step = partial(self._write, task)
        else:
            step = partial(self._take_in, replace(task, held={}), self._sorted(task))
        with self._lock:
            self._steps[task.key] = step

    def step(self, key: str, batch: int, carry: Any) -> None:
        self._steps[key](batch)

    def finish(self, key: str) -> Any:
        seconds = self._keeping.get(key)
        self.forget(key)
        return None if seconds is None else Kept(seconds)

    def forget(self, key: str) -> None:
        with self._lock:
            self._steps.pop(key, None)
            self._keeping.pop(key, None)

    def _sorted(self, task: BlockTask) -> SortedBlock | None:
        if all(sums.units.issuperset(task.block.units) for sums in self._sums.values()):
            return None
        if self._sorter is None:  # the facts of a run do not change
            self._sorter = BlockSorter(task.facts, self._layers, self._draws)
        block = task.block
        if self._further is not None and block.units == self._partners:
            lent = {(Side.TARGET, unit) for unit in block.units}
            held = HeldUnits({p: h for p, h in task.held.items() if p[:2] not in lent})
            own = self._sorter.gather(held, block.units, Side.SOURCE)
            own = replace(own, target=self._further.target)
        else:
            held = HeldUnits(task.held)
            own = self._sorter.gather(held, block.units, *Side)
        self._partners = block.partners
        self._further = self._sorter.gather(held, block.partners, Side.TARGET)
        return self._sorter.sort(block, own, [own, self._further]).on(self._device)

    def _take_in(self, task: BlockTask, block: SortedBlock | None, batch: int) -> None:
        """
        Raises:
            LostError: what came before is not in, so this cannot be.
        """
        if batch > 0:
            self._keep(task, batch - 1)
            return
        for name, sums in self._sums.items():
            if block is None or sums.units.issuperset(block.units):
                continue  # it was kept with this block, by a process that is gone
            self._check(name, sums, task.before)
            sums.add(block, task.facts.rows_per_unit)

    def _keep(self, task: BlockTask, number: int) -> None:
        began = time.monotonic()
        for name in self._names[number : number + 1]:
            self._sums[name].keep(self._folder / f"{name}{KEPT}")
        seconds = time.monotonic() - began
        self._keeping[task.key] = self._keeping.get(task.key, 0.0) + seconds

    def _write(self, task: WriteTask, number: int) -> None:
        for name in self._names[number : number + 1]:
            path = task.folder / f"{name}{MOMENTS}"
            if not path.exists():
                self._check(name, self._sums[name], task.units)
                self._sums[name].write(path)
            if not task.keeps:
                (self._folder / f"{name}{KEPT}").unlink(missing_ok=True)

    def _check(self, name: str, sums: TileSums, units: int) -> None:
        if len(sums.units) != units:
            raise LostError(
                f"the moments of {name} hold {len(sums.units)} units where {units} should be in: "
                "what a process held that died is lost since it was last kept"
            )


class HeldUnits:
    """`Units` that were behind handles."""

    def __init__(self, held: Mapping[Place, Handle]) -> None:
        self._rows: dict[Place, UnitRows] = dict(
            zip(held, contents_of(list(held.values())), strict=True)
        )

    def states(self, side: Side, layer: int, unit: int) -> NDArray[Any]:
        return self._rows[side, unit, layer].states

    def norms(self, side: Side, layer: int, unit: int) -> NDArray[np.float32]:
        return self._rows[side, unit, layer].norms


@dataclass(frozen=True)
class BuildMomentStage:
    """Builds a `MomentStage` in the process that will hold it."""

    tiles: dict[str, Tile]
    folds: int
    index_digest: str
    kept: Path
    device: str

    def __call__(self) -> MomentStage:
        keep_freed_memory()
        return MomentStage(self.tiles, self.folds, self.index_digest, self.kept, self.device)
