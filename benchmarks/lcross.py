"""A map fitted on a concept's own texts, between hidden states that have nothing in common.

    python -m benchmarks.lcross

Prints the table of docs/lcross.md: the cosine between the native mean-difference vector and the
one that L-Cross's map returns, and what a fit reports of that very map.
"""

from __future__ import annotations

import math
from statistics import mean, stdev

import numpy as np
import torch

import lrt_dist

WIDTH = 256
DRAWS = 8


def one(n: int, seed: int) -> tuple[float, float, float, float]:
    """Cosine on the map's own texts and on others, held-out R², and that of mismatched rows."""
    rng = np.random.default_rng(seed)
    x, y, other_x, other_y = rng.normal(size=(4, n, WIDTH))
    fit = lrt_dist.fit(x, y, groups=np.arange(n) // 2, method="linear")
    own = cosine(fit.map.map_directions(contrast(x)), contrast(y))
    others = cosine(fit.map.map_directions(contrast(other_x)), contrast(other_y))
    return own, others, fit.metrics.r2, fit.metrics.r2_mismatched


def contrast(states: np.ndarray) -> torch.Tensor:
    """The mean difference; positive and negative texts take turns."""
    return torch.from_numpy(states[::2].mean(0) - states[1::2].mean(0))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two vectors."""
    return float(torch.cosine_similarity(a, b, dim=0))


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    print("| texts | cosine | √(d/n) | cosine on other texts | held-out R² | mismatched rows |")
    print("|---|---|---|---|---|---|")
    for times in (0.25, 0.5, 1, 2, 4, 8, 16):
        n = round(times * WIDTH)
        columns = list(zip(*(one(n, seed) for seed in range(DRAWS)), strict=True))
        own, others, r2, control = (f"{mean(c):.3f} ± {stdev(c):.3f}" for c in columns)
        expected = min(1.0, math.sqrt(WIDTH / n))
        print(f"| {times:g} d | {own} | {expected:.3f} | {others} | {r2} | {control} |")


if __name__ == "__main__":
    main()
