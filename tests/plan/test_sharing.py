"""GPUs and nodes shared among chains that run at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.plan.sharing import Party, Room, have_room, processes_of_node, shared_gpus

PARTIES = st.lists(
    st.builds(
        lambda seconds, step, replicas, more: Party(
            seconds, step, step * replicas, step * (replicas + more)
        ),
        st.floats(0.1, 1e6),
        st.integers(1, 8),
        st.integers(1, 3),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=3,
)


@given(PARTIES, st.integers(1, 200))
def test_each_gets_what_it_needs_and_no_more_than_it_can_use(
    parties: list[Party], gpus: int
) -> None:
    given_gpus = shared_gpus(parties, gpus)
    if given_gpus is None:
        assert sum(party.least for party in parties) > gpus
        return
    assert sum(given_gpus) <= gpus
    for party, count in zip(parties, given_gpus, strict=True):
        assert party.least <= count <= party.most
        assert (count - party.least) % party.step == 0


def test_who_would_end_last_gets_more() -> None:
    """Twice as much work on 90 GPUs: 30 and 60, to a replica of two."""
    first, second = Party(100.0, 1, 1, 90), Party(200.0, 2, 2, 90)
    assert shared_gpus([first, second], 90) == [30, 60]
    assert shared_gpus([first, second], 2) is None


@pytest.mark.parametrize(
    ("processes", "nodes", "fits"),
    [
        ([(1, 1)] * 4, [(2, 2), (2, 2)], True),
        ([(1, 1)] * 5, [(2, 2), (2, 2)], False),  # cores
        ([(0.5, 2)] * 3, [(2, 3), (2, 3)], False),  # memory: one on each
        ([(0.5, 1), (0.5, 3)], [(1, 3), (1, 1)], True),  # the larger one first
    ],
)
def test_processes_are_put_whole_on_a_node(
    processes: list[tuple[float, float]], nodes: list[tuple[float, float]], fits: bool
) -> None:
    assert have_room([Room(*p) for p in processes], [Room(*n) for n in nodes]) is fits


@pytest.mark.parametrize(
    ("spread", "processes", "fits"),
    [
        ([1, 1], [1, 1], True),
        ([1, 1], [2], False),  # each has a node of its own, so none is left whole
        ([1, 1, 1], [1], True),  # the third is beside one of them
        ([2, 1], [2], False),
    ],
)
def test_what_is_spread_has_nodes_of_its_own_first(
    spread: list[int], processes: list[int], fits: bool
) -> None:
    """Cores, of two nodes with two each."""
    nodes = [Room(2, 1)] * 2
    rooms = ([Room(cpus, 0) for cpus in cores] for cores in (processes, spread))
    asked, apart = rooms
    assert have_room(asked, nodes, apart) is fits


@pytest.mark.parametrize("nodes", [[16, 16, 64], [64, 16, 16]])
def test_what_is_spread_takes_the_emptiest_node(nodes: list[int]) -> None:
    """As Ray does: so none is left that is as large as it was."""
    rooms, spread = [Room(1, memory) for memory in nodes], [Room(0, 6)] * 2
    assert have_room([Room(1, 58)], rooms, spread)
    assert not have_room([Room(1, 60)], rooms, spread)
    assert have_room([Room(1, 60), *spread], rooms)  # wherever there is room


@pytest.mark.parametrize(
    ("cpus", "each", "tiles", "expected"),
    [
        (1, 1, 9, (1, 0.5)),
        (2, 1, 9, (2, 0.75)),
        (2, 2, 1, (1, 1.0)),
        (8, 8, 100, (1, 7.0)),
        (96, 16, 1, (1, 95.0)),
        (96, 2, 54, (18, 5.0)),
    ],
)
def test_a_nodes_cores_are_for_processes_of_the_quickest_number(
    cpus: float, each: int, tiles: int, expected: tuple[int, float]
) -> None:
    """Beside half a core that others have; all have room, and fewer are tried after."""
    found = processes_of_node(cpus, 0.5, each, tiles)
    assert found[0] == expected
    assert all(count * cores + 0.5 <= cpus for count, cores in found)
    assert found[-1][0] == 1


def test_a_node_without_cores_has_none_to_share() -> None:
    """It holds nothing then."""
    assert processes_of_node(0.0, 0.5, 1, 9) == [(1, 0.0)]
