"""The machine's limit: accumulation beside the bare float64 matrix products it consists of.

A block of rows, sorted by fold, goes into a grid of pairs with its control, as a fit takes it in.
The limit is `torch.mm` of whole blocks into buffers that are there already, all sources side by
side with all targets and mismatched rows in one wide product: no conversion, no shift, no check for
what is not finite, no folds. The share is the limit's time over ours, from float64 rows and from
bfloat16 rows, which is what stores hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.data import layers, mismatched_rows, names
from benchmarks.harness import Result, alternate, result, versions
from lrt_dist.linear.fit import mismatched, wanted_moments
from lrt_dist.linear.moments import Accumulator
from lrt_dist.tasks.accumulate import ROWS_PER_PRODUCT

NAMES = ("gemm_float64", "gemm_bfloat16")
DTYPES = {"gemm_float64": torch.float64, "gemm_bfloat16": torch.bfloat16}
FOLDS = 5


class Folds:
    """Accumulators of every fold, and the block that is fed to them."""

    def __init__(self, block: dict[str, torch.Tensor], pairs: list[tuple[str, str]]) -> None:
        self._block = block
        self._folds = Accumulator.for_folds(wanted_moments(pairs), FOLDS)
        self._added = 0

    def add(self) -> None:
        pieces = zip(*(states.chunk(FOLDS) for states in self._block.values()), strict=True)
        for accumulator, piece in zip(self._folds, pieces, strict=True):
            accumulator.add(dict(zip(self._block, piece, strict=True)), f"block {self._added}")
        self._added += 1


def bare_products(
    rows: dict[str, torch.Tensor], x_names: list[str], y_names: list[str]
) -> Callable[[], None]:
    """The products of a full grid and its control, float64, as few and as wide as can be."""
    left = torch.cat([rows[x] for x in x_names], 1).double()
    right = torch.cat([rows[name] for y in y_names for name in (y, mismatched(y))], 1).double()
    factors = [(left, right), *((rows[name].double(),) * 2 for name in (*x_names, *y_names))]
    work = [(a.T, b, torch.empty(a.shape[1], b.shape[1], dtype=torch.float64)) for a, b in factors]

    def action() -> None:
        for a, b, product in work:
            torch.mm(a, b, out=product)

    return action


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    side, rows, d_x, d_y = (2, 640, 24, 32) if quick else (5, FOLDS * ROWS_PER_PRODUCT, 576, 640)
    x_names, y_names = names("x", side), names("y", side)
    block = layers(rows, dict.fromkeys(x_names, d_x) | dict.fromkeys(y_names, d_y))
    block |= {mismatched(y): mismatched_rows(block[y]) for y in y_names}
    pairs = [(x, y) for x in x_names for y in y_names]
    limit = bare_products(block, x_names, y_names)

    ours = {
        name: Folds({key: states.to(DTYPES[name]) for key, states in block.items()}, pairs).add
        for name in wanted
    }
    times = alternate(5, {"limit": limit, **ours})
    setting = (
        f"{side} × {side} pairs, blocks of {rows} rows in {FOLDS} folds, {d_x} → {d_y}; "
        f"{versions('torch')}"
    )
    return [
        result(
            name,
            [
                {
                    "seconds": {"ours": time[name], "limit": time["limit"]},
                    "ratio": time["limit"] / time[name],
                    "setting": setting,
                }
                for time in times
            ],
            0.85,
            higher_is_better=True,
        )
        for name in wanted
    ]
