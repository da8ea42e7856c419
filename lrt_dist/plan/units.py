"""Batches and stages: how work is cut."""

from __future__ import annotations

from collections.abc import Sequence

MOST_PADDING = 128
"""Tokens of padding in a batch. Units are small, and their texts differ in length: where batches
are filled up, much of them can be padding. But every batch reads all weights again, which takes as
long as so many tokens: 120 on two cores (SmolLM2-135M, by least squares over 114 batches), 180 on
an H100 by its published bandwidth and arithmetic."""


def cut_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices of sequences in batches whose padded size stays within a budget.

    Sorted by length (ties by index), and a batch ends where it would be padded by more than
    `MOST_PADDING` tokens. A batch of k sequences of at most t tokens costs k·t; a sequence
    longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    batches: list[list[int]] = []
    tokens = 0
    for index in order:
        if batches:
            padded = (len(batches[-1]) + 1) * lengths[index]
            padding = padded - (tokens + lengths[index])
            if padded <= token_budget and padding <= MOST_PADDING:
                batches[-1].append(index)
                tokens += lengths[index]
                continue
        batches.append([index])
        tokens = lengths[index]
    return batches


def split_blocks(weights: Sequence[float], stages: int) -> list[range]:
    """Cut blocks into `stages` consecutive ranges, the heaviest as light as can be.

    Args:
        weights: cost of each block, e.g. bytes.
        stages: how many ranges; at most one for each block.

    Raises:
        ValueError: more stages than blocks, or none.
    """
    if not 1 <= stages <= len(weights):
        raise ValueError(f"{len(weights)} blocks cannot be cut into {stages} stages")
    low, high = max(weights), sum(weights)
    for _ in range(60):  # bisect on the heaviest range; 60 halvings exhaust a double
        middle = (low + high) / 2
        if len(_greedy(weights, middle)) <= stages:
            high = middle
        else:
            low = middle
    ranges = _greedy(weights, high)
    while len(ranges) < stages:  # greedy may need fewer: halve the longest
        longest = max(range(len(ranges)), key=lambda i: len(ranges[i]))
        whole = ranges[longest]
        middle_block = (whole.start + whole.stop) // 2
        ranges[longest : longest + 1] = [
            range(whole.start, middle_block),
            range(middle_block, whole.stop),
        ]
    return ranges


def _greedy(weights: Sequence[float], limit: float) -> list[range]:
    ranges: list[range] = []
    start, load = 0, 0.0
    for index, weight in enumerate(weights):
        if index > start and load + weight > limit:
            ranges.append(range(start, index))
            start, load = index, 0.0
        load += weight
    ranges.append(range(start, len(weights)))
    return ranges
