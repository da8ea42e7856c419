"""p-values from draws of a null, and their correction for having asked more than once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def empirical_p(value: float, null: Tensor) -> float:
    """One-sided p-value where large values count: `(1 + #{null ≥ value}) / (1 + draws)`.

    Never zero (Phipson and Smyth 2010, Statistical Applications in Genetics and Molecular Biology
    9, 39): the value itself is one draw of the null. What is not a number counts against the
    claim: a draw that is NaN is as large as any value, and a value that is NaN has p = 1.

    Args:
        value: the statistic.
        null: `[draws]`, the same statistic under the null. Where a value was chosen among many,
            each draw is the largest of equally many.

    Raises:
        ValueError: another shape, or no draws.
    """
    if null.ndim != 1 or null.numel() == 0:
        raise ValueError(f"a p-value needs [draws] with at least one, got {list(null.shape)}")
    smaller = int((null.double() < torch.tensor(value, dtype=torch.float64)).sum())
    return (1 + null.numel() - smaller) / (1 + null.numel())


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).

    Rejecting those at or below a level makes any false rejection at most as likely as the level,
    however the p-values depend on each other. The i-th smallest of m, counted from 0, is
    multiplied by m - i, made no less than the one before, and no more than 1.

    Args:
        p: raw p-values, in any order.

    Returns:
        The adjusted ones, in the same order.

    Raises:
        ValueError: one that is not between 0 and 1; NaN is not.
    """
    wrong = [each for each in p if not 0 <= each <= 1]
    if wrong:
        raise ValueError(f"a p-value lies between 0 and 1, got {wrong[0]}")
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted
