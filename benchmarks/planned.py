"""What `lrt-dist plan` says of bytes, over what a run then reads, writes and holds.

Two models with random weights, three layers each; every token is a row. The plan is made from the
row index. Then the extraction of the larger model and the moments of all nine pairs are done in a
process each, whose memory, reads and writes the kernel counts (Linux). What Python and its
libraries hold is left out on both sides: here it is not what a worker has. The moments are made
twice: in one tile of nine pairs, and (`…_once`) in nine tiles, which are held while hidden states
go by; `read_once` is what is read then over what both stores hold.
`python -m benchmarks.planned FOLDER STEP` is such a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Result, result, versions
from benchmarks.random_llama import config_of, save_pair
from lrt_dist.commands._moments import fitted_units, moments, moments_fingerprint
from lrt_dist.commands.extract import extract_side
from lrt_dist.commands.index import index
from lrt_dist.commands.plan import plan
from lrt_dist.plan import cost, memory
from lrt_dist.sites import Side
from lrt_dist.workspace.run import Run, open_run

WIDTHS = {"source": 384, "target": 768}
LAYERS = 3
ROWS, QUICK_ROWS = 200_000, 20_000
TARGET = 1.1
"""Of what was measured over what was planned: a run must not need more than it was said to."""
READ_ONCE = 1.2
"""Of what is read over what is stored."""
A_PAIR_A_TILE = {"tile_bytes": 1}


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """Measured over planned, for each of the names."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_pair(folder, WIDTHS, layers=LAYERS, rows=QUICK_ROWS if quick else ROWS)
        planned, extracted, summed, many, held = (_apart(folder, step) for step in STEPS)
    pairs = {
        "planned_store": (planned["store"], extracted["store"]),
        "planned_reads": (planned["reads"], summed["reads"]),
        "planned_writes": (planned["writes"], summed["writes"]),
        "planned_stage": (planned["stage"], extracted["peak"]),
        "planned_task": (planned["task"], summed["peak"]),
        "planned_reads_once": (many["reads"], held["reads"]),
        "planned_writes_once": (many["writes"], held["writes"]),
        "planned_process": (many["task"], held["peak"]),
        "read_once": (extracted["stores"], held["reads"]),
    }
    return [_result(name, *pairs[name]) for name in names]


def _result(name: str, planned: float, measured: float) -> Result:
    run = {
        "planned_bytes": planned,
        "measured_bytes": measured,
        "ratio": measured / planned,
        "setting": versions("torch", "zarr"),
    }
    target = READ_ONCE if name == "read_once" else TARGET
    return result(name, [run], target, higher_is_better=False)


def _apart(folder: Path, step: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.planned", str(folder), step]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    counted: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return counted


@contextmanager
def _opened(folder: Path, fit: Mapping[str, int]) -> Iterator[Run]:
    extract = {"rows_per_unit": 8192, "batch_tokens": 8192}
    config = config_of(folder, address="serial", extract=extract, fit=fit)
    with open_run(folder / "out", config) as run:
        yield run


def _plan(run: Run) -> dict[str, float]:
    index(run)
    planned = plan(run)
    return {
        "store": planned.models.target.store_bytes,
        "stage": planned.models.target.host_bytes - memory.PROCESS_BYTES,
        "reads": planned.way.read_bytes,
        "writes": planned.way.written_bytes,
        "task": planned.way.memory - cost.PROCESS_BYTES,
    }


def _extract(run: Run) -> dict[str, float]:
    before = _held()
    extract_side(run, Side.TARGET)
    peak = _held(peak=True) - before
    extract_side(run, Side.SOURCE)
    source, target = (
        sum(f.stat().st_size for f in Path(run.folder.store_url(side)).rglob("*") if f.is_file())
        for side in Side
    )
    return {"peak": peak, "store": target, "stores": source + target}


def _moments(run: Run) -> dict[str, float]:
    records = fitted_units(run.folder)
    before, held = _transferred(), _held()
    moments(run, records, moments_fingerprint(run.folder, records))
    reads, writes = (after - b for after, b in zip(_transferred(), before, strict=True))
    return {"reads": reads, "writes": writes, "peak": _held(peak=True) - held}


def _transferred() -> tuple[int, int]:
    """Bytes that this process has read and written so far, by calls; mapped files are not in it."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]), int(counts["wchar"])


def _held(*, peak: bool = False) -> int:
    """Bytes of memory of this process, now or at most so far."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


STEPS: dict[str, tuple[Callable[[Run], dict[str, float]], Mapping[str, int]]] = {
    "plan": (_plan, {}),
    "extract": (_extract, {}),
    "moments": (_moments, {}),
    "plan many tiles": (_plan, A_PAIR_A_TILE),
    "moments of many tiles": (_moments, A_PAIR_A_TILE),
}
"""What each does, and with which settings of the fit."""


if __name__ == "__main__":
    step, fit = STEPS[sys.argv[2]]
    with _opened(Path(sys.argv[1]), fit) as opened:
        assert opened.layers  # the libraries that read a model's configuration are here now
        counted = step(opened)
    print(json.dumps(counted))
