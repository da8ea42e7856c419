"""How full the batches of units are; how large units and batches should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lrt_dist.plan.units import MOST_PADDING, cut_batches

CHUNK_BYTES = (8 * 2**20, 64 * 2**20)
"""Of one layer's rows of a unit, which are one object of the store: smaller ones cost requests, and
larger ones memory and what a fault loses."""
WORTH = 0.02
"""Share of the time of a forward pass for which it is worth to have larger units or batches."""
BUDGETS = [1 << n for n in range(10, 17)]
"""Tokens of a batch that may be proposed."""


def batch_cost(
    lengths: Sequence[int], sites: Sequence[int], rows_per_unit: int, token_budget: int
) -> float:
    """What batches of units cost, in tokens for each token of the texts: 1 without any loss.

    A batch costs its padded size, and `MOST_PADDING` tokens for the weights that it reads.

    Args:
        lengths: tokens of each segment, in order.
        sites: its sites.
        rows_per_unit: sites of a unit.
        token_budget: tokens of a batch, padding included.

    Raises:
        ValueError: no segments.
    """
    if not lengths:
        raise ValueError("no segments cost nothing")
    cost = tokens = 0
    for unit in _units(lengths, sites, rows_per_unit):
        tokens += sum(unit)
        for batch in cut_batches(unit, token_budget):
            cost += len(batch) * max(unit[i] for i in batch) + MOST_PADDING
    return cost / tokens


def better_rows(
    lengths: Sequence[int],
    sites: Sequence[int],
    rows_per_unit: int,
    token_budget: int,
    row_bytes: int,
    most_rows: int,
) -> int | None:
    """Another number of rows of a unit, where that is worth it; None where it is well.

    The fewest whose chunk is within `CHUNK_BYTES` and whose batches cost no more than `WORTH` above
    those of the largest such unit.

    Args:
        row_bytes: of a row of the wider model's layer, as stored.
        most_rows: with which there are units enough for all replicas.
    """
    least, most = (size // row_bytes for size in CHUNK_BYTES)
    choices = [1 << n for n in range(8, 24) if least <= 1 << n <= min(most, most_rows)]
    if not choices:
        return None

    def cost(rows: int) -> float:
        return batch_cost(lengths, sites, rows, token_budget)

    wanted = cost(choices[-1]) + WORTH
    if least <= rows_per_unit <= most and cost(rows_per_unit) <= wanted:
        return None
    better = next(rows for rows in choices if cost(rows) <= wanted)
    return None if better == rows_per_unit else better


def better_budget(cost: Callable[[int], float | None], token_budget: int) -> int | None:
    """Another number of tokens of a batch, where that is worth it; None where it is well.

    The fewest whose cost is no more than `WORTH` above the least: more need more memory.

    Args:
        cost: of an extraction with so many tokens in a batch, where one that loses nothing costs 1;
            None where the models do not fit.
        token_budget: the present one, which fits.
    """
    costs = {budget: cost(budget) for budget in sorted({*BUDGETS, token_budget})}
    known = {budget: found for budget, found in costs.items() if found is not None}
    wanted = min(known.values()) + WORTH
    if known[token_budget] <= wanted:
        return None
    return next(budget for budget, found in known.items() if found <= wanted)


def _units(lengths: Sequence[int], sites: Sequence[int], rows_per_unit: int) -> Iterator[list[int]]:
    """Lengths of the segments of each unit; a last one that is short is left out, where there are
    others."""
    unit: list[int] = []
    rows = full = 0
    for length, count in zip(lengths, sites, strict=True):
        unit.append(length)
        rows += count
        if rows >= rows_per_unit:
            yield unit
            unit, rows, full = [], 0, full + 1
    if not full:
        yield unit
