"""How far one driver reaches: `python -m benchmarks.scale_figure docs/scale.png` draws it.

Simulated clusters (`simulate`) of 64 to 1,024 GPUs, with units of three sizes and 64 batches for
each replica.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter
from rich.console import Console

from benchmarks.driver_work import index_of
from benchmarks.simulate import (
    BATCH,
    INDEXED,
    STAGES,
    DriverCosts,
    Outcome,
    Setting,
    driver_costs,
    simulate,
    table_of,
)
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.drawing import STYLES, drawn_as, plain

GPUS = (64, 128, 256, 512, 1024)
ROWS = {4096: Arm.TRANSFERRED, 16_384: Arm.NATIVE, 65_536: Arm.FOREIGN}
"""Of a unit, and whose colour and marker its curve has."""
BATCHES = 64
"""Of each replica."""


def outcomes(driver: DriverCosts) -> list[Outcome]:
    """Of every setting."""
    with index_of(INDEXED) as index:
        return [
            simulate(Setting(gpus, gpus / STAGES * BATCHES * min(rows, BATCH), rows), driver, index)
            for rows in ROWS
            for gpus in GPUS
        ]


def draw(simulated: Sequence[Outcome], path: Path) -> None:
    """Goodput and the driver's share, over GPUs and over the units that are done in a second."""
    with drawn_as("scale"):
        figure = Figure(figsize=(8.0, 5.6), layout="constrained")
        panels = figure.subplots(2, 2, sharex="col", sharey="row")
        for rows, arm in ROWS.items():
            own = [o for o in simulated if o.setting.rows == rows]
            across = [o.setting.gpus for o in own], [o.units_a_second for o in own]
            up = [o.goodput for o in own], [o.driver for o in own]
            for line, share in zip(panels, up, strict=True):
                for panel, x in zip(line, across, strict=True):
                    panel.plot(
                        x,
                        share,
                        marker=STYLES[arm].marker,
                        color=STYLES[arm].colour,
                        label=f"{rows:,} rows",
                    )
        for panel in panels.flatten():
            panel.set_xscale("log", base=2)
            panel.set_ylim(0, 1.05)
            panel.yaxis.set_major_formatter(PercentFormatter(1))
            plain(panel, grid="both")
        panels[1, 0].set_xticks(GPUS, [f"{gpus:,}" for gpus in GPUS])
        seconds = [2**n for n in range(9)]
        panels[1, 1].set_xticks(seconds, [f"{n}" for n in seconds])
        for panel in panels[1]:
            panel.xaxis.set_minor_locator(NullLocator())
        panels[0, 0].set_ylabel("goodput")
        panels[1, 0].set_ylabel("the driver is busy")
        panels[1, 0].set_xlabel("GPUs")
        panels[1, 1].set_xlabel("units a second")
        panels[0, 0].legend(title="a unit has", frameon=False, loc="lower left")
        figure.savefig(path, dpi=120)


def main() -> None:
    """Simulate, print a table, and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_figure", description=__doc__)
    parser.add_argument("path", type=Path, help="of the PNG file")
    path = parser.parse_args().path
    driver = driver_costs()
    simulated = outcomes(driver)
    Console(width=120).print(driver, table_of(simulated))
    draw(simulated, path)


if __name__ == "__main__":
    main()
