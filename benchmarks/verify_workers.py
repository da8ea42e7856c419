"""Whether `verify` is linear in workers: its time with one, over twice its time with two.

Both stores of a run, of 4 GB each, in the page cache: units of 4,096 rows of four layers of width
256. Each cluster is a process of its own, and they take turns; `python -m benchmarks.verify_workers
FOLDER CORES` is such a process. It verifies twice: by the second time workers have started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
import torch

from benchmarks.harness import Result, result, seconds, versions
from benchmarks.ledger import record_of
from benchmarks.random_llama import config_of
from benchmarks.row_index import made_index
from lrt_dist.commands.verify import UNITS_A_TASK, verify
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.sites import Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger
from lrt_dist.workspace.run import Run, open_run

TARGET = 0.8
TOKENS = 256
"""Of a segment."""
WIDTH, LAYERS = 256, (0, 1, 2, 3)
TASKS, QUICK_TASKS = 30, 2
"""Of each store."""
ROUNDS = 3
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ZARR_THREADING__MAX_WORKERS", "TOKIO_WORKER_THREADS"),
    "1",
)
"""A worker has a core, and all that it loads keeps to that."""


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """See the module."""
    tasks, rounds = (QUICK_TASKS, 1) if quick else (TASKS, ROUNDS)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _prepare(folder, tasks * UNITS_A_TASK)
        times = [{cores: _apart(folder, cores) for cores in (1, 2)} for _ in range(rounds)]
    setting = versions("ray", "zarr", "obstore")
    runs = [
        {"seconds": taken, "ratio": taken[1] / (2 * taken[2]), "setting": setting}
        for taken in times
    ]
    return [result(name, runs, TARGET, higher_is_better=True) for name in names]


def _apart(folder: Path, cores: int) -> float:
    command = [sys.executable, "-m", "benchmarks.verify_workers", str(folder), str(cores)]
    environment = os.environ | ONE_THREAD | {"RAY_worker_niceness": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _prepare(folder: Path, units: int) -> None:
    """A run whose stores hold what their ledgers say."""
    with open_run(folder / "run", config_of(folder, address="serial")) as run:
        index = made_index(run.folder.rows, units, TOKENS)
        for side in Side:
            _extracted(run, side, index)


def _extracted(run: Run, side: Side, index: RowIndex) -> None:
    ledger = Ledger(run.folder.ledger_url(side))
    fingerprint = ledger.claim({"rows": index.rows, "rows_per_unit": index.rows_per_unit})
    store = ActivationStore.create(
        run.folder.store_url(side),
        layers=dict.fromkeys(LAYERS, WIDTH),
        rows=index.rows,
        rows_per_unit=index.rows_per_unit,
        logical_dtype="bfloat16",
        compress="none",
        fingerprint=fingerprint,
    )
    states = torch.randn(index.rows_per_unit, WIDTH).bfloat16()
    for unit in range(index.units):
        checksums: dict[str, str] = {}
        for layer in LAYERS:
            checksums |= store.write(unit, layer, states).checksums
        known = {"rows": index.rows_per_unit, "checksums": checksums, "fingerprint": fingerprint}
        ledger.commit(record_of(unit).model_copy(update=known), dict, failed_before=False)


def _go(folder: Path, cores: int) -> float:
    """Seconds of the second time."""
    ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    with open_run(folder / "run", config_of(folder, address="local")) as run:
        assert not verify(run, repair=False)
        return seconds(lambda: verify(run, repair=False))


if __name__ == "__main__":
    print(_go(Path(sys.argv[1]), int(sys.argv[2])))
