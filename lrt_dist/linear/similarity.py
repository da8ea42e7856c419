"""How alike two representations are, whatever map lies between them: linear CKA.

Kornblith et al., "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414),
eq. 3: `‖S_xy‖² / (‖S_xx‖ ‖S_yy‖)`. It grows with d/n even for unrelated data, since the squared
norm of an estimated covariance is biased upwards. The product of *two* estimates from different
rows is not. So between folds of documents numerator and denominator are unbiased, also where rows
of one document are not independent, which the row-wise correction of Song et al. (2012), used by
Nguyen et al. (arXiv 2010.15327), supposes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lrt_dist.linear.moments import Moments, Pair


def cka(moments: Moments, x: str, y: str) -> float:
    """Linear CKA, 0 … 1; 0 where either is constant."""
    norms = moments.second[x, x].norm() * moments.second[y, y].norm()
    return float(moments.second[x, y].square().sum() / norms) if norms else 0.0


def cka_between_folds(folds: Sequence[Moments], x: str, y: str, spread_x: float) -> float:
    """Unbiased linear CKA from at least two folds; NaN where a denominator is not positive.

    Args:
        spread_x: `between_folds` of (x, x), which many y share.
    """
    spread_y = between_folds(folds, (y, y))
    if not (spread_x > 0 and spread_y > 0):
        return math.nan
    return between_folds(folds, (x, y)) / math.sqrt(spread_x * spread_y)


def between_folds(folds: Sequence[Moments], pair: Pair) -> float:
    """`Σ_{k≠l} ⟨C_k, C_l⟩` of the folds' covariances: `‖ΣC‖² - Σ‖C_k‖²`; NaN for fewer than two."""
    several = [fold for fold in folds if fold.n > 1]
    if len(several) < 2:
        return math.nan
    total = torch.zeros_like(several[0].second[pair])
    own = 0.0
    for fold in several:
        total.add_(fold.second[pair], alpha=1 / (fold.n - 1))
        own += float(fold.second[pair].norm() / (fold.n - 1)) ** 2
    return float(total.norm()) ** 2 - own
