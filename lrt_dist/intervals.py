"""Intervals of means and of ratios of means over items.

Items that share a question or a template are one cluster: they are drawn together, and only the
number of clusters counts. Which interval is the default was decided by measured coverage:
docs/coverage.md, `python -m benchmarks coverage`.

Inputs may have any real dtype and are computed in float64. The same arguments give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from lrt_dist.resampling import cluster_counts, numbered

# Residuals below this share of the values are rounding, not spread.
_ROUNDING = 1e-12


def mean_interval(
    values: Tensor,
    clusters: Sequence[Hashable] | None = None,
    *,
    further: float = 0.0,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap-t interval of the mean over items (Efron and Tibshirani 1993, section 12.5).

    The mean of a resample, less the mean, in units of that resample's own standard error: quantiles
    of this take the place of Student's. With clusters both means and standard errors are those of
    `Σ sums ÷ Σ sizes` over clusters.

    Args:
        values: `[items]`.
        clusters: a label for each item; equal labels are drawn together. None: each its own.
        further: variance that the mean has beside that of items, in squared units; see
            `lrt_dist.resampling.further_covariance`.
        draws: resamples.
        seed: of the resampling.
        level: of confidence.

    Returns:
        `(low, high)`, in units of the values. Infinite on a side on which so few clusters say
        nothing (two that differ never do), `(nan, nan)` for one cluster or values that are not
        finite.

    Raises:
        ValueError: another shape, no items, labels that do not count one for each item, a negative
            variance, no draws, or a level outside (0, 1).
    """
    sums, sizes = _cluster_sums(torch.stack([values, torch.ones_like(values)]), clusters)
    if further < 0:
        raise ValueError(f"a variance is not negative, got {further}")
    more = torch.tensor([[further, 0.0], [0.0, 0.0]], dtype=torch.float64)
    low, high = cluster_interval(
        sums, sizes, further=_per_cluster(more, sizes), draws=draws, seed=seed, level=level
    )
    return float(low), float(high)


def ratio_interval(
    numerator: Tensor,
    denominator: Tensor,
    clusters: Sequence[Hashable] | None = None,
    *,
    further: Tensor | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of mean numerator ÷ mean denominator: Fieller's, with bootstrapped quantiles.

    See [cluster_interval][lrt_dist.intervals.cluster_interval]. It is the same for both negated,
    and it is one point where the numerator is a fixed share of the denominator.

    Args:
        numerator, denominator: `[items]`, of the same items in the same order.
        clusters: as in `mean_interval`.
        further: `[2, 2]`, the covariance that the two means have beside that of items; see
            `lrt_dist.resampling.further_covariance`.
        draws, seed, level: as in `mean_interval`.

    Returns:
        `(low, high)`. Infinite on a side that the denominator, not distinct enough from zero,
        leaves open; `(nan, nan)` for one cluster, values that are not finite, or a mean
        denominator of zero.

    Raises:
        ValueError: as `mean_interval`, or shapes that differ.
    """
    if numerator.shape != denominator.shape:
        raise ValueError(
            f"numerator {list(numerator.shape)} and denominator {list(denominator.shape)} "
            "must both be [items]"
        )
    both = torch.stack([numerator.double(), denominator.double()])
    sums = _cluster_sums(both, clusters)
    sizes = _cluster_sums(torch.ones(1, both.shape[1]), clusters)[0]
    more = None if further is None else _per_cluster(further, sizes)
    low, high = cluster_interval(
        sums[0], sums[1], further=more, draws=draws, seed=seed, level=level
    )
    return float(low), float(high)


def cluster_interval(
    numerator: Tensor,
    denominator: Tensor,
    *,
    further: Tensor | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Interval of `R = Σ numerator ÷ Σ denominator` over clusters, for many data sets at once.

    All θ for which the studentised mean of `numerator - θ denominator` lies between two quantiles
    (Fieller 1954). The quantiles are not Student's but those of the studentised means of resampled
    residuals `numerator - R denominator` (Hwang 1995, Statistica Sinica 5, 161-171). Unlike a
    quotient, that mean is well behaved where the denominator comes near zero. With denominators
    that are all equal this is the bootstrap-t interval of a mean.

    Args:
        numerator, denominator: `[..., clusters]`, sums over the items of each cluster.
        further: `[2, 2]`, covariance beside that of clusters of the two means over clusters.
        draws, seed, level: as in `mean_interval`.

    Returns:
        `(low, high)`, each float64 `[...]`; infinite and NaN as in `ratio_interval`.

    Raises:
        ValueError: shapes that differ or hold no cluster, no draws, or a level outside (0, 1).
    """
    if numerator.shape != denominator.shape or numerator.ndim == 0 or numerator.shape[-1] == 0:
        raise ValueError(
            f"numerator {list(numerator.shape)} and denominator {list(denominator.shape)} "
            "must both be [..., clusters] with at least one"
        )
    _check(draws, level)
    n, d = numerator.double(), denominator.double()
    sign = d.sum(-1, keepdim=True).sign()
    n, d = n * sign, d * sign  # so that the mean denominator is positive
    clusters = n.shape[-1]
    if clusters == 1:
        nothing = torch.full(n.shape[:-1], math.nan, dtype=torch.float64)
        return nothing, nothing
    n_mean, d_mean = n.mean(-1), d.mean(-1)
    ratio = n_mean / d_mean
    residuals = n - ratio[..., None] * d
    exact = residuals.norm(dim=-1) <= _ROUNDING * n.norm(dim=-1)
    t_low, t_high = _studentised_quantiles(residuals, draws, seed, level)
    # Residuals that are all zero have no quantiles; what varies besides them is taken as normal.
    normal = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64))
    t_low, t_high = torch.where(exact, -normal, t_low), torch.where(exact, normal, t_high)

    n_spread, d_spread = n - n_mean[..., None], d - d_mean[..., None]
    scale = clusters * (clusters - 1)
    more = torch.zeros(2, 2, dtype=torch.float64) if further is None else further.double()
    n_variance = n_spread.square().sum(-1) / scale + more[0, 0]
    covariance = (n_spread * d_spread).sum(-1) / scale + more[0, 1]
    d_variance = d_spread.square().sum(-1) / scale + more[1, 1]

    def solve(t: Tensor, open_end: float) -> Tensor:
        """The θ at which the studentised mean, which falls as θ rises, is t."""
        a = d_mean.square() - t.square() * d_variance
        b = n_mean * d_mean - t.square() * covariance
        c = n_mean.square() - t.square() * n_variance
        root = (b.square() - a * c).clamp(min=0).sqrt()
        theta = (b - t.sign() * root) / a
        return torch.where((a > 0) & t.isfinite(), theta, open_end)

    low, high = solve(t_high, -math.inf), solve(t_low, math.inf)
    if further is None or not bool(more.any()):
        low, high = torch.where(exact, ratio, low), torch.where(exact, ratio, high)
    defined = n_mean.isfinite() & d_mean.isfinite() & (d_mean != 0)
    return torch.where(defined, low, math.nan), torch.where(defined, high, math.nan)


def _studentised_quantiles(
    residuals: Tensor, draws: int, seed: int, level: float
) -> tuple[Tensor, Tensor]:
    """residuals [..., clusters], of mean zero → quantiles [...] of resampled mean ÷ its error."""
    clusters = residuals.shape[-1]
    blocks = []
    for counts in cluster_counts(clusters, draws, seed):
        mean = residuals @ counts.T / clusters
        variance = residuals.square() @ counts.T / clusters - mean.square()
        # One cluster, drawn again and again, has no spread but that of rounding.
        variance = torch.where(variance > _ROUNDING * mean.square(), variance, 0.0)
        blocks.append(mean / (variance / (clusters - 1)).sqrt())
    t = torch.cat(blocks, dim=-1).nan_to_num(0.0, math.inf, -math.inf).sort(dim=-1).values
    rank = max(1, math.floor((draws + 1) * (1 - level) / 2 + 1e-9))
    return t[..., rank - 1], t[..., draws - rank]


def _cluster_sums(values: Tensor, clusters: Sequence[Hashable] | None) -> Tensor:
    """values [k, items] → float64 [k, clusters]."""
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"a bootstrap needs [items] with at least one, got {list(values.shape)}")
    if clusters is None:
        return values.double()
    cluster, count = numbered(clusters, values.shape[1])
    sums = torch.zeros(values.shape[0], count, dtype=torch.float64)
    return sums.index_add_(1, cluster, values.double())


def _per_cluster(covariance: Tensor, sizes: Tensor) -> Tensor:
    """From means over items to means over clusters."""
    if covariance.shape != (2, 2):
        raise ValueError(f"a covariance of two means is [2, 2], got {list(covariance.shape)}")
    return covariance.double() * sizes.double().mean().square()


def _check(draws: int, level: float) -> None:
    if draws < 1:
        raise ValueError(f"a bootstrap needs at least one draw, got {draws}")
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")
