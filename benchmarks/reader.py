"""What a process reads of a store while processes hold moments, beside what `lrt-dist plan` counts.

Units of 4,096 rows of four layers of width 4,096, in the page cache: read, decoded, and compared
with the ledger's checksums, one unit after the other, as a reader does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.harness import Result, result, versions
from lrt_dist.commands._ways import READING
from lrt_dist.store.activations import ActivationStore
from lrt_dist.tasks.read import ReadStage, ReadTask

ROWS, WIDTH, LAYERS = 4096, 4096, (0, 1, 2, 3)
UNITS, QUICK_UNITS = 12, 2
ROUNDS = 5


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """Seconds for a byte over those that a plan counts."""
    units = QUICK_UNITS if quick else UNITS
    with TemporaryDirectory() as folder:
        tasks = _stored(Path(folder), units)
        runs = [_read(tasks) for _ in range(1 if quick else ROUNDS)]
    setting = {"setting": versions("torch", "zarr", "obstore")}
    return [
        result(name, [run | setting for run in runs], 1.0, higher_is_better=False) for name in names
    ]


def _stored(folder: Path, units: int) -> list[ReadTask]:
    store = ActivationStore.create(
        str(folder / "store"),
        layers=dict.fromkeys(LAYERS, WIDTH),
        rows=units * ROWS,
        rows_per_unit=ROWS,
        logical_dtype="bfloat16",
        compress="none",
        fingerprint="benchmark",
    )
    states = torch.randn(ROWS, WIDTH).bfloat16()
    tasks = []
    for unit in range(units):
        checksums: dict[str, str] = {}
        for layer in LAYERS:
            checksums |= store.write(unit, layer, states).checksums
        tasks.append(ReadTask(unit, store.url, LAYERS, checksums))
    return tasks


def _read(tasks: Sequence[ReadTask]) -> dict[str, float]:
    stage = ReadStage()
    began = time.perf_counter()
    count = 0
    for task in tasks:
        stage.open(task)
        stage.step(task.key, 0, None)
        parcel = stage.finish(task.key)
        count += sum(rows.states.nbytes + rows.norms.nbytes for rows in parcel.contents.values())
    speed = count / (time.perf_counter() - began)
    return {"bytes_a_second": speed, "planned": READING, "ratio": READING / speed}
