"""Whether the driver's cost of a unit grows with the units of a run.

`driver_per_unit`: milliseconds of the simulated driver (`simulate`) for a unit of one batch in a
run of 100,000 units, over those in the cheaper one of two runs of 100 and 1,000 units. The longest
begins its row index and its ledger again after 25,000 units. A call of an actor costs a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.driver_work import index_of
from benchmarks.harness import Result, result
from benchmarks.simulate import BATCH, INDEXED, Setting, driver_costs, simulate

TARGET = 1.5
SIZES = (100, 1_000, 10_000, 100_000)
GPUS = 8
"""Few enough that 100 units fill their four replicas."""


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """Sizes in turn, in rounds, each round with new ledgers."""
    sizes = SIZES[:3] if quick else SIZES
    driver = driver_costs(100 if quick else 1000)
    runs = []
    with ExitStack() as kept:
        indexes = {units: kept.enter_context(index_of(min(units, INDEXED))) for units in sizes}
        for _ in range(1 if quick else 2):
            ms = {
                units: simulate(Setting(GPUS, units * BATCH, BATCH), driver, index).driver_ms
                for units, index in indexes.items()
            }
            cheapest = min(ms[units] for units in sizes[:2])
            runs.append({"ratio": ms[sizes[-1]] / cheapest, "ms_a_unit": ms})
    return [result(name, runs, TARGET, higher_is_better=False) for name in wanted]
