"""The tiles of a run's grid: which there are, where their moments lie, and what they need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from lrt_dist.config import fingerprint_of
from lrt_dist.linear.moments import Pair
from lrt_dist.plan.cost import NUMBER_BYTES, accumulate_bytes
from lrt_dist.plan.tiles import Tile, layers_of, numbers_held, plan_tiles, units_of_leaf
from lrt_dist.runtime.contract import Needs
from lrt_dist.sites import Side
from lrt_dist.tasks.accumulate import MOMENTS, ROWS_PER_PRODUCT, tile_moments
from lrt_dist.workspace.placement import task_needs
from lrt_dist.workspace.run import Run

CORES_OF_GPU = 4
"""Cores of a task whose products a GPU makes: they read, check and sort its rows."""


def run_tiles(run: Run) -> list[Tile]:
    """The tiles of a run's grid."""
    config = run.config.fit
    return plan_tiles(
        run.pairs,
        run.widths,
        config.folds,
        int(config.tile_bytes),
        run.joint,
        config.mismatched_draws,
    )


def wanted_pairs(run: Run) -> list[Pair]:
    """The second moments that the fits of a run need."""
    return [pair for tile in run_tiles(run) for pair in tile_moments(tile)]


def layers_wanted(run: Run, side: Side, tiles: Sequence[Tile]) -> tuple[int, ...]:
    """Layers of a leading side's model that some tiles want, of both sides where both are one
    model."""
    wanted = layers_of(tiles)
    return tuple(sorted({n for one in Side if run.lead[one] is side for n in wanted[one]}))


def tile_name(tile: Tile) -> str:
    """Under which the moments of a tile lie: by what it holds, not by its number in a plan."""
    return fingerprint_of({"moments": [list(pair) for pair in tile_moments(tile)]})


def tile_path(folder: Path, tile: Tile) -> Path:
    """Where the moments of a tile lie."""
    return folder / f"{tile_name(tile)}{MOMENTS}"


def leaf_units(run: Run, tiles: Collection[Tile], units: int) -> int:
    """Units of a leaf, among so many units and tiles of a run."""
    extract, folds = run.config.extract, run.config.fit.folds
    number_bytes = NUMBER_BYTES[extract.store_dtype]
    worth = max(
        2 * tile.bytes(run.widths, folds) // (number_bytes * sum(tile.numbers_read(run.widths)))
        for tile in tiles
    )
    return units_of_leaf(units, extract.rows_per_unit, len(tiles), worth)


def tile_needs(run: Run, tile: Tile) -> Needs:
    """What a task of a tile needs."""
    return task_needs(run, max(run.widths), host_bytes(run, [tile]))


def block_rows(run: Run) -> int:
    """Rows of a block, at most."""
    return max(run.config.extract.rows_per_unit, run.config.fit.folds * ROWS_PER_PRODUCT)


def host_bytes(run: Run, tiles: Sequence[Tile]) -> int:
    """Memory of its node that a process needs which accumulates some tiles at once."""
    folds = run.config.fit.folds
    return accumulate_bytes(
        sum(tile.bytes(run.widths, folds) for tile in tiles),
        sum(numbers_held(tiles, run.widths)),
        max(tile.numbers_multiplied(run.widths) for tile in tiles),
        block_rows(run),
        NUMBER_BYTES[run.config.extract.store_dtype],
        folds,
    )


def largest_on_gpu(run: Run, tiles: Iterable[Tile]) -> int:
    """Memory of a GPU that makes the products of the largest of some tiles, of that one alone."""
    return max(gpu_bytes(run, [tile]) for tile in tiles)


def gpu_bytes(run: Run, tiles: Sequence[Tile]) -> int:
    """Memory of a GPU that makes the products of some tiles: the moments of all folds; for one tile
    at a time rows of one fold of a block, in float64 and shifted; and two blocks as they are
    stored, each with the target rows of the next one."""
    folds, widths = run.config.fit.folds, run.widths
    sums = sum(tile.bytes(widths, folds) for tile in tiles)
    multiplied = max(tile.numbers_multiplied(widths) for tile in tiles)
    source, target = numbers_held(tiles, widths)
    stored = NUMBER_BYTES[run.config.extract.store_dtype] * (source + 2 * target)
    return sums + 2 * ROWS_PER_PRODUCT * (8 * multiplied + folds * stored)
