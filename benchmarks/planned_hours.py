"""Hours of a planned extraction, beside the simulated scheduler's.

`hours_simulated`: a 70B model over a corpus, on described H100 nodes that nobody has: simulated
time (`simulate`) over the planned one, with the same operations for each batch. The ratio is the
worst of all settings, whichever way it is off (1.25: a quarter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.driver_work import index_of
from benchmarks.harness import Result
from benchmarks.recipes import CLUSTER, GRID, ROOT, make
from benchmarks.simulate import INDEXED, LAST, STAGES, Setting, driver_costs, simulate
from lrt_dist import api
from lrt_dist.clusterfile import DescribedMachines, load_cluster
from lrt_dist.commands.plan import Plan
from lrt_dist.runfile import load_run
from lrt_dist.runtime.progress import Progress
from lrt_dist.workspace.folder import RunFolder

TARGET = 1.25
NODES = {80: 10, 1024: 128}
"""Of eight GPUs."""


@dataclass(frozen=True)
class Padded(Setting):
    """A simulated extraction whose batches cost what a plan says.

    Attributes:
        cost: tokens that a batch costs for each row.
    """

    cost: float = 1.0

    def step(self) -> float:
        return self.cost * super().step()


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """Each setting once: the clock is simulated."""
    driver = driver_costs(100 if quick else 1000)
    units = INDEXED // 50 if quick else INDEXED
    runs: list[dict[str, Any]] = []
    with TemporaryDirectory() as temporary, index_of(units) as index:
        folder = Path(temporary)
        recipe = replace(GRID, characters=GRID.characters // (50 if quick else 1))
        make(folder, [recipe])
        for gpus, storage, rows in (
            (80, None, 16_384),
            (80, None, 4096),
            (80, 10e9, 16_384),
            (1024, None, 16_384),
            (1024, None, 4096),
        ):
            config = load_run(
                ROOT / "jobs" / recipe.file,
                [*recipe.settings(folder), f"extract.rows_per_unit={rows}"],
            )
            machines = _machines(NODES[gpus], storage)
            plan = api.plan(api.Run(RunFolder(folder / "out", config), Progress(), machines))
            planned = _seconds(plan, storage)
            outcome = simulate(_setting(plan, gpus, storage), driver, index)
            runs.append(
                {
                    "gpus": gpus,
                    "storage_GB_a_second": storage and storage / 1e9,
                    "rows_per_unit": rows,
                    "units": plan.units,
                    "planned_seconds": planned,
                    "simulated_seconds": 3600 * outcome.hours,
                    "driver_share": outcome.driver,
                    "ratio": 3600 * outcome.hours / planned,
                }
            )
    worst = max(max(run["ratio"], 1 / run["ratio"]) for run in runs)
    return [Result(name, worst, TARGET, False, runs) for name in wanted]


def _machines(nodes: int, storage: float | None) -> DescribedMachines:
    ten = load_cluster(CLUSTER)
    return replace(
        ten,
        node_cpus=ten.node_cpus[:1] * nodes,
        node_memory=ten.node_memory[:1] * nodes,
        node_gpus=ten.node_gpus[:1] * nodes,
        storage=storage,
    )


def _setting(plan: Plan, gpus: int, storage: float | None) -> Padded:
    model = plan.models.target
    assert len(model.stages) == STAGES
    assert model.layers[-1] + 1 == LAST
    return Padded(
        gpus,
        tokens=plan.rows,
        rows=-(-plan.rows // plan.units),
        storage=storage or float("inf"),
        cost=model.batch_cost * model.tokens / plan.rows,
    )


def _seconds(plan: Plan, storage: float | None) -> float:
    """Of the target's extraction, without the loading of weights, which no simulation has."""
    model = plan.models.target
    weights = model.replicas * sum(stage.weight_bytes for stage in model.stages)
    return 3600 * model.hours - (weights / storage if storage else 0.0)
