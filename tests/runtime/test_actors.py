"""What only real processes can show: stages apart, deaths, and resources that are not there."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from scripted import Build, Job, attempts, chain, keep_keys, one_by_one

from lrt_dist.errors import LostError, LrtError, NoPlaceError, NoReplicaError, UserError
from lrt_dist.runtime import pool
from lrt_dist.runtime.chain import Chain, bundles, fits_when_idle, nodes_alive
from lrt_dist.runtime.contract import (
    DEFAULT_POLICY,
    ChainSpec,
    Done,
    Failed,
    Needs,
    Runtime,
    Stage,
    StageSpec,
    StoppedError,
)
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.runtime.scheduler import RayChains


def test_stages_live_in_processes_of_their_own(ray_runtime: Runtime, tmp_path: Path) -> None:
    with ray_runtime.chains(chain(tmp_path)) as chains:
        (outcome,) = chains.run([Job("one")])
    assert isinstance(outcome, Done)
    pids = {pid for pid, _ in outcome.receipts}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_replicas_share_the_work(ray_runtime: Runtime, tmp_path: Path) -> None:
    with ray_runtime.chains(chain(tmp_path, ("first",), replicas=2)) as chains:
        outcomes = list(chains.run(Job(f"job{n}", writes=0.3) for n in range(99)))
    assert len({outcome.receipts[0][0] for outcome in outcomes if isinstance(outcome, Done)}) == 2


def test_a_dead_stage_takes_along_what_a_chain_accumulated(
    ray_runtime: Runtime, tmp_path: Path
) -> None:
    spec = replace(chain(tmp_path), accumulates=True)
    ended: list[str] = []
    jobs = [Job("a"), Job("fatal", faults={"second": "die"}), Job("b")]
    with (
        ray_runtime.chains(spec) as chains,
        pytest.raises(LostError, match=r"died with all that it held \(The actor died"),
    ):
        keep_keys(chains.run(one_by_one(jobs, ended)), ended)
    assert ended == ["a"]
    assert len(attempts(tmp_path, "fatal")) == 1


def test_stages_that_share_a_node_are_asked_for_together(tmp_path: Path) -> None:
    first = StageSpec(Build("first", tmp_path), cpus=0.5, gpus=1, node=0)
    alone = StageSpec(Build("alone", tmp_path), cpus=1, gpus=0)
    second = StageSpec(Build("second", tmp_path), cpus=0.25, gpus=1, memory=100, node=0)
    other = replace(second, node=1)
    assert bundles(ChainSpec((first, alone, second, alone, other))) == [
        {"CPU": 0.75, "GPU": 2, "memory": 100},
        {"CPU": 1},
        {"CPU": 1},
        {"CPU": 0.25, "GPU": 1, "memory": 100},
    ]


def test_a_chain_does_not_wait_for_what_its_own_driver_holds(
    ray_runtime: Runtime, tmp_path: Path
) -> None:
    """Of two cores, as beside another chain of this driver."""
    spec = ChainSpec((StageSpec(Build("first", tmp_path), cpus=1.5, gpus=0),))
    assert fits_when_idle(spec, [], nodes_alive())
    assert fits_when_idle(spec, [{"CPU": 0.5}], nodes_alive())
    assert not fits_when_idle(spec, [{"CPU": 0.5}, {"CPU": 0.5}], nodes_alive())


def test_a_chain_whose_nodes_are_gone_ends_otherwise_than_one_that_never_had_room(
    ray_runtime: Runtime, tmp_path: Path
) -> None:
    """With code 3: the same command goes on once there are nodes again."""
    spec = ChainSpec((StageSpec(Build("first", tmp_path), cpus=4, gpus=0),), placement_timeout=1)
    never = RayChains(spec, DEFAULT_POLICY, print, [float("inf")])
    with pytest.raises(NoPlaceError, match="4 CPU needed"):
        never.start()
    never.stop()
    seen = {"a node that was there": {"CPU": 4.0}}
    gone = RayChains(spec, DEFAULT_POLICY, print, [float("inf")], seen=seen)
    with pytest.raises(NoReplicaError, match=r"nodes are gone that had room.*4 CPU needed"):
        gone.start()
    gone.stop()


def test_a_task_needs_its_cores_and_its_memory_on_one_node(
    ray_runtime: RayRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would wait for ever."""
    monkeypatch.setattr(ray_runtime, "node_cpus", (64.0, 8.0))
    monkeypatch.setattr(ray_runtime, "node_memory", (2.0**34, 2.0**38))
    with pytest.raises(UserError, match=r"16 cores and 100\.0 GiB; .* 8 cores and 256\.0 GiB"):
        list(ray_runtime.map(abs, [1], Needs(cpus=16, memory=100 << 30)))


@ray.remote(num_cpus=2)
class Other:
    """Somebody else's actor, which takes all cores."""

    def there(self) -> bool:
        return True


def test_a_chain_gets_the_place_that_others_give_back(ray_runtime: Runtime, tmp_path: Path) -> None:
    """However long they had it; what is free is not placed at once."""
    other = Other.remote()  # type: ignore[attr-defined]
    assert ray.get(other.there.remote())
    ending = threading.Timer(4.0, ray.kill, [other])
    ending.start()
    spec = replace(chain(tmp_path), placement_timeout=1)
    with ray_runtime.chains(spec) as chains:
        (outcome,) = chains.run([Job("one")])
    assert isinstance(outcome, Done)


def test_a_chain_that_waits_for_a_place_ends_when_nobody_wants_it(
    ray_runtime: Runtime, tmp_path: Path
) -> None:
    spec = ChainSpec((StageSpec(Build("first", tmp_path), cpus=1000, gpus=0),))
    began = time.monotonic()
    with (
        pytest.raises(StoppedError),
        ray_runtime.chains(spec, lambda: time.monotonic() - began > 2),
    ):
        pass
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_dead_stage_is_replaced_and_its_tasks_done(
    ray_runtime: Runtime, tmp_path: Path, stage: str
) -> None:
    jobs = [Job("a"), Job("fatal", faults={stage: "die"}), Job("b"), Job("c")]
    with ray_runtime.chains(chain(tmp_path)) as chains:
        outcomes = list(chains.run(jobs))
    assert sorted(o.task.key for o in outcomes if isinstance(o, Done)) == ["a", "b", "c", "fatal"]
    assert len(attempts(tmp_path, "fatal")) >= 2


def test_a_stage_killed_from_outside_is_replaced(ray_runtime: Runtime, tmp_path: Path) -> None:
    with ray_runtime.chains(chain(tmp_path)) as chains:
        ((first, _),) = chains.process_ids()  # type: ignore[attr-defined]
        outcomes: list[Done[Job] | Failed[Job]] = []
        for outcome in chains.run(Job(f"job{n}") for n in range(6)):
            if not outcomes:
                os.kill(first, signal.SIGKILL)
            outcomes.append(outcome)
        ((again, _),) = chains.process_ids()  # type: ignore[attr-defined]
    assert sorted(o.task.key for o in outcomes if isinstance(o, Done)) == [
        f"job{n}" for n in range(6)
    ]
    assert again != first


@pytest.mark.slow
def test_a_task_that_kills_its_stage_every_time_is_given_up(
    ray_runtime: Runtime, tmp_path: Path
) -> None:
    jobs = [Job("poison", faults={"first": "die"}, times=99), Job("ok")]
    with ray_runtime.chains(chain(tmp_path, ("first",))) as chains:
        outcomes = {o.task.key: o for o in chains.run(jobs)}
    assert isinstance(outcomes["ok"], Done)
    assert not isinstance(outcomes["poison"], Done)


def test_resources_that_are_not_there_are_named(ray_runtime: Runtime, tmp_path: Path) -> None:
    stage = chain(tmp_path).stages[0]
    greedy = StageSpec(stage.build, cpus=64, gpus=2)
    with (
        pytest.raises(LrtError, match=r"64 CPU needed.* 2 GPU needed, 0 free of 0"),
        ray_runtime.chains(ChainSpec((greedy,), placement_timeout=1)),
    ):
        pass


@pytest.mark.slow
def test_what_is_stopped_while_it_is_placed_gives_its_resources_back(
    ray_runtime: Runtime, tmp_path: Path
) -> None:
    """Ray loses the resources of a placement group that is removed at that moment."""
    for _ in range(5):
        built = Chain(chain(tmp_path))
        ray.wait([built.placed])
        ray.get(built.build())
        built.stop()
        Chain(chain(tmp_path)).stop()
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_stage_that_cannot_be_built_says_why(ray_runtime: Runtime) -> None:
    def build() -> Stage:
        raise UserError("no such model")

    spec = ChainSpec((StageSpec(build, cpus=1, gpus=0),), placement_timeout=30)
    with pytest.raises(UserError, match=r"^no such model$"), ray_runtime.chains(spec):
        pass


def test_a_cluster_without_a_core_is_waited_for(
    ray_runtime: RayRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers join at the third look."""
    there, looks = ray_runtime.node_cpus, 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            ray_runtime.node_cpus = there

    monkeypatch.setattr(pool, "TICK", 0.01)
    monkeypatch.setattr(ray_runtime, "look", look)
    monkeypatch.setattr(ray_runtime, "node_cpus", (0.0,))
    assert list(ray_runtime.map(lambda number: -number, [-1, -2])) == [1, 2]
    assert looks == 3
    monkeypatch.setattr(pool, "PATIENCE", 0.05)
    monkeypatch.setattr(ray_runtime, "node_cpus", (0.0,))
    with pytest.raises(LrtError, match="none joined within"):
        list(ray_runtime.map(lambda number: -number, [-1]))
    ray_runtime.node_cpus = there
