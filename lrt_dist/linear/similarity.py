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

from lrt_dist.linear.moments import Moments


def cka(moments: Moments, x: str, y: str) -> float:
    """Linear CKA, 0 … 1; 0 where either is constant."""
    norms = moments.second[x, x].norm() * moments.second[y, y].norm()
    return float(moments.second[x, y].square().sum() / norms) if norms else 0.0


def cka_between_folds(folds: Sequence[Moments], x: str, y: str) -> float:
    """Unbiased linear CKA from at least two folds; NaN where a denominator is not positive."""
    own_x, own_y = (_between(folds, (name, name)) for name in (x, y))
    if own_x <= 0 or own_y <= 0:
        return math.nan
    return _between(folds, (x, y)) / math.sqrt(own_x * own_y)


def _between(folds: Sequence[Moments], pair: tuple[str, str]) -> float:
    """`Σ_{k≠l} ⟨C_k, C_l⟩` of the folds' covariances: `‖ΣC‖² - Σ‖C_k‖²`."""
    covariances = [fold.second[pair] / (fold.n - 1) for fold in folds if fold.n > 1]
    if len(covariances) < 2:
        return math.nan
    total = torch.stack(covariances).sum(0)
    return float(total.square().sum()) - sum(float(c.square().sum()) for c in covariances)
