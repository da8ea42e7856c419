"""What the host does for each stored byte, once a device has computed states in bfloat16.

Ours: rows put in their places as they are stored, norms and the check for finite states from one
pass, one checksum, layers written at once. Divided by what was done before: states widened to
float32, put in their places, checked number by number, narrowed again, norms taken, two checksums,
one layer after the other. CPU seconds of the whole process, over all threads; the files are
written in both.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
import zarr
from zarr.codecs import Crc32cCodec

from benchmarks.harness import Result, result, versions
from lrt_dist.models.blocks import BlockStack
from lrt_dist.store.activations import ActivationStore
from lrt_dist.tasks.collect import RowCollector

TARGET = 1 / 3
LAYERS = (0, 1)


@dataclass
class _Computed:
    """Takes the place of a stack: its states are there already."""

    batches: list[torch.Tensor]
    owned = range(len(LAYERS))
    device = torch.device("cpu")

    def run(
        self, ids: torch.Tensor, carry: object, *, stop: int, capture: Sequence[int], select: object
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        states = self.batches.pop(0)
        return states, dict.fromkeys(capture, states)


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """CPU time of ours over that of before, unit by unit."""
    rows, width = (512, 256) if quick else (4096, 4096)
    runs = []
    batches = [torch.randn(rows // 8, width).bfloat16() for _ in range(8)]
    with TemporaryDirectory() as folder:
        for number in range(2 if quick else 8):
            before = _cpu_seconds(_before(Path(folder) / f"before{number}", batches))
            ours = _cpu_seconds(_ours(Path(folder) / f"ours{number}", batches))
            runs.append(
                {
                    "ours": ours,
                    "before": before,
                    "ratio": ours / before,
                    "nanoseconds_a_byte": ours / (len(LAYERS) * rows * width * 2) * 1e9,
                    "setting": f"{rows} rows of {width}; " + versions("torch", "zarr"),
                }
            )
    return [result(name, runs[1:], TARGET, higher_is_better=False) for name in names]


def _cpu_seconds(work: Callable[[], None]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _ours(folder: Path, batches: list[torch.Tensor]) -> Callable[[], None]:
    rows = sum(map(len, batches))
    width = batches[0].shape[1]
    store = ActivationStore.create(
        str(folder),
        layers=dict.fromkeys(LAYERS, width),
        rows=rows,
        rows_per_unit=rows,
        logical_dtype="bfloat16",
        compress="none",
        fingerprint="x",
    )
    stack = cast(BlockStack, _Computed(list(batches)))

    def work() -> None:
        collector = RowCollector(stack, LAYERS, rows, torch.bfloat16)
        first = 0
        for batch in batches:
            places = range(first, first + len(batch))
            collector.step([[0]], None, positions=[(0, 0)] * len(batch), rows=list(places))
            first += len(batch)
        for layer, found in collector.finish().items():
            assert torch.isfinite(found.norms).all()
            store.write(0, layer, found.states, found.norms)

    return work


def _before(folder: Path, batches: list[torch.Tensor]) -> Callable[[], None]:
    rows = sum(map(len, batches))
    width = batches[0].shape[1]
    group = zarr.open_group(folder, mode="a")
    shared: dict[str, Any] = {"compressors": [Crc32cCodec()], "fill_value": 0}
    for layer in LAYERS:
        shape = (rows, width)
        group.create_array(f"layers/{layer}", shape=shape, chunks=shape, dtype="uint16", **shared)

    def work() -> None:
        collected = {layer: torch.empty(rows, width) for layer in LAYERS}
        first = 0
        for batch in batches:
            for states in collected.values():
                places = torch.tensor(range(first, first + len(batch)))
                states[places] = batch.to("cpu", torch.float32)
            first += len(batch)
        for layer, states in collected.items():
            assert torch.isfinite(states).all(1).all()
            encoded = states.to(torch.bfloat16).view(torch.uint16).numpy()
            torch.linalg.vector_norm(states, dim=1)
            cast("zarr.Array[Any]", group[f"layers/{layer}"])[:] = encoded
            zlib.crc32(np.ascontiguousarray(encoded).data)

    return work
