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
from lrt_dist.linear.fit import mismatched
from lrt_dist.plan.pairing import partner_units
from lrt_dist.plan.tiles import LEAF_ROWS, Tile, plan_blocks, plan_tiles
from lrt_dist.sites import LayerPair, Side, Sided
from lrt_dist.store.activations import ActivationStore
from lrt_dist.tasks import blocks
from lrt_dist.tasks.accumulate import ROWS_PER_PRODUCT, AccumulateTask, accumulate
from lrt_dist.tasks.blocks import Block, Leaf, RowFacts

FOLDS = 5
DOCUMENT = 128
"""Rows that stay together in one fold."""


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    count, units, unit_rows, widths = (
        (2, 3, 256, Sided(24, 32)) if quick else (5, LEAF_ROWS // 4096, 4096, Sided(576, 640))
    )
    pairs = [LayerPair(s, t) for s in range(count) for t in range(count)]
    (tile,) = plan_tiles(pairs, widths, FOLDS, 2**40)
    with tempfile.TemporaryDirectory() as folder:
        task = _task(Path(folder), tile, units, unit_rows, widths)

        def ours() -> None:
            accumulate(task).unlink()

        times = alternate(3, {"limit": _products(tile, units * unit_rows, widths), "ours": ours})
    setting = (
        f"{count} × {count} pairs, {units} units of {unit_rows} rows in {FOLDS} folds, "
        f"{widths.source} → {widths.target}, bfloat16; {versions('torch', 'zarr')}"
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
    folder: Path, tile: Tile, units: int, unit_rows: int, widths: Sided[int]
) -> AccumulateTask:
    """Both stores, written, and the task that reads them."""
    generator = torch.Generator().manual_seed(0)
    checksums: dict[int, Sided[dict[str, str]]] = {u: Sided({}, {}) for u in range(units)}
    urls = Sided.of(lambda side: str(folder / f"{side}.zarr"))
    for side in Side:
        layers = tile.layers[side]
        store = ActivationStore.create(
            urls[side],
            layers=dict.fromkeys(layers, widths[side]),
            rows=units * unit_rows,
            rows_per_unit=unit_rows,
            logical_dtype="bfloat16",
            compress="none",
            fingerprint="benchmark",
        )
        for unit in range(units):
            for layer in layers:
                states = torch.randn(unit_rows, widths[side], generator=generator)
                written = store.write(unit, layer, states)
                checksums[unit][side].update(written.checksums)
    documents = np.arange(units * unit_rows) // DOCUMENT
    np.save(folder / blocks.FOLDS, (documents % FOLDS).astype(np.int16))
    np.save(folder / blocks.GROUPS, documents)
    leaf = plan_blocks(range(units), unit_rows, FOLDS * ROWS_PER_PRODUCT)
    partners = partner_units(leaf, {unit: (unit,) for unit in range(units)})
    return AccumulateTask(
        tile=tile,
        leaf=Leaf(
            blocks=tuple(Block(*both) for both in zip(leaf, partners, strict=True)),
            facts=RowFacts(
                folder=folder,
                rows_per_unit=unit_rows,
                index_digest="benchmark",
                own_share=1 / len(leaf),
                shrink_above=4.0,
                usual_norms=Sided.of(
                    lambda side: dict.fromkeys(tile.layers[side], widths[side] ** 0.5)
                ),
            ),
            stores=urls,
            checksums=checksums,
        ),
        folds=FOLDS,
        path=folder / "0.safetensors",
    )


def _products(tile: Tile, rows: int, widths: Sided[int]) -> Callable[[], None]:
    """The bare products of so many rows, block by block."""
    block = min(rows, ROWS_PER_PRODUCT)
    names = Sided.of(lambda side: [f"{side}{layer}" for layer in tile.layers[side]])
    states = {name: torch.randn(block, widths[side]) for side in Side for name in names[side]}
    states |= {mismatched(y): states[y] for y in names.target}
    products = bare_products(states, names.source, names.target)

    def action() -> None:
        for _ in range(rows // block):
            products()

    return action
