"""Tiles cover a grid once and within their budget; trees go on from whatever is there."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.plan import tiles
from lrt_dist.plan.tiles import (
    FEWEST_LEAVES,
    MANY_TILES,
    MOST_LEAVES,
    Tile,
    plan_blocks,
    plan_leaves,
    plan_tiles,
    rows_read_again,
    standing_nodes,
    units_of_leaf,
)
from lrt_dist.sites import LayerPair, Side, Sided

GRIDS = st.sets(st.builds(LayerPair, st.integers(0, 6), st.integers(0, 6)), min_size=1)


@given(GRIDS, st.integers(1, 9), st.integers(1, 9), st.integers(2, 5), st.integers(1, 20_000))
def test_every_pair_and_every_layers_own_moments_are_in_one_tile(
    grid: set[LayerPair], d: int, e: int, folds: int, budget: int
) -> None:
    widths = Sided(d, e)
    planned = plan_tiles(sorted(grid), widths, folds, budget)
    pairs = [pair for tile in planned for pair in tile.pairs]
    assert sorted(pairs) == sorted(grid)
    layers = Sided({p.source for p in grid}, {p.target for p in grid})
    for side in Side:
        own = [layer for tile in planned for layer in tile.own[side]]
        assert sorted(own) == sorted(layers[side])
    for tile in planned:
        assert tile.bytes(widths, folds) <= budget or len(tile.pairs) == 1


@given(GRIDS, st.integers(1, 9), st.integers(1, 9))
def test_with_room_for_all_there_is_one_tile_and_one_pass(
    grid: set[LayerPair], d: int, e: int
) -> None:
    (tile,) = plan_tiles(sorted(grid), Sided(d, e), 2, 10**9)
    assert tile.layers == Sided(
        tuple(sorted({p.source for p in grid})),
        tuple(sorted({p.target for p in grid})),
    )
    sources, targets = tile.layers
    assert tile.numbers_read(Sided(d, e)) == Sided(len(sources) * d, len(targets) * e)


def test_a_tile_is_as_large_as_its_matrices() -> None:
    pairs = (LayerPair(0, 1), LayerPair(0, 2))
    tile = Tile(pairs, Sided((0,), (2,)), ((0, 5), (3, 5)), draws=3)
    d, e = widths = Sided(3, 4)
    matrices = [(d, d), (e, e), (d, d), (d, d), *[(d, e)] * 8]  # each pair and its draws
    assert tile.entries(widths) == sum(a * b for a, b in matrices)
    assert tile.bytes(widths, 5) == 8 * 5 * tile.entries(widths)
    assert tile.layers == Sided((0, 3, 5), (1, 2))
    assert tile.numbers_multiplied(widths) == 3 * d + 4 * 2 * e


def test_joint_layers_get_tiles_of_their_own() -> None:
    grid = [LayerPair(s, 0) for s in range(4)]
    planned = plan_tiles(grid, Sided(10, 10), 2, 8 * 2 * 100 * 2, joint=[(0, 2), (0, 1, 2)])
    within = [pair for tile in planned for pair in tile.within]
    assert within == [(0, 1), (0, 2), (1, 2)]
    assert all(tile.bytes(Sided(10, 10), 2) <= 8 * 2 * 100 * 4 for tile in planned)


def test_a_larger_budget_reads_less() -> None:
    grid = [LayerPair(s, t) for s, t in itertools.product(range(30), range(18))]
    widths = Sided(576, 640)
    reads = [
        sum(sum(tile.numbers_read(widths)) for tile in plan_tiles(grid, widths, 5, budget))
        for budget in (2**28, 2**29, 2**30, 2**40)
    ]
    assert reads == sorted(reads, reverse=True)
    assert reads[-1] == 30 * 576 + 18 * 640


@given(
    st.integers(1, 200),
    st.integers(1, 5000),
    st.integers(1, 50_000),
    st.integers(1, 100),
    st.integers(0, 1 << 24),
)
def test_leaves_hold_all_units_in_order(
    units: int, rows_per_unit: int, block_rows: int, count: int, worth: int
) -> None:
    size = units_of_leaf(units, rows_per_unit, count, worth)
    blocks = plan_blocks(range(units), rows_per_unit, block_rows)
    leaves = plan_leaves(blocks, units, size)
    many = count >= MANY_TILES
    most = 1 if many else max(FEWEST_LEAVES, MOST_LEAVES // count)
    assert [unit for leaf in leaves for block in leaf for unit in block] == list(range(units))
    long = units if many else min(-(-units // FEWEST_LEAVES), worth // rows_per_unit)
    assert size * rows_per_unit <= tiles.LEAF_ROWS or size in (1, -(-units // most), long)
    assert len(leaves) <= min(most, -(-units // size))
    lengths = [len(leaf) for leaf in leaves]
    assert max(lengths) - min(lengths) <= 1
    sizes = [len(block) for block in blocks]
    assert max(sizes) == 1 or max(sizes) * rows_per_unit <= block_rows
    assert max(sizes) - min(sizes) <= 1
    again = rows_read_again(units * rows_per_unit, size, rows_per_unit, block_rows)
    alone = sum(map(len, leaves)) == 1
    assert again == (0 if alone else sum(len(leaf[0]) for leaf in leaves) * rows_per_unit)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (set(), [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]),
        ({(0, 1), (0, 3)}, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]),
        ({(1, 0), (0, 2)}, [(1, 0), (0, 2), (0, 3), (0, 4)]),
        ({(1, 0), (0, 0), (0, 1)}, [(1, 0), (0, 2), (0, 3), (0, 4)]),
        ({(2, 0), (0, 4)}, [(2, 0), (0, 4)]),
        ({(3, 0)}, [(3, 0)]),
    ],
)
def test_a_tree_goes_on_from_the_highest_nodes_there_are(
    present: set[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    assert standing_nodes(present, 5) == expected
