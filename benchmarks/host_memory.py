"""Whether memory grows with a corpus: peak of a process that extracts 1,000 units, over 10 units.

Driver and stage are one process, the model is tiny, and a unit has 1,024 rows of 256 dimensions at
four layers. Each size is a process of its own, since a peak is never taken back.
`python -m benchmarks.host_memory UNITS` is that process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Result, result, versions
from benchmarks.random_llama import save_llama, write_corpus
from lrt_dist.commands.extract import extract_side
from lrt_dist.commands.index import index
from lrt_dist.config import RunConfig
from lrt_dist.sites import Side
from lrt_dist.workspace.run import open_run

TARGET = 1.1
ROWS, WIDTH, LAYERS = 1024, 256, 4


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """Peak memory of many units over few, and of what is between."""
    units = (2, 8) if quick else (10, 100, 1000)
    peaks = [_apart(count) for count in units]
    run = {
        "units": units,
        "peak_bytes": peaks,
        "ratio": peaks[-1] / peaks[0],
        "setting": versions("torch", "zarr"),
    }
    return [result(name, [run], TARGET, higher_is_better=False) for name in names]


def _apart(units: int) -> float:
    command = [sys.executable, "-m", "benchmarks.host_memory", str(units)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _extract(folder: Path, units: int) -> None:
    tokens = save_llama(folder / "model", width=WIDTH, intermediate=WIDTH, layers=LAYERS, heads=4)
    write_corpus(folder / "corpus.jsonl", units * ROWS // (tokens - 16) + 2)
    model = {"model": str(folder / "model"), "layers": "all"}
    run_config = RunConfig.model_validate(
        {
            "source": model,
            "target": model,
            "corpus": {"paths": [str(folder / "corpus.jsonl")], "near_duplicates": None},
            "sites": {"per_segment": 512},
            "extract": {"rows_per_unit": ROWS, "batch_tokens": 2048},
            "fit": {"folds": 2},
            "cluster": {"address": "serial"},
        }
    )
    with open_run(folder / "out", run_config) as run:
        made = index(run)
        assert abs(made.units - units) <= 0.2 * units + 1, f"{made.units} units"
        extract_side(run, Side.SOURCE)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        _extract(Path(temporary), int(sys.argv[1]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
