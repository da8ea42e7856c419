"""The machine's limit, from the store: a fit's own task beside bare float64 matrix products.

Two activation stores on the local disk, read once before so that they are warm, hold a grid of
layers. Ours is the task that a fit sends to its workers, one leaf of units: it opens the stores,
reads every chunk and checks its checksum while it works on the rows before, converts, shifts, sorts
by fold, and writes the moments. The limit is that of `gemm`: wide products of blocks of rows that
lie in memory in float64 already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.gemm import bare_products
from benchmarks.harness import Result, alternate, result, versions
from lrt_dist.linear.fit import shuffled
from lrt_dist.plan.tiles import LEAF_ROWS, Tile, plan_tiles
from lrt_dist.sites import LayerPair
from lrt_dist.stages.accumulate import ROWS_PER_PRODUCT, AccumulateTask, accumulate
from lrt_dist.store.activations import ActivationStore

FOLDS = 5
DOCUMENT = 128
"""Rows that stay together in one fold."""


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    side, units, unit_rows, widths = (
        (2, 3, 256, (24, 32)) if quick else (5, LEAF_ROWS // 4096, 4096, (576, 640))
    )
    pairs = [LayerPair(s, t) for s in range(side) for t in range(side)]
    (tile,) = plan_tiles(pairs, widths, FOLDS, 2**40)
    with tempfile.TemporaryDirectory() as folder:
        task = _task(Path(folder), tile, units, unit_rows, widths)

        def ours() -> None:
            accumulate(task).unlink()

        times = alternate(3, {"limit": _products(tile, units * unit_rows, widths), "ours": ours})
    setting = (
        f"{side} × {side} pairs, {units} units of {unit_rows} rows in {FOLDS} folds, "
        f"{widths[0]} → {widths[1]}, bfloat16; {versions('torch', 'zarr')}"
    )
    return [
        result(
            "gemm_store",
            [
                {"seconds": time, "ratio": time["limit"] / time["ours"], "setting": setting}
                for time in times
            ],
            0.85,
            higher_is_better=True,
        )
    ]


def _task(
    folder: Path, tile: Tile, units: int, unit_rows: int, widths: tuple[int, int]
) -> AccumulateTask:
    """Both stores, written, and the task that reads them."""
    generator = torch.Generator().manual_seed(0)
    crcs: dict[int, tuple[dict[str, str], dict[str, str]]] = {u: ({}, {}) for u in range(units)}
    urls = (str(folder / "source.zarr"), str(folder / "target.zarr"))
    for which, (url, layers) in enumerate(zip(urls, tile.layers, strict=True)):
        store = ActivationStore.create(
            url,
            layers=dict.fromkeys(layers, widths[which]),
            rows=units * unit_rows,
            rows_per_unit=unit_rows,
            logical_dtype="bfloat16",
            compress="none",
            fingerprint="benchmark",
        )
        for unit in range(units):
            for layer in layers:
                states = torch.randn(unit_rows, widths[which], generator=generator)
                crcs[unit][which].update(store.write(unit, layer, states))
    folds_path = folder / "folds.npy"
    np.save(folds_path, (np.arange(units * unit_rows) // DOCUMENT % FOLDS).astype(np.int16))
    return AccumulateTask(
        tile=tile,
        units=tuple(range(units)),
        strangers=tuple((unit + units // 2) % units for unit in range(units)),
        corpus="benchmark",
        folds_path=folds_path,
        stores=urls,
        crcs=crcs,
        folds=FOLDS,
        path=folder / "0.safetensors",
    )


def _products(tile: Tile, rows: int, widths: tuple[int, int]) -> Callable[[], None]:
    """The bare products of so many rows, block by block."""
    block = min(rows, ROWS_PER_PRODUCT)
    names = [[f"{side}{layer}" for layer in tile.layers[which]] for which, side in enumerate("xy")]
    made = {
        name: torch.randn(block, width)
        for some, width in zip(names, widths, strict=True)
        for name in some
    }
    made |= {shuffled(y): made[y] for y in names[1]}
    products = bare_products(made, *names)

    def action() -> None:
        for _ in range(rows // block):
            products()

    return action
