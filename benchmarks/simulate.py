"""The driver's own scheduler on a simulated clock: what clusters that nobody has here would do.

Stages take the time that their operations take at 40 % of an H100's peak, and writes what a share
of the storage gives; the driver's own computing is measured while it happens, its row index and its
ledger (`driver_work`) with it, and its calls to Ray are charged with what they cost here, measured
in the same run. Processes fail as often as those of
Llama 3's training (arXiv 2407.21783, section 3.3.4: 419 unexpected interruptions of 16,384 GPUs in
54 days), and ten times as often.

`simulated_64`, `simulated_1024`: the least goodput over the settings of so many GPUs in which a
unit fills a batch and storage is not waited for. Goodput is the time in which the stages' computing
alone would be done, over the simulated one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from benchmarks.driver_work import DriverWork, index_of
from benchmarks.harness import Result
from benchmarks.simulated_cluster import Cluster, Costs
from benchmarks.stages import Waiting, WaitingStage
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.runtime.chain import FINISHING
from lrt_dist.runtime.contract import DEFAULT_POLICY, ChainSpec, Done, StageSpec
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.runtime.scheduler import RayChains

TARGETS = {"simulated_64": 0.9, "simulated_1024": 0.9}
BATCH = 16_384
"""Tokens of a batch."""
FLOPS = 0.4 * 989e12
"""Of one GPU."""
LAYER_PARAMETERS, LAST = 856e6, 71
"""Of a model with Llama-3 70B's shape; blocks behind the last wanted layer are not run."""
STAGES = 2
STORED_BYTES = 10 * 8192 * 2
"""Of a row: ten layers."""
LLAMA_HOURS = 16_384 * 54 * 24 / 419
"""Hours of one GPU between two failures."""
LOAD = 120.0
"""Seconds in which a stage is read and built."""
INDEXED = 25_000
"""Units of the row index; a run of more begins it again."""


@dataclass(frozen=True)
class Setting:
    """One simulated extraction; every token is a row.

    Attributes:
        gpus: of the cluster.
        tokens: of the corpus.
        rows: of a unit.
        storage: bytes a second of all GPUs together; infinite where it is never waited for.
        failing: hours of one GPU between two failures.
    """

    gpus: int
    tokens: float
    rows: int
    storage: float = float("inf")
    failing: float = float("inf")

    @property
    def units(self) -> int:
        return round(self.tokens / self.rows)

    @property
    def replicas(self) -> int:
        return self.gpus // STAGES

    @property
    def batches(self) -> int:
        return max(1, self.rows // BATCH)

    def step(self) -> float:
        """Seconds of a batch in a stage."""
        tokens = min(self.rows, BATCH)
        return 2 * LAYER_PARAMETERS * LAST / STAGES * tokens / FLOPS

    def ideal(self) -> float:
        """Seconds in which the stages would compute it all, if they did nothing else."""
        return self.units * self.batches * self.step() / self.replicas


@dataclass(frozen=True)
class Outcome:
    """What became of a setting.

    Attributes:
        hours: from the first stage that computes to the last unit that is committed.
        goodput: share of it in which the computing alone would be done.
        driver: share of it in which the driver was busy.
        deaths: replicas that died.
        redone: units that were computed again, per unit.
        real: seconds that the simulation took.
    """

    setting: Setting
    hours: float
    goodput: float
    driver: float
    deaths: int
    redone: float
    real: float

    @property
    def driver_ms(self) -> float:
        """Milliseconds of the driver for a unit."""
        return 3.6e6 * self.hours * self.driver / self.setting.units

    @property
    def units_a_second(self) -> float:
        return self.setting.units / (3600 * self.hours)


@dataclass(frozen=True)
class DriverCosts:
    """Seconds of the driver on this machine: for a call of an actor, and for a reference that it
    waits for."""

    call: float
    waiting: float


def simulate(setting: Setting, driver: DriverCosts, index: RowIndex, seed: int = 0) -> Outcome:
    """Run the scheduler over all units of a setting."""
    written = STORED_BYTES / STAGES * setting.rows
    costs = Costs(
        load=LOAD,
        open=0.02,
        # As many are written at once, and share what a stage gets of the storage.
        write=0.05 + FINISHING * written / (setting.storage / setting.gpus),
        step=setting.step(),
        call=driver.call,
        waiting=driver.waiting,
        failing=setting.failing,
    )
    cluster = Cluster(costs, seed)
    notes: list[str] = []
    began = time.perf_counter()
    spec = ChainSpec((StageSpec(WaitingStage, cpus=1, gpus=1),) * STAGES, setting.replicas)
    with cluster.instead_of_ray(), DriverWork(index) as work:

        def units() -> Iterator[Waiting]:
            for number in range(setting.units):
                work.lengths(number)
                yield Waiting(f"unit {number}", setting.batches)

        chains = RayChains(spec, DEFAULT_POLICY, notes.append, [float("inf")])
        chains.start()
        started, spent = cluster.now, cluster.driver
        done = 0
        for outcome in chains.run(units()):
            assert isinstance(outcome, Done), outcome
            if work.is_full(done):
                with cluster.asked(0.0):
                    work.renew()
            work.commit(done)
            cluster.spend(work.spent_behind())
            done += 1
        seconds = cluster.now - started
        busy = sum(actor.busy for chain in cluster.chains for actor in chain.actors)
        chains.stop()
    assert done == setting.units
    computed = busy / STAGES / (setting.batches * setting.step())
    return Outcome(
        setting,
        hours=seconds / 3600,
        goodput=setting.ideal() / seconds,
        driver=(cluster.driver - spent) / seconds,
        deaths=sum("died" in note for note in notes),
        redone=max(0.0, computed / setting.units - 1),
        real=time.perf_counter() - began,
    )


def driver_costs(tasks: int = 1000) -> DriverCosts:
    """Measured on real actors that do nothing, less what the scheduler itself computes."""
    runtime = RayRuntime("local")
    try:
        spec = ChainSpec((StageSpec(WaitingStage, cpus=0.01, gpus=0),))
        with runtime.chains(spec) as chains:
            list(chains.run(_nothing(100)))
            began = time.process_time()
            assert sum(1 for _ in chains.run(_nothing(tasks))) == tasks
            real = (time.process_time() - began) / tasks

        @ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
        def never() -> None:
            time.sleep(60)

        refs = [never.remote() for _ in range(1000)]
        began = time.perf_counter()
        for _ in range(20):
            ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        waiting = (time.perf_counter() - began) / 20 / len(refs)
        for ref in refs:
            ray.cancel(ref, force=True)
    finally:
        ray.shutdown()
    free = Cluster(Costs(0, 0, 0, 0, 0, 0), 0)
    with free.instead_of_ray():
        chains_here = RayChains(spec, DEFAULT_POLICY, lambda note: None, [float("inf")])
        chains_here.start()
        before = free.driver
        assert sum(1 for _ in chains_here.run(_nothing(tasks))) == tasks
        own = (free.driver - before) / tasks
    return DriverCosts(call=max(0.0, real - own) / 3, waiting=waiting)


def _nothing(count: int) -> Iterator[Waiting]:
    return (Waiting(f"task {number}", 1, (0, 0, 0, 0)) for number in range(count))


def settings(gpus: int, *, quick: bool) -> list[Setting]:
    """From the usual to what is too much; long enough that the end of a run does not count."""
    plain = Setting(gpus, (5e5 if quick else 2e6) * gpus, 4 * BATCH)
    if quick:
        return [plain]
    return [
        plain,
        replace(plain, failing=LLAMA_HOURS),
        replace(plain, failing=LLAMA_HOURS / 10),
        replace(plain, rows=BATCH),
        replace(plain, storage=10e9 * gpus / 64),
        replace(plain, tokens=1e8, rows=4096),
    ]


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    driver = driver_costs(100 if quick else 1000)
    gpus = {name: int(name.rpartition("_")[2]) for name in wanted}
    with index_of(INDEXED // 50 if quick else INDEXED) as index:
        simulated = {
            name: [simulate(setting, driver, index) for setting in settings(count, quick=quick)]
            for name, count in gpus.items()
        }
    results = []
    for name, outcomes in simulated.items():
        runs = [_run(outcome, driver) for outcome in outcomes]
        counted = [
            o.goodput
            for o in outcomes
            if o.setting.rows >= BATCH and o.setting.storage == float("inf")
        ]
        results.append(Result(name, min(counted), TARGETS[name], True, runs))
    return results


def _run(outcome: Outcome, driver: DriverCosts) -> dict[str, Any]:
    setting = outcome.setting
    return {
        "gpus": setting.gpus,
        "units": setting.units,
        "rows_per_unit": setting.rows,
        "storage_GB_a_second": setting.storage / 1e9 if setting.storage < float("inf") else None,
        "hours_between_failures": setting.failing if setting.failing < float("inf") else None,
        "hours": outcome.hours,
        "ratio": outcome.goodput,
        "driver_share": outcome.driver,
        "driver_ms_a_unit": outcome.driver_ms,
        "deaths": outcome.deaths,
        "redone_units_per_unit": outcome.redone,
        "simulated_in_seconds": outcome.real,
        "driver_ms_a_call": 1e3 * driver.call,
        "driver_us_a_reference": 1e6 * driver.waiting,
    }


def main() -> None:
    """Print what one setting does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("gpus", type=int)
    parser.add_argument("--tokens", type=float, default=1e8)
    parser.add_argument("--rows", type=int, default=4096, help="of a unit")
    parser.add_argument("--failing", type=float, default=float("inf"), help="hours of one GPU")
    chosen = parser.parse_args()
    driver = driver_costs()
    setting = Setting(chosen.gpus, chosen.tokens, chosen.rows, failing=chosen.failing)
    with index_of(min(setting.units, INDEXED)) as index:
        outcome = simulate(setting, driver, index)
    Console(width=120).print(driver, table_of([outcome]))


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """A line for each."""
    shown = Table(
        "GPUs",
        "units",
        "rows",
        "fails",
        "hours",
        "goodput",
        "driver",
        "ms a unit",
        "units a s",
        "deaths",
        "redone",
        "real s",
    )
    for o in outcomes:
        shown.add_row(
            str(o.setting.gpus),
            f"{o.setting.units:,}",
            f"{o.setting.rows:,}",
            f"{o.setting.failing:,.0f} h",
            f"{o.hours:.2f}",
            f"{o.goodput:.1%}",
            f"{o.driver:.1%}",
            f"{o.driver_ms:.2f}",
            f"{o.units_a_second:.1f}",
            str(o.deaths),
            f"{o.redone:.3%}",
            f"{o.real:.0f}",
        )
    return shown


if __name__ == "__main__":
    main()
