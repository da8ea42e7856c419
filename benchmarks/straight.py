"""Nothing stored beside everything stored: from two models to the moments of nine pairs, on Ray.

Two models with random weights, three layers each; every token is a row. Each way is a process of
its own that starts a cluster on this machine, as a user's command does; they take turns.
`python -m benchmarks.straight FOLDER WAY` is such a process.

`straight_time` is the time with stores over that without. `hours_stored` is the time of the way
through stores over what `lrt-dist plan` says of it; the start of Ray, and loading, which a plan
counts for described storage alone, are left out there. `hours_once` is the same with a pair a tile,
so that processes hold all nine while the stores are read once. `hours_straight` is the same without
stores, of a run five times as long: both models load while its work is under way.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Result, result, seconds, versions
from benchmarks.random_llama import begin_again, config_of, save_pair
from lrt_dist.commands._moments import fitted_units, moments, moments_fingerprint
from lrt_dist.commands.extract import extract
from lrt_dist.commands.index import index
from lrt_dist.commands.plan import plan
from lrt_dist.runtime.log import read_log
from lrt_dist.workspace.run import Run, open_run

WIDTHS = {"source": 384, "target": 768}
LAYERS = 3
ROWS, QUICK_ROWS = 30_000, 4_000
LONG = 5
"""Times as many rows for `hours_straight`."""
WAYS: dict[str, dict[str, Any]] = {
    "indexed": {},
    "stored": {"extract": {"store": "zarr"}},
    "once": {"extract": {"store": "zarr"}, "fit": {"tile_bytes": 1}},
    "straight": {"extract": {"store": "none"}},
}
"""Settings of each; nothing is done but the row index in the first."""
ROUNDS = 3
TARGETS = {"straight_time": 0.95, "hours_stored": 1.25, "hours_once": 1.25, "hours_straight": 1.25}
"""At least as fast, but for noise; and a quarter longer than planned at most."""


@dataclass(frozen=True)
class Times:
    """Seconds of one way: of the whole process, of its work without Ray's start, and planned."""

    whole: float
    work: float
    planned: float


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """See the module."""
    rows, rounds = (QUICK_ROWS, 1) if quick else (ROWS, ROUNDS)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in TARGETS}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _prepare(folder, rows)
        for _ in range(rounds if {"straight_time", "hours_stored"} & set(names) else 0):
            stored, straight = (_times(folder, way) for way in ("stored", "straight"))
            runs["straight_time"].append(
                {
                    "stored_seconds": stored.whole,
                    "straight_seconds": straight.whole,
                    "ratio": stored.whole / straight.whole,
                }
            )
            runs["hours_stored"].append(_hours(stored))
        if "hours_once" in names:
            runs["hours_once"] += [_hours(_times(folder, "once")) for _ in range(rounds)]
    if "hours_straight" in names:
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            _prepare(folder, LONG * rows)
            runs["hours_straight"] += [_hours(_times(folder, "straight")) for _ in range(rounds)]
    setting = {"setting": versions("torch", "ray", "zarr")}
    return [
        result(
            name,
            [run | setting for run in runs[name]],
            TARGETS[name],
            higher_is_better=name == "straight_time",
        )
        for name in names
    ]


def _hours(times: Times) -> dict[str, Any]:
    return {
        "measured_seconds": times.work,
        "planned_seconds": times.planned,
        "ratio": times.work / times.planned,
    }


def _times(folder: Path, way: str) -> Times:
    out = folder / way
    begin_again(folder / "indexed", out)
    with _opened(folder, way, "serial") as run:
        planned = plan(run).way.hours * 3600
    command = [sys.executable, "-m", "benchmarks.straight", str(folder), way]
    whole = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
    events = read_log(out / "log.jsonl")
    phases = [event["seconds"] for event in events if event["event"] == "phase_end"]
    return Times(whole, sum(phases), planned)


def _prepare(folder: Path, rows: int) -> None:
    """Both models, a corpus of about so many tokens, and its row index."""
    save_pair(folder, WIDTHS, layers=LAYERS, rows=rows)
    with _opened(folder, "indexed", "serial") as run:
        index(run)


@contextmanager
def _opened(folder: Path, way: str, address: str) -> Iterator[Run]:
    with open_run(folder / way, config_of(folder, address=address, **WAYS[way])) as run:
        yield run


def _go(folder: Path, way: str) -> None:
    """All the way from the models to the moments."""
    with _opened(folder, way, "auto") as run:
        extract(run)
        records = fitted_units(run.folder)
        moments(run, records, moments_fingerprint(run.folder, records))


if __name__ == "__main__":
    _go(Path(sys.argv[1]), sys.argv[2])
