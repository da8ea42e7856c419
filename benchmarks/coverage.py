"""How often intervals hold the truth: five kinds, on simulated items of which it is known.

Every cell is 2,000 data sets of 12 to 200 items, each with 1,000 resamples, at a nominal 95 %.
`lrt_dist.intervals` has what covers best; the others are here to be compared with it. The figure
is the lowest coverage of ours at 50 items. docs/coverage.md shows all cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from benchmarks.harness import Result, versions
from lrt_dist.intervals import cluster_interval
from lrt_dist.resampling import cluster_counts

OURS = "ours"
KINDS = ("percentile", "BCa", "bootstrap-t", "Student or Fieller", OURS)
ITEMS = (12, 25, 50, 200)
SETS, DRAWS, BLOCK = 2000, 1000, 500
LEVEL = 0.95
RATIO = 0.7

Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Numerators and denominators `[sets, clusters]` of which the ratio of means is known.

    Attributes:
        name: in the table.
        truth: the ratio.
        sigma: of the logarithm, for skewed values; 0 for normal ones.
        mean: of an item's denominator, in its standard deviations; None for the mean of values.
        pair: how many items share a template, whose effect is half of their variance.
    """

    name: str
    truth: float
    sigma: float = 0.0
    mean: float | None = None
    pair: int = 1

    def draw(self, sets: int, items: int, generator: torch.Generator) -> Interval:
        """Sums over clusters, float64 `[sets, clusters]` each."""

        def standard(columns: int) -> Tensor:
            z = torch.randn(sets, columns, generator=generator, dtype=torch.float64)
            if self.sigma == 0:
                return z
            square = self.sigma**2
            return ((z * self.sigma).exp() - math.exp(square / 2)) / math.sqrt(
                math.expm1(square) * math.exp(square)
            )

        def noise() -> Tensor:
            if self.pair == 1:
                return standard(items)
            shared = standard(-(-items // self.pair)).repeat_interleave(self.pair, 1)
            return (shared[:, :items] + standard(items)) / math.sqrt(2)

        if self.mean is None:
            values = 1 + noise()
            return self._sums(values), self._sums(torch.ones_like(values))
        first = noise()
        second = 0.8 * first + 0.6 * noise()
        return self._sums(RATIO * self.mean + second), self._sums(self.mean + first)

    def _sums(self, values: Tensor) -> Tensor:
        missing = -values.shape[1] % self.pair
        padded = torch.nn.functional.pad(values, (0, missing))
        return padded.reshape(len(values), -1, self.pair).sum(-1)


DATA = (
    Data("mean, normal", 1.0),
    Data("mean, skewness 1.8", 1.0, sigma=0.5),
    Data("mean, skewness 6.2", 1.0, sigma=1.0),
    Data("mean, normal, pairs share a template", 1.0, pair=2),
    Data("ratio, mean/sd 2, normal", RATIO, mean=2.0),
    Data("ratio, mean/sd 1, normal", RATIO, mean=1.0),
    Data("ratio, mean/sd 2, skewness 3.7", RATIO, sigma=0.8, mean=2.0),
    Data("ratio, mean/sd 1, skewness 3.7", RATIO, sigma=0.8, mean=1.0),
    Data("ratio, mean/sd 2, pairs share a template", RATIO, mean=2.0, pair=2),
    Data("ratio, mean/sd 1, pairs share a template", RATIO, mean=1.0, pair=2),
)


def intervals(n: Tensor, d: Tensor, draws: int, seed: int) -> dict[str, Interval]:
    """Every kind of interval of `Σ n ÷ Σ d`, both `[sets, clusters]`."""
    (counts,) = cluster_counts(n.shape[1], draws, seed)
    ratio = n.sum(1) / d.sum(1)
    ratios = (n @ counts.T) / (d @ counts.T)
    errors = _error(n * n @ counts.T, n * d @ counts.T, d * d @ counts.T, ratios, d @ counts.T)
    clusters = n.shape[1]
    own = _error((n * n).sum(1), (n * d).sum(1), (d * d).sum(1), ratio, d.sum(1))
    own, errors = (e * math.sqrt(clusters / (clusters - 1)) for e in (own, errors))
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    t_low, t_high = torch.quantile((ratios - ratio[:, None]) / errors, tails, dim=1)
    low, high = torch.quantile(ratios, tails, dim=1)
    return {
        "percentile": (low, high),
        "BCa": _bca(ratio, ratios, n, d),
        "bootstrap-t": (ratio - t_high * own, ratio - t_low * own),
        "Student or Fieller": _fieller(n, d),
        OURS: cluster_interval(n, d, draws=draws, seed=seed, level=LEVEL),
    }


def _error(nn: Tensor, nd: Tensor, dd: Tensor, ratio: Tensor, d_sum: Tensor) -> Tensor:
    """Standard error of a ratio by the delta method, from sums of squares and products."""
    return (nn - 2 * ratio * nd + ratio**2 * dd).clamp(min=0).sqrt() / d_sum.abs()


def _bca(ratio: Tensor, ratios: Tensor, n: Tensor, d: Tensor) -> Interval:
    """Bias-corrected and accelerated (Efron 1987, Journal of the American Statistical Association
    82, 171-185)."""
    left_out = (n.sum(1, keepdim=True) - n) / (d.sum(1, keepdim=True) - d)
    deviations = left_out.mean(1, keepdim=True) - left_out
    a = deviations.pow(3).sum(1) / (6 * deviations.square().sum(1) ** 1.5)
    draws = ratios.shape[1]
    below = (ratios < ratio[:, None]).sum(1) + 0.5 * (ratios == ratio[:, None]).sum(1)
    bias = torch.special.ndtri((below / draws).double().clamp(0.5 / draws, 1 - 0.5 / draws))
    ends = []
    ordered = ratios.sort(1).values
    for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = bias + stats.norm.ppf(tail)
        place = torch.special.ndtr(bias + z / (1 - a * z)) * (draws - 1)
        under = place.floor().long()
        lower, upper = (
            ordered.gather(1, at[:, None])[:, 0] for at in (under, (under + 1).clamp(max=draws - 1))
        )
        ends.append(lower + (upper - lower) * (place - under))
    return ends[0], ends[1]


def _fieller(n: Tensor, d: Tensor) -> Interval:
    """With Student's quantiles; of a mean, Student's interval."""
    clusters = n.shape[1]
    t = stats.t.ppf((1 + LEVEL) / 2, clusters - 1) / math.sqrt(clusters * (clusters - 1))
    n_mean, d_mean = n.mean(1), d.mean(1)
    n_spread, d_spread = n - n_mean[:, None], d - d_mean[:, None]
    a = d_mean**2 - t**2 * d_spread.square().sum(1)
    b = n_mean * d_mean - t**2 * (n_spread * d_spread).sum(1)
    c = n_mean**2 - t**2 * n_spread.square().sum(1)
    root = (b**2 - a * c).clamp(min=0).sqrt()
    infinite = torch.full_like(a, math.inf)
    return torch.where(a > 0, (b - root) / a, -infinite), torch.where(
        a > 0, (b + root) / a, infinite
    )


def cell(data: Data, items: int, *, sets: int, draws: int) -> dict[str, object]:
    """Coverage and width of every kind, each draw of a block of data sets with its own seed."""
    inside: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    widths: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    generator = torch.Generator().manual_seed(1000 * DATA.index(data) + items)
    for seed in range(-(-sets // BLOCK)):
        n, d = data.draw(min(BLOCK, sets), items, generator)
        for kind, (low, high) in intervals(n, d, draws, seed).items():
            inside[kind].append((low <= data.truth) & (data.truth <= high))
            widths[kind].append(high - low)
    coverage = {kind: float(torch.cat(held).double().mean()) for kind, held in inside.items()}
    median = {kind: float(torch.cat(width).median()) for kind, width in widths.items()}
    unbounded = float(torch.cat(widths[OURS]).isinf().double().mean())
    relative = {k: w / median["percentile"] for k, w in median.items() if math.isfinite(w)}
    return {
        "data": data.name,
        "items": items,
        "ratio": coverage[OURS],
        "coverage": coverage,
        "width": relative,
        "unbounded": unbounded,
        "setting": f"{sets} data sets, {draws} resamples; {versions('torch')}",
    }


def measure(_wanted: Sequence[str], *, quick: bool) -> list[Result]:
    sets, draws = (100, 100) if quick else (SETS, DRAWS)
    runs = [cell(data, items, sets=sets, draws=draws) for data in DATA for items in ITEMS]
    worst = min(float(str(run["ratio"])) for run in runs if run["items"] == 50)
    return [Result("coverage", worst, 0.92, True, runs)]
