"""Whether work grows in proportion: time at four times the size, over four times the time.

`rows_linear`: rows into the moments of a grid of pairs. `pairs_linear`: a grid from rows to fits,
1 × 1, 2 × 2 and 4 × 4, against the cost of a pair alone; decompositions are shared within a row of
the grid, so this should be below 1. The middle size is in the record, to tell a bend from a slip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from benchmarks.data import layers, mismatched_rows, moments_of, names
from benchmarks.harness import Result, alternate, result, versions
from lrt_dist.linear.fit import SourceFit, mismatched, wanted_moments
from lrt_dist.linear.moments import Accumulator

NAMES = ("rows_linear", "pairs_linear")
FOLDS = 5


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    measures = {"rows_linear": _rows, "pairs_linear": _pairs}
    return [measures[name](quick) for name in wanted]


def _rows(quick: bool) -> Result:
    unit, widths, side = (64, (24, 32), 2) if quick else (512, (576, 640), 2)
    least = 4 * unit
    variables, pairs = _grid(4 * least, widths, side)

    def accumulate(rows: int) -> None:
        accumulator = Accumulator(wanted_moments(pairs))
        for start in range(0, rows, unit):
            part = {name: states[start : start + unit] for name, states in variables.items()}
            accumulator.add(part, f"rows {start} …")
        accumulator.freeze()

    setting = f"{side} × {side} pairs, {widths[0]} → {widths[1]}, {least} rows and 2, 4 times them"
    return _growth(NAMES[0], {n: partial(accumulate, n * least) for n in (1, 2, 4)}, setting)


def _pairs(quick: bool) -> Result:
    rows, widths = (400, (24, 32)) if quick else (3000, (256, 320))
    grids = {side * side: _grid(rows, widths, side) for side in (1, 2, 4)}

    def fit(count: int) -> None:
        variables, pairs = grids[count]
        pieces = zip(*(states.chunk(FOLDS) for states in variables.values()), strict=True)
        folds = [
            moments_of(dict(zip(variables, piece, strict=True)), wanted_moments(pairs), f"{i}")
            for i, piece in enumerate(pieces)
        ]
        for x in dict.fromkeys(x for x, _ in pairs):
            source = SourceFit(folds, x)
            for y in dict.fromkeys(y for _, y in pairs):
                source.fit(folds, y)

    setting = f"1, 4 and 16 pairs, {widths[0]} → {widths[1]}, {rows} rows in {FOLDS} folds"
    return _growth(NAMES[1], {n: partial(fit, n) for n in grids}, setting)


def _grid(
    rows: int, widths: tuple[int, int], side: int
) -> tuple[dict[str, torch.Tensor], list[tuple[str, str]]]:
    x_names, y_names = names("x", side), names("y", side)
    variables = layers(rows, dict.fromkeys(x_names, widths[0]) | dict.fromkeys(y_names, widths[1]))
    variables |= {mismatched(y): mismatched_rows(variables[y]) for y in y_names}
    return variables, [(x, y) for x in x_names for y in y_names]


def _growth(name: str, actions: Mapping[int, Callable[[], None]], setting: str) -> Result:
    """`actions`: by size, the least first."""
    least, *_, most = actions
    runs = []
    for times in alternate(3, {str(size): action for size, action in actions.items()}):
        alone = times[str(least)] / least
        shares = {size: time / (int(size) * alone) for size, time in times.items()}
        runs.append(
            {
                "seconds": times,
                "ratio": shares[str(most)],
                "ratios": shares,
                "setting": f"{setting}; {versions('torch')}",
            }
        )
    return result(name, runs, 1.15, higher_is_better=False)
