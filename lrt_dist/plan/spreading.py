"""Which process holds which tiles: those of a node share layers, so that few must come to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrt_dist.plan.tiles import Tile, even_runs, numbers_held
from lrt_dist.sites import Sided

Group = tuple[Tile, ...]
"""Tiles of one process."""


def spread_tiles(
    tiles: Sequence[Tile], processes: int, nodes: int, widths: Sided[int]
) -> list[list[Group]]:
    """Tiles of each process, node by node.

    Tiles are parted in two, by source layers or by target layers, whichever leaves less to be
    brought to both parts, and each part again, down to the processes. No process holds more than
    ⌈tiles / processes⌉ tiles.

    Args:
        processes: that hold tiles, as many as there are tiles at most.
        nodes: to share the processes evenly; each gets one at least, so there may be fewer.
        widths: of the source and target model.
    """
    of_nodes = [len(run) for run in even_runs(range(processes), min(nodes, processes))]
    most = -(-len(tiles) // processes)
    parts = _parted(tiles, of_nodes, most, widths)
    return [
        [tuple(group) for group in _parted(part, [1] * count, most, widths)]
        for part, count in zip(parts, of_nodes, strict=True)
    ]


def _parted(
    tiles: Sequence[Tile], processes: Sequence[int], most: int, widths: Sided[int]
) -> list[Sequence[Tile]]:
    """As many parts as there are numbers of processes, each with as many tiles as it has room for.

    Args:
        most: tiles of a process.
    """
    if len(processes) == 1:
        return [tiles]
    middle = len(processes) // 2
    left, right = processes[:middle], processes[middle:]
    by_source = sorted(tiles, key=lambda tile: (tile.layers.source, tile.layers.target))
    by_target = sorted(tiles, key=lambda tile: (tile.layers.target, tile.layers.source))
    counts = _tiles_of_left(len(tiles), sum(left), sum(right), most)
    parts = min(
        ((o[:count], o[count:]) for o in (by_source, by_target) for count in counts),
        key=lambda both: (
            sum(sum(numbers_held(part, widths)) for part in both),
            max(sum(tile.entries(widths) for tile in part) for part in both),
        ),
    )
    return [
        *_parted(parts[0], left, most, widths),
        *_parted(parts[1], right, most, widths),
    ]


def _tiles_of_left(tiles: int, left: int, right: int, most: int) -> list[int]:
    """How many tiles the processes on the left may get: in proportion to them, rounded either way.
    All get one at least, and `most` at most."""
    share = tiles * left / (left + right)
    fewest, largest = max(left, tiles - most * right), min(most * left, tiles - right)
    return sorted({min(max(fewest, n), largest) for n in (math.floor(share), math.ceil(share))})
