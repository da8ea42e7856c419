"""Tiles dealt out to processes, and processes to nodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.plan.spreading import spread_tiles
from lrt_dist.plan.tiles import Tile, layers_of, numbers_held, plan_tiles
from lrt_dist.sites import LayerPair, Sided


def grid(sources: int, targets: int) -> list[Tile]:
    """One tile a pair."""
    pairs = [LayerPair(source, target) for source in range(sources) for target in range(targets)]
    return plan_tiles(pairs, Sided(2, 3), 5, budget=1)


@given(st.data(), st.integers(1, 7), st.integers(1, 7), st.integers(1, 9))
def test_every_tile_is_in_one_process_and_none_has_more_than_its_share(
    data: st.DataObject, sources: int, targets: int, nodes: int
) -> None:
    tiles = data.draw(st.lists(st.sampled_from(grid(sources, targets)), min_size=1, unique=True))
    processes = data.draw(st.integers(1, len(tiles)))
    spread = spread_tiles(tiles, processes, nodes, Sided(2, 3))
    assert len(spread) == min(nodes, processes)
    groups = [group for of_node in spread for group in of_node]
    assert len(groups) == processes
    assert all(1 <= len(group) <= -(-len(tiles) // processes) for group in groups)
    assert sorted(tile.pairs for group in groups for tile in group) == sorted(
        tile.pairs for tile in tiles
    )
    counts = [len(of_node) for of_node in spread]
    assert max(counts) - min(counts) <= 1


def test_a_node_wants_a_block_of_the_grid() -> None:
    """Of four nodes each wants half of both models' layers; its processes a quarter."""
    spread = spread_tiles(grid(4, 4), 8, 4, Sided(10, 10))
    for of_node in spread:
        assert [len(n) for n in layers_of(tile for group in of_node for tile in group)] == [2, 2]
        assert sorted(sum(map(len, layers_of(group))) for group in of_node) == [3, 3]


def test_layers_that_are_wide_go_to_fewer_nodes() -> None:
    """Parted by target layers alone, if these are four times as wide."""
    spread = spread_tiles(grid(4, 4), 4, 4, Sided(10, 40))
    for (group,) in spread:
        assert [len(n) for n in layers_of(group)] == [4, 1]


def test_the_nodes_of_a_large_grid_want_a_third_of_it() -> None:
    """Ten layers of 8B's width and ten of 70B's, moments in 51 processes on ten nodes; the best is
    five of the narrow ones and two of the wide ones, 0.3."""
    tiles, widths = grid(10, 10), Sided(4096, 8192)
    spread = spread_tiles(tiles, 51, 10, widths)
    everything = sum(numbers_held(tiles, widths))
    wanted = [
        sum(numbers_held([tile for group in of_node for tile in group], widths)) / everything
        for of_node in spread
    ]
    assert max(wanted) <= 0.4
    assert sum(wanted) / len(wanted) <= 0.36


def test_moments_for_joint_maps_are_dealt_out_too() -> None:
    pairs = [LayerPair(source, 0) for source in range(4)]
    tiles = plan_tiles(pairs, Sided(2, 3), 5, budget=1, joint=[[0, 1], [2, 3]])
    groups = [group for (group,) in spread_tiles(tiles, 3, 3, Sided(2, 3))]
    assert sorted(map(len, groups)) == [2, 2, 2]
    assert {tile for group in groups for tile in group} == set(tiles)
