"""How an evaluation grows with its cells: time for each, and peak memory of the driver.

Random directions steer the test items of one concept of the demo's run, in one process that is
driver and model: 1,000 or 10,000 cells for the time, 100 or 10,000 for the memory. Each is a
process of its own, since a peak is never taken back. `python -m benchmarks.cells CELLS` is that
process.

The run is the demo's: `make demo` first.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Result, result, threads, versions
from lrt_dist.commands._moments import fitted_units
from lrt_dist.commands._rows import median_norms
from lrt_dist.commands.evaluation.carriers import corpus_maps
from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.commands.evaluation.displacements import Displacements
from lrt_dist.commands.evaluation.generation import Writer
from lrt_dist.commands.evaluation.screening import Screen, sample_rows
from lrt_dist.commands.evaluation.steered import Request, SteeredTarget
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import Arm, conditions_of
from lrt_dist.runfile import read_run
from lrt_dist.sites import Side
from lrt_dist.tasks.screen import ScreenedConcept
from lrt_dist.workspace.run import open_run

OUT = Path("demo-run")
TARGETS = {"cells_linear": 1.1, "cells_memory": 1.1}


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """Seconds a cell, and peak memory, of many cells over few."""
    if not (OUT / "verdicts.parquet").is_file():
        raise UserError(f"no evaluation in {OUT}: run `make demo` first")
    many, fewer, few = (500, 250, 100) if quick else (10_000, 1_000, 100)
    results = []
    for name in names:
        other = fewer if name == "cells_linear" else few
        runs = []
        for _ in range(1 if quick else 3):
            small, large = _apart(other), _apart(many)
            measured = "seconds_a_cell" if name == "cells_linear" else "peak_bytes"
            setting = f"{other} and {many} cells; {versions('torch')}"
            ratio = large[measured] / small[measured]
            runs.append({"small": small, "large": large, "ratio": ratio, "setting": setting})
        results.append(result(name, runs, TARGETS[name], higher_is_better=False))
    return results


def _apart(cells: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.cells", str(cells)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def steer(folder: Path, cells: int) -> dict[str, float]:
    """Steer so many cells in a folder that looks like the run's, but has none yet."""
    for path in OUT.resolve().iterdir():
        if path.name not in ("cells", ".lock"):
            (folder / path.name).symlink_to(path)
    config = read_run(folder)
    with open_run(folder, config) as run:
        records = fitted_units(run.folder)
        norms = median_norms(run, Side.TARGET, records)
        rows = sample_rows(run, records)
        name, data = next(iter(run.concepts.items()))
        pair = run.pairs[len(run.pairs) // 2]
        draws = range(max(1, cells // (2 * len(data.test))))
        conditions = conditions_of(Arm.RANDOM, (-0.02, 0.02), source=pair.source, draws=draws)
        request = Request(
            name, "test", config.evaluate.score.title, pair.target, tuple(conditions), data.test
        )
        screened = ScreenedConcept(name, "", {}, Path(), {}, {})
        displacements = Displacements(
            run, corpus_maps(run), (), {name: Screen(screened, {}, {})}, norms, rows
        )
        tokens = config.evaluate.batch_tokens
        with OnDemandChains(run, Side.TARGET, head=True, batch_tokens=tokens) as chains:
            tokenizer = SiteTokenizer.load(config.target)
            writer = Writer(run, chains, displacements, tokenizer)
            steered = SteeredTarget(run, chains, displacements, tokenizer, writer)
            began = time.perf_counter()
            (values,) = steered.scores("cells", [request])
            seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "cells": values.numel(),
        "seconds_a_cell": seconds / values.numel(),
        "peak_bytes": float(peak),
    }


if __name__ == "__main__":
    with TemporaryDirectory() as temporary, threads():
        print(json.dumps(steer(Path(temporary), int(sys.argv[1]))))
