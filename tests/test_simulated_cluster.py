"""The simulated cluster, on which the real scheduler runs, keeps time as a real one would."""

from __future__ import annotations

import pytest

from benchmarks.driver_work import index_of
from benchmarks.simulate import DriverCosts, Setting, simulate
from benchmarks.simulated_cluster import Cluster, Costs
from benchmarks.stages import Waiting, WaitingStage
from lrt_dist.runtime.contract import DEFAULT_POLICY, ChainSpec, Done, StageSpec
from lrt_dist.runtime.scheduler import RayChains


def run(
    costs: Costs, *, tasks: int, batches: int, stages: int, replicas: int = 1, seed: int = 0
) -> tuple[float, Cluster, list[str]]:
    """Seconds from the first replica that runs to the last task, all of which must be done once."""
    cluster = Cluster(costs, seed)
    spec = ChainSpec((StageSpec(WaitingStage, cpus=1, gpus=0),) * stages, replicas)
    notes: list[str] = []
    with cluster.instead_of_ray():
        chains = RayChains(spec, DEFAULT_POLICY, notes.append, [float("inf")])
        chains.start()
        started = cluster.now
        names = []
        for outcome in chains.run(Waiting(f"task {n}", batches) for n in range(tasks)):
            assert isinstance(outcome, Done)
            names.append(outcome.task.key)
        assert sorted(names) == sorted(f"task {n}" for n in range(tasks))
        return cluster.now - started, cluster, notes


@pytest.mark.parametrize(("stages", "batches"), [(1, 1), (2, 1), (4, 4), (11, 1)])
def test_a_full_pipeline_takes_its_steps_and_no_more(stages: int, batches: int) -> None:
    """To a tenth of a second, which is what the scheduler itself computes meanwhile."""
    costs = Costs(load=5.0, open=0.1, write=1.4, step=0.7, call=0.0, waiting=0.0)
    seconds, *_ = run(costs, tasks=40, batches=batches, stages=stages)
    steps = 40 * batches + stages - 1
    assert seconds == pytest.approx(0.1 + 0.7 * steps + 1.4, abs=0.1)


def test_a_slow_driver_is_what_bounds_many_replicas() -> None:
    """Each task of one batch in one stage is three calls."""
    costs = Costs(load=1.0, open=0.0, write=0.0, step=0.1, call=0.1, waiting=0.0)
    seconds, cluster, _ = run(costs, tasks=100, batches=1, stages=1, replicas=8)
    assert 30.0 <= seconds <= 34.0
    assert cluster.driver >= 30.0


def test_what_dies_is_done_again() -> None:
    costs = Costs(0.5, 0.0, 0.0, 1.0, 0.0, 0.0, failing=100 / 3600)
    seconds, cluster, notes = run(costs, tasks=200, batches=1, stages=2, replicas=4)
    deaths = sum("died" in note for note in notes)
    assert deaths > 0
    assert len(cluster.chains) >= 4 + deaths
    assert seconds > 51.0  # 200 steps of 4 replicas, and one


def test_more_failures_cost_more() -> None:
    plain = Setting(gpus=16, tokens=3e7, rows=65_536)
    with index_of(100) as index:
        usual, often = (
            simulate(Setting(16, 3e7, 65_536, failing=hours), DriverCosts(0.0, 0.0), index)
            for hours in (float("inf"), 0.3)
        )
    assert usual.deaths == 0
    assert usual.redone == pytest.approx(0, abs=1e-9)
    assert often.deaths > 0
    assert often.redone > 1e-3
    assert often.goodput < usual.goodput <= 1
    assert usual.hours * 3600 >= plain.ideal()
