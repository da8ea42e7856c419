"""`python -m benchmarks`: measures, prints one table, and writes one file a figure."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Result, table, threads

MODULES = {
    "path": ["path_of_100"],
    "gemm": ["gemm_float64", "gemm_bfloat16"],
    "store": ["gemm_store"],
    "growth": ["rows_linear", "pairs_linear"],
    "memory": ["memory_constant"],
    "coverage": ["coverage"],
    "calibration": ["calibration"],
    "cells": ["cells_linear", "cells_memory"],
    "evaluation": ["evaluation_loop", "evaluation_reads"],
    "stages": ["stages_busy", "driver_task"],
    "host_memory": ["host_memory"],
    "host_path": ["host_path"],
    "carry": ["carry"],
    "block_rows": ["block_rows"],
    "extraction": [
        "extraction_bare",
        "extraction_whole",
        "extraction_hidden_states",
        "extraction_nnsight",
        "extraction_transformer_lens",
    ],
    "step": ["extraction_step"],
    "planned": [
        "planned_store",
        "planned_reads",
        "planned_writes",
        "planned_stage",
        "planned_task",
        "planned_reads_once",
        "planned_writes_once",
        "planned_process",
        "read_once",
    ],
    "planned_network": ["planned_network", "planned_network_once"],
    "reader": ["reader"],
    "recipes": ["target_passes", "target_written"],
    "straight": ["straight_time", "hours_stored", "hours_once", "hours_straight"],
    "planned_hours": ["hours_simulated"],
    "simulate": ["simulated_64", "simulated_1024"],
    "driver_per_unit": ["driver_per_unit"],
    "driver_per_block": ["driver_per_layer", "driver_per_block"],
    "decomposition": ["eigh_time", "eigh_memory"],
    "row_index": ["index_unit", "index_growth"],
    "tokenising": ["tokenising"],
    "index_memory": ["index_memory"],
    "ledger": ["ledger_commit", "ledger_resume", "ledger_commit_s3", "ledger_resume_s3"],
    "status": ["status", "status_s3"],
    "verify_workers": ["verify_workers"],
    "adamw": ["adamw_given", "adamw_loss", "adamw_chosen"],
    "grid": [
        "grid_ridgecv",
        "grid_ridgecv_no_control",
        "grid_ridgecv_loo",
        "grid_himalaya",
        "grid_himalaya_no_control",
        "grid_dask",
    ],
}
"""What each module measures; it is imported when that is wanted, since only one needs the extra."""
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 if everything could be measured, whether or not a target was missed."""
    known = [name for measured in MODULES.values() for name in measured]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is given")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument(
        "--out", type=Path, help=f"default: {RESULTS.parent.name}/{RESULTS.name}; none for --quick"
    )
    options = parser.parse_args(arguments)
    console = Console()
    if options.list:
        console.print("\n".join(known))
        return 0
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    out = options.out or (None if options.quick else RESULTS)
    results: list[Result] = []
    for module, measured in MODULES.items():
        wanted = [name for name in measured if name in (options.names or known)]
        if not wanted:
            continue
        console.print(f"measuring {', '.join(wanted)}", style="dim")
        with threads():
            latest = import_module(f"benchmarks.{module}").measure(wanted, quick=options.quick)
        for item in latest:
            if out is not None:
                item.write(out)
        results += latest
    console.print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
