"""How everything here is measured, and what is written down."""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from threadpoolctl import threadpool_limits

THREADS = 2
"""For everyone: our side, the baselines, and the bare matrix products."""


@dataclass(frozen=True)
class Result:
    """One figure.

    Attributes:
        name: of the benchmark.
        ratio: median over the runs.
        target: what it should reach, or stay below.
        higher_is_better: which of the two.
        runs: what was measured, run by run: seconds, the ratio, and of what.
    """

    name: str
    ratio: float
    target: float
    higher_is_better: bool
    runs: Sequence[Mapping[str, Any]]

    @property
    def reached(self) -> bool:
        return self.ratio >= self.target if self.higher_is_better else self.ratio <= self.target

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / f"{self.name}.json").write_text(text + "\n")


def result(
    name: str, runs: Sequence[Mapping[str, Any]], target: float, *, higher_is_better: bool
) -> Result:
    """The median of the runs' ratios."""
    ratio = statistics.median(run["ratio"] for run in runs)
    return Result(name, ratio, target, higher_is_better, runs)


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(rounds: int, actions: Mapping[str, Callable[[], object]]) -> list[dict[str, float]]:
    """Seconds of every action in each round: A, B, A, B, … after a round that does not count.

    A machine that is slow for a minute is then slow for all of them.
    """
    for action in actions.values():
        action()
    return [{name: seconds(action) for name, action in actions.items()} for _ in range(rounds)]


@contextlib.contextmanager
def threads(count: int = THREADS) -> Iterator[None]:
    """The same number of threads for torch (MKL) and NumPy and SciPy (OpenBLAS)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def peak_bytes() -> int:
    """The peak memory of this process. On Linux `getrusage` would hand down that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def versions(*packages: str) -> str:
    """For the record of a run: `torch 2.13.0, 2 threads`."""
    return ", ".join([*(f"{name} {version(name)}" for name in packages), f"{THREADS} threads"])


def table(results: Sequence[Result]) -> Table:
    """All figures, and which targets they miss."""
    shown = Table("benchmark", "ratio", "lowest … highest", "target", "")
    for item in results:
        ratios = [run["ratio"] for run in item.runs]
        sign = "≥" if item.higher_is_better else "≤"
        shown.add_row(
            item.name,
            f"{item.ratio:.3g}",
            f"{min(ratios):.3g} … {max(ratios):.3g}",
            f"{sign} {item.target:g}",
            "[green]reached[/]" if item.reached else "[red]missed[/]",
        )
    return shown
