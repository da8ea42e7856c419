"""What a fault costs: how often each task is tried, and which one is blamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import Job, attempts, chain

from lrt_dist.errors import DeviceMemoryError
from lrt_dist.runtime import scheduler
from lrt_dist.runtime.contract import Attempts, Done, FailurePolicy, Runtime
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.runtime.replica import credits


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def noting(ray_runtime: Runtime, notes: list[str]) -> RayRuntime:
    """Notes what happens."""
    return RayRuntime(note=notes.append)


def done(outcomes: Sequence[object]) -> list[str]:
    return sorted(o.task.key for o in outcomes if isinstance(o, Done))


@pytest.mark.fault(
    "a task kills its process every time, behind tasks that are still written",
    "alone in a replica it is the one to blame, and is given up; the others are done",
)
def test_a_poisonous_task_is_blamed_and_no_other(noting: RayRuntime, tmp_path: Path) -> None:
    """It dies behind tasks that are still being written, and in front of others."""
    innocent = [Job(f"slow{n}", writes=0.5) for n in range(3)] + [Job(f"ok{n}") for n in range(3)]
    jobs = [*innocent[:3], Job("poison", faults={"second": "die"}, times=99), *innocent[3:]]
    with noting.chains(chain(tmp_path)) as chains:
        outcomes = list(chains.run(jobs))
    assert done(outcomes) == sorted(job.key for job in innocent)
    # Once with others, then alone: the first attempt and two more.
    assert len(attempts(tmp_path, "poison")) == 4
    assert all(len(attempts(tmp_path, job.key)) <= 2 for job in innocent)


@pytest.mark.slow
def test_a_stage_that_hangs_is_replaced(
    ray_runtime: Runtime, tmp_path: Path, notes: list[str]
) -> None:
    jobs = [Job("a"), Job("stuck", faults={"second": "hang"}), Job("b")]
    impatient = RayRuntime(policy=FailurePolicy(stall=6.0), note=notes.append)
    with impatient.chains(chain(tmp_path)) as chains:
        outcomes = list(chains.run(jobs))
    assert done(outcomes) == ["a", "b", "stuck"]
    assert len(attempts(tmp_path, "stuck")) == 2
    assert any("a replica died" in note for note in notes)


@pytest.mark.slow
def test_a_stage_that_takes_long_behind_the_others_is_not_replaced(
    ray_runtime: Runtime, tmp_path: Path, notes: list[str]
) -> None:
    """In a chain that accumulates: the last stage is done at once, the first goes on."""
    impatient = RayRuntime(policy=FailurePolicy(stall=5.0), note=notes.append)
    spec = replace(chain(tmp_path), accumulates=True)
    with impatient.chains(spec) as chains:
        outcomes = list(chains.run([Job("long", batches=6, steps={"first": 2.0})]))
    assert done(outcomes) == ["long"]
    assert not notes


def test_a_sick_replica_is_built_anew_and_its_tasks_go_elsewhere(
    noting: RayRuntime, tmp_path: Path, notes: list[str]
) -> None:
    """As after a sticky device error: the process lives, and fails whatever it is given."""
    jobs = [Job("cause", faults={"first": "sicken"}), *(Job(f"job{n}") for n in range(30))]
    with noting.chains(chain(tmp_path, ("first",), replicas=2)) as chains:
        outcomes = list(chains.run(jobs))
    assert done(outcomes) == sorted(job.key for job in jobs)
    assert any("is built anew" in note for note in notes)
    assert all(len(attempts(tmp_path, job.key)) <= 3 for job in jobs)


@pytest.mark.fault(
    "others use the cluster's resources",
    "work begins with the replicas that find room",
)
def test_work_begins_with_the_first_replica(
    noting: RayRuntime, tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three fit; the third waits for a node that may come, and people are told."""
    monkeypatch.setattr(scheduler, "TELL_AFTER", 0.5)
    with noting.chains(chain(tmp_path, ("first", "second"), replicas=3)) as chains:
        assert len(done(list(chains.run(Job(f"job{n}") for n in range(8))))) == 8
        assert 1 <= len(chains.process_ids()) <= 2
    assert sum("of 3 replicas have no place so far" in note for note in notes) == 1


def test_the_busy_share_of_each_stage_is_known(noting: RayRuntime, tmp_path: Path) -> None:
    with noting.chains(chain(tmp_path)) as chains:
        list(chains.run([Job("one")]))
        ((first, second),) = chains.busy_shares()
    assert first is not None
    assert second is not None
    assert 0 < first <= 1


@pytest.mark.parametrize(
    ("stages", "replicas", "carry", "shared", "expected"),
    [
        (1, 1, 1 << 30, 1 << 30, 3),  # nothing is carried
        (4, 1, 0, 1 << 30, 9),  # small
        (4, 1, 1 << 20, 1 << 30, 9),  # all have room
        (11, 1, 128 << 20, 2 << 30, 8),  # in half of the store
        (11, 4, 128 << 20, 2 << 30, 2),
        (11, 4, 1 << 30, 2 << 30, 1),  # one always goes
    ],
)
def test_carries_on_the_way_have_room(
    stages: int, replicas: int, carry: int, shared: int, expected: int, tmp_path: Path
) -> None:
    spec = chain(tmp_path, tuple(f"stage{n}" for n in range(stages)), replicas)
    assert credits(replace(spec, carry_bytes=carry), shared) == expected


def test_tasks_that_run_out_of_memory_together_teach_one_halving() -> None:
    """They were on their way in batches of one size, and failed for one reason."""
    attempts = Attempts(FailurePolicy())
    together = [attempts.first(Job(f"together{n}")) for n in range(5)]
    again = [attempts.next_try(job, DeviceMemoryError("too large")) for job in together]
    assert [job.batches for job in again if job] == [4] * 5
    later = attempts.first(Job("later"))
    assert later.batches == 4
    smaller = attempts.next_try(later, DeviceMemoryError("still too large"))
    assert smaller is not None
    assert smaller.batches == 8
    assert attempts.first(Job("last")).batches == 8
