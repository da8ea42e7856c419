"""What a longer ridge path costs: a fit with 100 λ over one with 10, from the same moments.

Whoever solves anew for each λ pays ten times as much. Here a λ costs d² once the decomposition is
there, so the two should take the same time. Both fit the same pair, control and metrics included.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.data import layers, mismatched_rows, moments_of
from benchmarks.harness import Result, alternate, result, versions
from lrt_dist.linear.fit import SourceFit, mismatched, wanted_moments

NAMES = ("path_of_100",)
FOLDS = 5


def measure(_wanted: Sequence[str], *, quick: bool) -> list[Result]:
    rows, widths = (400, {"x": 24, "y": 32}) if quick else (4000, {"x": 576, "y": 640})
    variables = layers(rows, widths)
    variables[mismatched("y")] = mismatched_rows(variables["y"])
    pieces = zip(*(rows.chunk(FOLDS) for rows in variables.values()), strict=True)
    folds = [
        moments_of(dict(zip(variables, piece, strict=True)), wanted_moments([("x", "y")]), f"{i}")
        for i, piece in enumerate(pieces)
    ]

    def fit(count: int) -> None:
        ratios = torch.logspace(-4, 6, count, dtype=torch.float64)
        SourceFit(folds, "x", ratios=ratios).fit(folds, "y")

    times = alternate(5, {"λ=100": lambda: fit(100), "λ=10": lambda: fit(10)})
    setting = f"one pair, {widths['x']} → {widths['y']}, {FOLDS} folds; {versions('torch')}"
    runs = [
        {"seconds": time, "ratio": time["λ=100"] / time["λ=10"], "setting": setting}
        for time in times
    ]
    return [result(NAMES[0], runs, 1.2, higher_is_better=False)]
