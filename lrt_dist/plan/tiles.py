"""How the moments of a grid of layer pairs are cut: into tiles of pairs, and leaves of units.

A *tile* is a block of the grid whose moments one task can hold. A *leaf* is a run of units that one
task takes in for one tile; the moments of leaves are merged two by two, in a binary tree over
their numbers. Of few tiles the rows are dealt out, leaf by leaf; many are dealt out themselves, and
each is one leaf. All these cuts depend on the run alone, never on the number of workers, so no
result does.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lrt_dist.sites import LayerPair, Side, Sided

T = TypeVar("T")

LEAF_ROWS = 131_072
"""Fewest rows of a leaf where there are several: many enough that its products cost far more than
merging it."""
MOST_LEAVES, FEWEST_LEAVES = 48, 4
"""Of all tiles together, and of each: each leaf writes all moments of its tile, and so does each
merge, however few its rows were. More than one are there only for more workers."""
MANY_TILES = 8
"""So many give enough workers something to do: each is one leaf."""


@dataclass(frozen=True)
class Tile:
    """Moments that are accumulated together.

    Attributes:
        pairs: layer pairs, each also with every draw of mismatched rows.
        own: source and target layers whose own moments (S_xx, S_yy) this tile holds; every layer
            is in exactly one tile.
        within: pairs of source layers, for joint maps.
        draws: of mismatched rows, for each pair.
    """

    pairs: tuple[LayerPair, ...]
    own: Sided[tuple[int, ...]]
    within: tuple[tuple[int, int], ...] = ()
    draws: int = 1

    @property
    def layers(self) -> Sided[tuple[int, ...]]:
        """Source and target layers that are read, ascending."""
        joint = {layer for pair in self.within for layer in pair}
        sources = joint | {pair.source for pair in self.pairs} | set(self.own.source)
        targets = {pair.target for pair in self.pairs} | set(self.own.target)
        return Sided(tuple(sorted(sources)), tuple(sorted(targets)))

    def entries(self, widths: Sided[int]) -> int:
        """Numbers in its second moments, of one fold."""
        d, e = widths
        squares = (len(self.own.source) + len(self.within)) * d * d
        squares += len(self.own.target) * e * e
        return squares + (1 + self.draws) * len(self.pairs) * d * e

    def bytes(self, widths: Sided[int], folds: int) -> int:
        """Of its float64 second moments, of all folds."""
        return 8 * folds * self.entries(widths)

    def numbers_read(self, widths: Sided[int]) -> Sided[int]:
        """Numbers read from each store for each row."""
        return numbers_held([self], widths)

    def numbers_multiplied(self, widths: Sided[int]) -> int:
        """Numbers multiplied for each row: those read, and each draw of mismatched target rows."""
        source, target = self.numbers_read(widths)
        return source + (1 + self.draws) * target


def layers_of(tiles: Iterable[Tile]) -> Sided[tuple[int, ...]]:
    """Source and target layers that any of some tiles reads, ascending."""
    layers = [tile.layers for tile in tiles]
    return Sided.of(lambda side: tuple(sorted({n for some in layers for n in some[side]})))


def numbers_held(tiles: Iterable[Tile], widths: Sided[int]) -> Sided[int]:
    """Numbers of each model that are read for each row where some tiles are: those of a layer once,
    however many tiles want it."""
    layers = layers_of(tiles)
    return Sided.of(lambda side: len(layers[side]) * widths[side])


def plan_tiles(
    pairs: Sequence[LayerPair],
    widths: Sided[int],
    folds: int,
    budget: int,
    joint: Sequence[Sequence[int]] = (),
    draws: int = 1,
) -> list[Tile]:
    """Cut a grid into the rectangles that read least, each within a budget of bytes.

    A tile is never smaller than one pair, which may exceed the budget.

    Args:
        pairs: pairs to cover; the grid may have holes.
        widths: of the source and target model.
        joint: groups of source layers for joint maps.
        draws: of mismatched rows.
    """
    wanted = set(pairs)
    sources = sorted({pair.source for pair in pairs})
    targets = sorted({pair.target for pair in pairs})
    height, width = _shape(len(sources), len(targets), widths, draws, budget // (8 * folds))
    blocks = [
        block
        for rows in _even_runs(sources, height)
        for columns in _even_runs(targets, width)
        if (block := tuple(p for s in rows for t in columns if (p := LayerPair(s, t)) in wanted))
    ]
    own = _owners(blocks, Sided(sources, targets))
    tiles = [
        Tile(block, Sided(tuple(own[n].source), tuple(own[n].target)), draws=draws)
        for n, block in enumerate(blocks)
    ]
    within = sorted({(a, b) for group in joint for a in group for b in group if a < b})
    per_tile = max(1, budget // (8 * folds * widths.source**2))
    tiles += [
        Tile((), Sided((), ()), tuple(within[i : i + per_tile]))
        for i in range(0, len(within), per_tile)
    ]
    return tiles


def _owners(
    blocks: Sequence[Sequence[LayerPair]], layers: Sided[list[int]]
) -> list[Sided[list[int]]]:
    """Layers whose own moments each block of pairs gets: along diagonals of the grid, so that no
    block, and no row or column of blocks, gets many."""
    own = [Sided[list[int]]([], []) for _ in blocks]
    for side in Side:
        holding: dict[int, list[int]] = {layer: [] for layer in layers[side]}
        for number, block in enumerate(blocks):
            for layer in {Sided(pair.source, pair.target)[side] for pair in block}:
                holding[layer].append(number)
        # The two diagonals are neighbours: no single pair is on both, if there are several.
        for place, layer in enumerate(layers[side], start=side is Side.TARGET):
            own[holding[layer][place % len(holding[layer])]][side].append(layer)
    return own


def units_of_leaf(units: int, rows_per_unit: int, tiles: int, worth_rows: int) -> int:
    """Units of a leaf, among so many: all, of `MANY_TILES`; of fewer tiles `LEAF_ROWS` rows, or
    `worth_rows` if there are `FEWEST_LEAVES` then; more if there would be too many leaves.

    Args:
        tiles: of the run.
        worth_rows: of which a tile reads as many bytes as its leaf writes.
    """
    if tiles >= MANY_TILES:
        return units
    most = max(FEWEST_LEAVES, MOST_LEAVES // tiles)
    worth = min(worth_rows // rows_per_unit, -(-units // FEWEST_LEAVES))
    return max(1, LEAF_ROWS // rows_per_unit, worth, -(-units // most))


def plan_blocks(units: Sequence[int], rows_per_unit: int, block_rows: int) -> list[tuple[int, ...]]:
    """Units in even blocks, of `block_rows` at most where a unit has no more.

    Args:
        units: in the order in which they are taken in.
        block_rows: rows that are worked on at once.
    """
    block = max(1, min(block_rows, LEAF_ROWS) // rows_per_unit)
    return [tuple(run) for run in _even_runs(units, block)]


def plan_leaves(blocks: Sequence[T], units: int, leaf_units: int) -> list[Sequence[T]]:
    """Blocks in even leaves, as many as there would be if all had `leaf_units`.

    Args:
        units: of all blocks.
        leaf_units: see `units_of_leaf`.
    """
    leaves = -(-units // leaf_units)
    return _even_runs(blocks, -(-len(blocks) // leaves))


def rows_read_again(rows: int, leaf_units: int, rows_per_unit: int, block_rows: int) -> int:
    """Rows of the target that are read twice: one block for each leaf, for mismatched rows."""
    units = range(-(-rows // rows_per_unit))
    blocks = plan_blocks(units, rows_per_unit, block_rows)
    leaves = plan_leaves(blocks, len(units), leaf_units)
    if len(blocks) == 1:
        return 0
    return min(rows, sum(len(leaf[0]) for leaf in leaves) * rows_per_unit)


def standing_nodes(present: Collection[tuple[int, int]], leaves: int) -> list[tuple[int, int]]:
    """The nodes (level, number) from which a tree goes on: those on disk, and leaves elsewhere.
    Node (k, i) stands for the leaves from i·2^k to (i+1)·2^k - 1, as far as there are."""
    nodes = []
    leaf = 0
    while leaf < leaves:
        covering = [(level, number) for level, number in present if number << level == leaf]
        nodes.append(max(covering, default=(0, leaf)))
        level, number = nodes[-1]
        leaf = (number + 1) << level
    return nodes


def _shape(
    sources: int, targets: int, widths: Sided[int], draws: int, entries: int
) -> tuple[int, int]:
    """Source and target layers of a tile: what fits and reads least."""
    d, e = widths
    best, least = (1, 1), float("inf")
    for height in range(1, sources + 1):
        # Own moments are counted as if every tile held those of all its layers.
        width = min(targets, (entries - height * d * d) // (e * e + (1 + draws) * height * d * e))
        if width < 1:
            break
        tiles = -(-sources // height) * -(-targets // width)
        read = tiles * (height * d + width * e)
        if read < least:
            best, least = (height, width), read
    return best


def _even_runs(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive runs of at most `size`, as even as can be."""
    return even_runs(items, -(-len(items) // size))


def even_runs(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """So many consecutive runs, as even as can be; none is empty if there are as many items."""
    edges = [len(items) * i // count for i in range(count + 1)]
    return [items[a:b] for a, b in itertools.pairwise(edges)]
