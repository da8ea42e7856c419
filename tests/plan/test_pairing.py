"""Mismatched rows are of other groups, all are used alike, any two are as likely a pair."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt_dist.plan.pairing import partner_units, rows_of_other_groups, shuffled

GROUPS = st.lists(st.integers(0, 5), min_size=1, max_size=40)


def drawn(own: list[int], further: list[int], share: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    inner, outer = (np.array(groups, dtype=np.int64) for groups in (own, further))
    return rows_of_other_groups(inner, outer, share, rng)


@settings(deadline=None)
@given(GROUPS, st.lists(st.integers(0, 5), max_size=40), st.floats(0, 1), st.integers(0, 99))
def test_every_row_gets_a_row_of_another_group(
    own: list[int], further: list[int], share: float, seed: int
) -> None:
    groups = np.array([*own, *further])
    if len(set(groups.tolist())) == 1:
        with pytest.raises(ValueError, match="one group"):
            drawn(own, further, share, seed)
        return
    places = drawn(own, further, share, seed)
    assert len(places) == len(own)
    assert (groups[places] != np.array(own)).all()
    assert (places == drawn(own, further, share, seed)).all()


def test_every_row_is_used_once_where_that_can_be() -> None:
    own = [number // 10 for number in range(100)]
    places = drawn(own, [])
    assert sorted(places) == list(range(100))
    assert not np.array_equal(places, drawn(own, [], seed=1))
    two = drawn([0] * 50 + [1] * 50, [])  # the only way there is: each half the other
    assert sorted(two) == list(range(100))


def test_where_one_group_has_most_rows_the_others_are_used_several_times_alike() -> None:
    uses = Counter(drawn([0] * 90 + [1] * 10, []).tolist())
    assert {uses[place] for place in range(90, 100)} == {9}


def test_a_share_is_paired_within_the_block_and_the_rest_outside() -> None:
    places = drawn(list(range(100)), list(range(100, 150)), share=0.25)
    assert (places < 100).sum() == 25
    assert set(Counter(places[places >= 100].tolist()).values()) == {1, 2}  # 75 rows of 50


def test_any_two_rows_are_as_likely_a_pair() -> None:
    """Blocks of two rows in random order, each row a group: all 15 · 2 pairs of six rows."""
    pairs: Counter[tuple[int, int]] = Counter()
    runs = 3000
    for seed in range(runs):
        order = shuffled(range(6), f"run {seed}")
        blocks = [tuple(order[i : i + 2]) for i in (0, 2, 4)]
        partners = partner_units(blocks, {unit: [unit] for unit in order})
        for block, others in zip(blocks, partners, strict=True):
            rows = [*block, *others]
            # A third of two rows within the block, as a number of rows: sometimes none, mostly one.
            rng = np.random.default_rng(seed)
            share = float(rng.random() < 2 / 3) / 2
            places = rows_of_other_groups(np.array(block), np.array(others), share, rng)
            pairs.update(zip(block, (rows[place] for place in places), strict=True))
    assert len(pairs) == 30
    expected = runs * 6 / 30
    assert max(abs(count - expected) for count in pairs.values()) < 0.25 * expected


def test_the_order_of_units_is_random_and_its_own() -> None:
    order = shuffled(range(100), "digest")
    assert sorted(order) == list(range(100))
    assert order != list(range(100))
    assert order != shuffled(range(100), "another digest")
    assert order == shuffled(reversed(range(100)), "digest")
    assert [unit for unit in order if unit != 7] == shuffled(set(range(100)) - {7}, "digest")


def test_partners_are_the_next_block_and_one_unit_more_where_that_is_one_document() -> None:
    blocks = [(4, 2), (0, 1), (3,)]
    alike = {unit: [unit] for unit in range(5)}
    assert partner_units(blocks, alike) == [(0, 1), (3,), (4, 2)]
    assert partner_units([(0, 1)], alike) == [()]
    long = {4: [0], 2: [0], 0: [0], 1: [0], 3: [0, 1]}  # document 1 is in unit 3 alone
    assert partner_units(blocks, long) == [(0, 1, 3), (3,), (4, 2)]
    late = {4: [0, 1], 2: [0], 0: [0], 1: [0], 3: [0]}
    assert partner_units(blocks, late) == [(0, 1), (3, 4), (4, 2)]
    with pytest.raises(ValueError, match="one group"):
        partner_units(blocks, {unit: [0] for unit in range(5)})
