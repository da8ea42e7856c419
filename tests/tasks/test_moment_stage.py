"""The stage that holds moments, alone and in a process of its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray

from lrt_dist.parcels import Handle
from lrt_dist.plan.tiles import Tile
from lrt_dist.runtime.chain import RemoteContent
from lrt_dist.runtime.contract import ChainSpec, Done, Runtime, StageSpec
from lrt_dist.sites import LayerPair, Side, Sided
from lrt_dist.store.moments import MomentFile
from lrt_dist.tasks.blocks import FOLDS, GROUPS, Block, RowFacts
from lrt_dist.tasks.extract import UnitRows
from lrt_dist.tasks.moment_stage import BlockTask, BuildMomentStage, Place, WriteTask

ROWS = 4
TILE = Tile((LayerPair(1, 2),), Sided((1,), (2,)))


def unit_rows(unit: int) -> UnitRows:
    """Of any layer; row k of unit u holds 4 u + k, and its square."""
    numbers = np.arange(unit * ROWS, (unit + 1) * ROWS, dtype=np.float32)[:, None]
    states = np.concatenate([numbers, numbers**2, np.ones_like(numbers)], axis=1)
    return UnitRows(states, np.linalg.norm(states, axis=1))


@dataclass(frozen=True)
class LocalRows:
    """See `lrt_dist.parcels.Handle`."""

    unit: int

    @classmethod
    def get_all(cls, handles: Sequence[LocalRows]) -> list[UnitRows]:
        return [unit_rows(handle.unit) for handle in handles]


def row_facts(folder: Path, units: int) -> RowFacts:
    """Every row in one fold; rows of a unit are of a group of their own."""
    np.save(folder / FOLDS, np.zeros(units * ROWS, dtype=np.int16))
    np.save(folder / GROUPS, np.repeat(np.arange(units), ROWS))
    return RowFacts(folder, ROWS, "digest", 0.5, None, Sided({1: 1.0}, {2: 1.0}))


def block_task(unit: int, facts: RowFacts, handles: Sequence[Handle]) -> BlockTask:
    """A block of one unit, whose partner is the next one.

    Args:
        handles: of both.
    """
    own, further = handles
    held: dict[Place, Handle] = {(Side.SOURCE, unit, 1): own, (Side.TARGET, unit, 2): own}
    held[Side.TARGET, unit + 1, 2] = further
    block = Block((unit,), (unit + 1,))
    return BlockTask(unit, block, unit, facts, held, (TILE.layers,) * 3, 1, keep=False)


def build(name: str, kept: Path) -> BuildMomentStage:
    """Of one tile with that name."""
    return BuildMomentStage({name: TILE}, 1, "digest", kept, "cpu")


def test_no_handle_outlives_the_opening_of_its_task(tmp_path: Path) -> None:
    """Or Ray may lose what it stands for, see `runtime.chain.RemoteContent`."""
    stage = build("tile", tmp_path)()
    handles: list[Handle] = [LocalRows(0), LocalRows(1)]
    task = block_task(0, row_facts(tmp_path, 2), handles)
    stage.open(task)
    gone = [weakref.ref(handle) for handle in handles]
    key = task.key
    del handles, task
    gc.collect()
    assert [handle() for handle in gone] == [None, None]
    stage.step(key, 0, None)
    stage.finish(key)
    stage.open(WriteTask(tmp_path, 1, 1, keeps=False))
    stage.step("moments", 0, None)
    assert MomentFile(tmp_path / "tile.safetensors").fold(0).n == ROWS


@pytest.mark.slow
def test_thousands_of_blocks_that_share_units_all_come_in(
    ray_runtime: Runtime, tmp_path: Path
) -> None:
    """Each unit comes twice: as a partner, and with the block after that. A stage that held its
    handles until a block was in waited for ever after some hundred blocks."""
    blocks = 3000
    facts = row_facts(tmp_path, blocks + 1)
    holding = ChainSpec(
        tuple(StageSpec(build(name, tmp_path), cpus=0.5, gpus=0) for name in "abc"),
        accumulates=True,
    )

    def tasks() -> Iterator[BlockTask]:
        own = RemoteContent(ray.put(unit_rows(0)))
        for unit in range(blocks):
            further = RemoteContent(ray.put(unit_rows(unit + 1)))
            yield block_task(unit, facts, [own, further])
            own = further

    with ray_runtime.chains(holding) as chains:
        assert all(isinstance(outcome, Done) for outcome in chains.run(tasks()))
        (written,) = chains.run([WriteTask(tmp_path, blocks, 1, keeps=False)])
        assert isinstance(written, Done)
    for name in "abc":
        assert MomentFile(tmp_path / f"{name}.safetensors").fold(0).n == blocks * ROWS
