"""One contract for both runtimes: what they promise, faults included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import (
    Adding,
    AddingOwn,
    AddingStage,
    Job,
    ThereAndBack,
    TwoLanes,
    attempts,
    bracket,
    chain,
    echo,
    keep_keys,
    one_by_one,
    reciprocal,
    total,
)

from lrt_dist.errors import CorruptionError, LostError, LrtError
from lrt_dist.runtime.contract import (
    ChainSpec,
    Done,
    Failed,
    Node,
    Runtime,
    StageSpec,
    StoppedError,
)
from lrt_dist.runtime.serial import SerialRuntime


@pytest.fixture(params=["serial", "ray"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    if request.param == "serial":
        return SerialRuntime()
    ray: Runtime = request.getfixturevalue("ray_runtime")
    return ray


def run(runtime: Runtime, notes: Path, jobs: list[Job], **options: Any) -> dict[str, Any]:
    with runtime.chains(chain(notes, **options)) as chains:
        outcomes = list(chains.run(jobs))
    assert len(outcomes) == len({o.task.key for o in outcomes}), "a task ended twice"
    return {outcome.task.key: outcome for outcome in outcomes}


def test_every_batch_goes_through_every_stage_in_order(runtime: Runtime, tmp_path: Path) -> None:
    jobs = [Job(f"job{n}", batches=n + 1) for n in range(5)]
    outcomes = run(runtime, tmp_path, jobs)
    assert outcomes.keys() == {job.key for job in jobs}
    for job in jobs:
        (_, first), (_, second) = outcomes[job.key].receipts
        assert first == [["first"]] * job.batches
        assert second == [["first", "second"]] * job.batches
        assert len(attempts(tmp_path, job.key)) == 1


def test_a_carry_that_turns_back_passes_every_stage_again(runtime: Runtime, tmp_path: Path) -> None:
    """As gradients do; the last stage sees each batch once."""
    job = ThereAndBack("back", batches=2)
    outcome = run(runtime, tmp_path, [job], stages=("first", "second", "third"))["back"]
    (_, first), (_, second), (_, third) = outcome.receipts
    there = ["first", "second", "third"]
    assert first == [there[:1], [*there, "second", "first"]] * 2
    assert second == [there[:2], [*there, "second"]] * 2
    assert third == [there] * 2


def test_a_batch_goes_on_where_an_earlier_one_ended(runtime: Runtime, tmp_path: Path) -> None:
    """As generated tokens do; faults included."""
    job = TwoLanes("lanes", batches=5, faults={"second": "transient"})
    outcome = run(runtime, tmp_path, [job])["lanes"]
    (_, first), (_, second) = outcome.receipts
    there = ["first", "second"]
    assert second == [there * rounds for rounds in (1, 1, 2, 2, 3)]
    assert first == [way[:-1] for way in second]
    assert len(attempts(tmp_path, "lanes")) == 2


def test_no_tasks_is_no_work(runtime: Runtime, tmp_path: Path) -> None:
    assert run(runtime, tmp_path, []) == {}


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_transient_error_is_tried_again(runtime: Runtime, tmp_path: Path, stage: str) -> None:
    jobs = [Job("ok"), Job("shaky", faults={stage: "transient"}, times=2)]
    outcomes = run(runtime, tmp_path, jobs)
    assert all(isinstance(outcome, Done) for outcome in outcomes.values())
    assert len(attempts(tmp_path, "shaky")) == 3
    assert outcomes["shaky"].receipts[1][1] == [["first", "second"]] * 2  # nothing left over


def test_an_error_that_stays_gives_the_task_up(runtime: Runtime, tmp_path: Path) -> None:
    jobs = [Job("bad", faults={"second": "transient"}, times=99), Job("ok")]
    outcomes = run(runtime, tmp_path, jobs)
    assert isinstance(outcomes["bad"], Failed)
    assert "the network blinked" in outcomes["bad"].reason
    assert isinstance(outcomes["ok"], Done)
    assert len(attempts(tmp_path, "bad")) == 3  # the first one and two more


def test_a_bad_unit_is_not_tried_again(runtime: Runtime, tmp_path: Path) -> None:
    outcomes = run(runtime, tmp_path, [Job("bad", faults={"first": "unit"}, times=99), Job("ok")])
    assert "bad is not finite" in outcomes["bad"].reason
    assert isinstance(outcomes["ok"], Done)
    assert len(attempts(tmp_path, "bad")) == 1


def test_without_memory_the_batches_get_smaller(runtime: Runtime, tmp_path: Path) -> None:
    outcomes = run(runtime, tmp_path, [Job("big", faults={"second": "memory"})])
    assert outcomes["big"].task.batches == 4
    assert len(outcomes["big"].receipts[1][1]) == 4


def test_what_cannot_get_smaller_is_given_up(runtime: Runtime, tmp_path: Path) -> None:
    job = Job("huge", batches=2, faults={"first": "memory"}, times=99)
    outcomes = run(runtime, tmp_path, [job, Job("ok")])
    assert "too large" in outcomes["huge"].reason
    assert len(attempts(tmp_path, "huge")) == 3  # 2, 4 and 8 batches


def test_a_fatal_error_ends_the_run_at_once(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(CorruptionError, match="the disk lies"):
        run(runtime, tmp_path, [Job("bad", faults={"first": "fatal"})])
    assert len(attempts(tmp_path, "bad")) == 1


@pytest.mark.fault(
    "three units in a row fail, before any went through",
    "the run stops: something is wrong with all of them",
)
def test_many_failures_in_a_row_end_the_run(runtime: Runtime, tmp_path: Path) -> None:
    jobs = [Job(f"bad{n}", faults={"first": "unit"}, times=99) for n in range(9)]
    with pytest.raises(LrtError, match="3 tasks in a row failed"):
        run(runtime, tmp_path, jobs)
    assert len(list(tmp_path.iterdir())) < 9


@pytest.mark.fault(
    "ten units in a row fail, later",
    "the run stops",
)
def test_many_failures_after_a_success_are_a_bad_part_of_the_corpus(
    runtime: Runtime, tmp_path: Path
) -> None:
    bad = [Job(f"bad{n}", faults={"first": "unit"}, times=99) for n in range(3)]
    with runtime.chains(chain(tmp_path)) as chains:
        assert isinstance(next(iter(chains.run([Job("ok")]))), Done)
    outcomes = run(runtime, tmp_path, [Job("ok"), *(Job(f"ok{n}") for n in range(9)), *bad])
    assert sum(isinstance(outcome, Failed) for outcome in outcomes.values()) == 3


def test_what_was_given_up_before_may_be_given_up_again(runtime: Runtime, tmp_path: Path) -> None:
    """A run with nothing left but quarantined units comes to its end."""
    jobs = [
        Job(f"bad{n}", faults={"first": "unit"}, times=99, given_up_before=True) for n in range(5)
    ]
    outcomes = run(runtime, tmp_path, jobs)
    assert all(isinstance(outcome, Failed) for outcome in outcomes.values())
    assert len(outcomes) == 5


def test_what_memory_wants_is_learned(runtime: Runtime, tmp_path: Path) -> None:
    """Later tasks are begun with the batches that an earlier one needed."""
    jobs = [Job("first", faults={"first": "memory"}), *(Job(f"later{n}") for n in range(9))]
    outcomes = run(runtime, tmp_path, jobs, stages=("first",))
    assert outcomes["first"].task.batches == 4
    assert len(attempts(tmp_path, "first")) == 2
    assert outcomes["later8"].task.batches == 4
    assert all(len(attempts(tmp_path, job.key)) == 1 for job in jobs[1:])


@pytest.mark.fault(
    "a worker lacks a file that the driver has",
    "tried again, elsewhere if it can be; not the user's error",
)
def test_what_a_worker_lacks_is_not_the_users_error(runtime: Runtime, tmp_path: Path) -> None:
    outcomes = run(runtime, tmp_path, [Job("shaky", faults={"first": "worker"}), Job("ok")])
    assert all(isinstance(outcome, Done) for outcome in outcomes.values())
    assert len(attempts(tmp_path, "shaky")) == 2


def test_what_a_chain_leaves_another_one_takes(runtime: Runtime, tmp_path: Path) -> None:
    """The driver has handles alone; the processes that made it may be gone."""
    jobs = [Job("four", leaves=1000), Job("fives", leaves=10)]
    with runtime.chains(chain(tmp_path, leaves=True)) as chains:
        left = [outcome for outcome in chains.run(jobs) if isinstance(outcome, Done)]
    assert [set(outcome.contents) for outcome in left] == [{"first", "second"}] * 2
    contents = [handle for outcome in left for handle in outcome.contents.values()]
    assert [len(receipt) for outcome in left for receipt in outcome.receipts] == [2] * 4
    adding = ChainSpec((StageSpec(AddingStage, cpus=0.5, gpus=0),), placement_timeout=60)
    with runtime.chains(adding) as chains:
        adds: list[Job] = [Adding("sum", left=tuple(contents))]
        outcomes = [outcome for outcome in chains.run(adds) if isinstance(outcome, Done)]
    assert [done.receipts for done in outcomes] == [[2 * (4 * 1000 + 5 * 10)]]


def test_a_task_brings_every_stage_something_of_its_own(runtime: Runtime, tmp_path: Path) -> None:
    with runtime.chains(chain(tmp_path, ("first",), leaves=True)) as chains:
        left = {
            done.task.key: done.contents["first"]
            for done in chains.run([Job("four", leaves=1000), Job("fives", leaves=10)])
            if isinstance(done, Done)
        }
    stage = StageSpec(AddingStage, cpus=0.5, gpus=0)
    with runtime.chains(ChainSpec((stage, stage), placement_timeout=60)) as chains:
        adds: list[Job] = [AddingOwn("sum", left=(left["four"], left["fives"]))]
        (done,) = chains.run(adds)
    assert isinstance(done, Done)
    assert done.receipts == [4 * 1000, 5 * 10]


def test_a_task_that_is_not_there_yet_is_asked_for_again(runtime: Runtime, tmp_path: Path) -> None:
    """Here each of three comes when the one before it has ended, as if another thread made it."""
    ended: list[str] = []
    jobs = [Job(f"job{number}", batches=1) for number in range(3)]
    with runtime.chains(chain(tmp_path)) as chains:
        for outcome in chains.run(one_by_one(jobs, ended)):
            ended.append(outcome.task.key)
            assert len(attempts(tmp_path, f"job{len(ended)}")) == 0
    assert ended == ["job0", "job1", "job2"]


def test_what_nobody_wants_any_more_ends(runtime: Runtime, tmp_path: Path) -> None:
    """Also while the next task is not there yet."""
    ended: list[str] = []

    def tasks() -> Iterator[Job | None]:
        yield Job("first")
        while True:
            yield None

    stopped = runtime.chains(chain(tmp_path), lambda: len(ended) == 1)
    with stopped as chains, pytest.raises(StoppedError):
        keep_keys(chains.run(tasks()), ended)
    assert ended == ["first"]


@pytest.mark.fault(
    "a task fails in a chain that accumulates",
    "nothing is tried again there: what it holds is lost",
)
@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("transient", LostError, r"bad failed \(RuntimeError: the network blinked\)"),
        ("fatal", CorruptionError, "the disk lies"),
    ],
)
def test_what_was_accumulated_is_lost_with_a_task(
    runtime: Runtime, tmp_path: Path, fault: str, error: type[Exception], message: str
) -> None:
    """An error on purpose says more than that."""
    spec = replace(chain(tmp_path), accumulates=True)
    ended: list[str] = []
    jobs = [Job("good"), Job("bad", faults={"second": fault}), Job("late")]
    with runtime.chains(spec) as chains, pytest.raises(error, match=message):
        keep_keys(chains.run(one_by_one(jobs, ended)), ended)
    assert ended == ["good"]
    assert len(attempts(tmp_path, "bad")) == 1


def test_map_keeps_the_order(runtime: Runtime) -> None:
    arguments = range(1, 21)
    assert list(runtime.map(reciprocal, arguments)) == [1 / n for n in arguments]


def test_map_raises_what_was_raised(runtime: Runtime) -> None:
    with pytest.raises(ZeroDivisionError):
        list(runtime.map(reciprocal, [1, 0]))


def test_reduce_merges_in_one_fixed_tree(runtime: Runtime) -> None:
    trees = [[Node(0, f"{n}") for n in range(count)] for count in (1, 2, 5, 7)]
    made: list[int] = []
    roots = runtime.reduce(echo, bracket, trees, on_leaf=lambda: made.append(1))
    assert list(roots) == [
        "0",
        "(0 1)",
        "(((0 1) (2 3)) 4)",
        "(((0 1) (2 3)) ((4 5) 6))",
    ]
    assert len(made) == 15


def test_a_tree_that_goes_on_is_the_same_tree(runtime: Runtime) -> None:
    nodes = [Node(2, "((0 1) (2 3))"), Node(0, "4"), Node(0, "5"), Node(0, "6")]
    assert list(runtime.reduce(echo, bracket, [nodes])) == ["(((0 1) (2 3)) ((4 5) 6))"]


def test_reduce_raises_what_was_raised(runtime: Runtime) -> None:
    with pytest.raises(ZeroDivisionError):
        list(runtime.reduce(reciprocal, total, [[Node(0, 1), Node(0, 0)]]))
