"""Which target rows are mismatched with which source rows: rows of other documents, at random.

All units are put into random order and cut into blocks. The source rows of a block get target rows
of that block and of the next one; with B blocks in all, one row in B stays in its own block. So any
two rows are paired with the same probability, while two blocks at a time are enough; then pairs
within one group (a document and its near duplicates) are exchanged for others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lrt_dist.sites import seed_of

ROUNDS = 50
"""Each round of exchanges ends at least half of the pairs within a group, where that can be."""

Numbers = NDArray[np.int64]


def shuffled(units: Iterable[int], seed: str) -> list[int]:
    """Units in an order that is random, but the same for the same seed.

    A unit that is missing does not change the order of the others.
    """
    return sorted(units, key=lambda unit: (seed_of(f"{seed}/{unit}", bits=64), unit))


def partner_units(
    blocks: Sequence[tuple[int, ...]], groups: Mapping[int, Collection[int]]
) -> list[tuple[int, ...]]:
    """For every block the further units whose target rows its source rows are paired with.

    They are the units of the next block, around the end; and one unit more where all of these have
    rows of one group alone.

    Args:
        blocks: of a whole run, in their order.
        groups: of the rows of each unit.

    Raises:
        ValueError: all rows are of one group.
    """
    order = [unit for block in blocks for unit in block]
    partners = []
    begin = 0
    for number, block in enumerate(blocks):
        begin += len(block)
        following = blocks[(number + 1) % len(blocks)] if len(blocks) > 1 else ()
        present = {group for unit in (*block, *following) for group in groups[unit]}
        if len(present) == 1:
            later = [*order[begin:], *order[:begin]]
            other = next((unit for unit in later if set(groups[unit]) - present), None)
            if other is None:
                raise ValueError("all rows are of one group")
            following = (*following, other)
        partners.append(following)
    return partners


def rows_of_other_groups(
    own: Numbers, further: Numbers, own_share: float, rng: np.random.Generator
) -> Numbers:
    """A random target row for each source row of a block, of another group than its own.

    Each target row is used about as often as any other. Where that cannot be, since one group has
    most of the rows, the rows of other groups are used several times.

    Args:
        own: group of each row of the block, `[n]`.
        further: group of each further target row, `[m]`.
        own_share: share of the rows that are paired within the block; all if nothing is further.

    Returns:
        Places in `own` and `further` one after the other, `[n]`.

    Raises:
        ValueError: all rows are of one group.
    """
    n, m = len(own), len(further)
    within = round(own_share * n) if m else n
    outside = np.resize(rng.permutation(m) + n, n - within)
    places = rng.permutation(np.concatenate([rng.permutation(n)[:within], outside]))
    groups = np.concatenate([own, further])
    for _ in range(ROUNDS):
        clash = groups[places] == own
        bad, good = (rng.permutation(np.flatnonzero(these)) for these in (clash, ~clash))
        if len(bad) == 0:
            return places
        places[bad] = rng.permutation(places[bad])
        a, b = bad[: len(good)], good[: len(bad)]
        helps = (groups[places[a]] != own[b]) & (groups[places[b]] != own[a])
        a, b = a[helps], b[helps]
        places[a], places[b] = places[b], places[a]
    for group in np.unique(own[groups[places] == own]):
        rows = np.flatnonzero((own == group) & (groups[places] == group))
        others = np.flatnonzero(groups != group)
        if len(others) == 0:
            raise ValueError("all rows are of one group")
        places[rows] = np.resize(rng.permutation(others), len(rows))
    return places
