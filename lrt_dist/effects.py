"""Statistics of steering effects: how much of a native vector's effect survives the map.

Everything here is computed from *changes* of a score against the unsteered model. Uncorrected
scores share their baseline, so they correlate whatever the vector does.

Inputs may have any real dtype and are computed in float64. Scalars come back as Python floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt_dist.intervals import mean_interval as mean_interval
from lrt_dist.intervals import ratio_interval


@dataclass(frozen=True)
class Retention:
    """Transferred ÷ native mean change, with an interval over items.

    All three numbers are NaN where the ratio has no meaning; `reason` then says why.
    """

    value: float
    low: float
    high: float
    reason: str | None = None

    @property
    def defined(self) -> bool:
        return self.reason is None

    @classmethod
    def undefined(cls, reason: str) -> Retention:
        return cls(math.nan, math.nan, math.nan, reason)


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


def steerability(strengths: Tensor, changes: Tensor) -> float:
    """Slope of the mean change over strength, by least squares with an intercept.

    `Σ(s-s̄)(c-c̄) / Σ(s-s̄)²` with c the mean change over items at each strength, in units of the
    score per unit of strength.

    Args:
        strengths: `[s]`.
        changes: `[s, items]`.

    Raises:
        ValueError: other shapes, no items, or fewer than two distinct strengths.
    """
    if strengths.ndim != 1 or changes.ndim != 2 or changes.shape[0] != strengths.shape[0]:
        raise ValueError(
            f"strengths {list(strengths.shape)} and changes {list(changes.shape)} "
            "must be [s] and [s, items]"
        )
    if changes.shape[1] == 0:
        raise ValueError("steerability needs at least one item")
    distinct = sorted(set(strengths.tolist()))
    if len(distinct) < 2:
        raise ValueError(f"a slope needs two distinct strengths, got {distinct}")
    s = strengths.double()
    s = s - s.mean()
    mean_change = changes.double().mean(dim=1)
    return float(s @ (mean_change - mean_change.mean()) / (s @ s))


def retention(
    native_change: Tensor,
    transferred_change: Tensor,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Retention:
    """Share of the native effect that the transferred vector keeps: mean transferred ÷ mean native.

    The interval is that of [ratio_interval][lrt_dist.intervals.ratio_interval], in which what an
    item does to both arms cancels. Where the native mean's own interval includes zero, no effect
    can be kept and the ratio is undefined: NaN, with a reason. The same holds for a single item
    (no interval), for an interval without an end, and for values that are not finite.

    Args:
        native_change: `[items]`.
        transferred_change: `[items]`, of the same items in the same order.
        draws: resamples.
        seed: of the resampling.
        level: share of the draws inside the interval.

    Raises:
        ValueError: the shapes are not one `[items]`, there are no items, no draws, or the level
            lies outside (0, 1).
    """
    if native_change.ndim != 1 or native_change.shape != transferred_change.shape:
        raise ValueError(
            f"native {list(native_change.shape)} and transferred {list(transferred_change.shape)} "
            "changes must both be [items]"
        )
    low, high = mean_interval(native_change, draws=draws, seed=seed, level=level)
    if not bool((native_change.isfinite() & transferred_change.isfinite()).all()):
        return Retention.undefined("some changes are not finite")
    if len(native_change) < 2:
        return Retention.undefined("a single item gives no interval")
    native = float(native_change.double().mean())
    if low <= 0 <= high:
        return Retention.undefined(
            f"the native effect is not distinct from zero (mean {native:+.3g}, "
            f"{level:.0%} interval {low:+.3g} to {high:+.3g})"
        )
    low, high = ratio_interval(
        transferred_change, native_change, draws=draws, seed=seed, level=level
    )
    if not (math.isfinite(low) and math.isfinite(high)):
        return Retention.undefined(
            f"the native effect (mean {native:+.3g}) is too uncertain for a ratio to it: its "
            f"{level:.0%} interval has no end"
        )
    return Retention(float(transferred_change.double().mean()) / native, low, high)


def _paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {list(a.shape)} and {list(b.shape)}")
    return a.double().reshape(-1), b.double().reshape(-1)
