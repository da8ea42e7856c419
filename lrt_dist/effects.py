"""Statistics of steering effects: correlations, distances, angles.

Inputs may have any real dtype and are computed in float64. Scalars come back as Python floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of all entries: `Σ(a-ā)(b-b̄) / √(Σ(a-ā)² Σ(b-b̄)²)`.

    NaN where either is constant or has fewer than two entries.

    Args:
        a, b: of one shape; all entries are pooled.

    Raises:
        ValueError: the shapes differ.
    """
    a_N, b_N = _paired(a, b)
    if a_N.numel() < 2:
        return math.nan
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    norms = a_N.norm() * b_N.norm()
    # A tiny remainder of the centring is not a correlation: exact zero is too strict a test.
    if norms <= torch.finfo(torch.float64).eps * (a.double().norm() * b.double().norm()):
        return math.nan
    return min(1.0, max(-1.0, float(a_N @ b_N / norms)))


def mean_squared_error(a: Tensor, b: Tensor) -> float:
    """`mean((a - b)²)` over all entries.

    Raises:
        ValueError: the shapes differ, or there are no entries.
    """
    a_N, b_N = _paired(a, b)
    if a_N.numel() == 0:
        raise ValueError("the mean squared error of no entries is not defined")
    return float((a_N - b_N).square().mean())


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two vectors `[d]`: `a·b / (‖a‖ ‖b‖)`; NaN where either is zero.

    Raises:
        ValueError: the shapes differ.
    """
    a_N, b_N = _paired(a, b)
    norms = a_N.norm() * b_N.norm()
    if norms == 0:
        return math.nan
    return min(1.0, max(-1.0, float(a_N @ b_N / norms)))


def slope(x: Tensor, y: Tensor) -> float:
    """Slope of y over x by least squares through zero, `x·y / x·x`; NaN where x is zero.

    Raises:
        ValueError: the shapes differ.
    """
    x_N, y_N = _paired(x, y)
    square = float(x_N @ x_N)
    return float(x_N @ y_N) / square if square else math.nan


def ratio(numerator: float, denominator: float) -> float:
    """Of two mean effects, such as retention; NaN where the second is zero."""
    return numerator / denominator if denominator else math.nan


@dataclass(frozen=True)
class Agreement:
    """How measured values compare with predicted ones.

    Attributes:
        r: Pearson correlation.
        slope: of measured over predicted values, through zero.
    """

    r: float
    slope: float

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
        """Of one value after the other; both NaN where nothing was predicted."""
        x, y = (torch.tensor(values, dtype=torch.float64) for values in (predicted, measured))
        return cls(pearson(x, y), slope(x, y))


def _paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {list(a.shape)} and {list(b.shape)}")
    return a.double().reshape(-1), b.double().reshape(-1)
