"""Which tasks solve the maps of a run, and where they have room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lrt_dist import api
from lrt_dist.clusterfile import DescribedMachines
from lrt_dist.commands._solving import Beginning, places_for, plan_solving, solve_needs, spread
from lrt_dist.errors import UserError
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import Needs
from lrt_dist.runtime.progress import Progress
from lrt_dist.sites import Direction
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.placement import task_needs

GIB = 1 << 30
WriteRun = Callable[..., Path]
UNLIKE = DescribedMachines(
    node_cpus=(64.0, 8.0),
    node_memory=(16.0 * GIB, 256.0 * GIB),
    node_gpus=(0.0, 0.0),
    bytes_of_gpu=0,
    flops_of_gpu=0.0,
    float64_of_gpu=0.0,
    storage=None,
    network=None,
)
"""One node with many cores, and one with much memory."""


@pytest.fixture
def run(write_run: WriteRun, tmp_path: Path) -> api.Run:
    """Two layers of each model."""
    config = load_run(write_run(cluster={"address": "auto"}))
    return api.Run(RunFolder(tmp_path / "out", config), Progress(), UNLIKE)


def test_tasks_are_cut_where_there_are_more_places() -> None:
    tasks = [Beginning(Direction.FORWARD, (layer,), (3, 4, 5)) for layer in (1, 2)]
    counts = [len(spread(tasks, places)) for places in (0, 1, 3, 4, 5, 6, 100)]
    assert counts == [2, 2, 2, 4, 4, 6, 6]
    for places in (1, 4, 100):
        cut = spread(tasks, places)
        for task in tasks:
            assert [e for t in cut if t.layers == task.layers for e in t.ends] == [3, 4, 5]


def test_a_task_gets_the_cores_of_a_node_that_has_its_memory(run: api.Run) -> None:
    assert task_needs(run, 8192, GIB) == Needs(cpus=16, memory=GIB)
    assert task_needs(run, 8192, 100 * GIB) == Needs(cpus=8, memory=100 * GIB)


def test_nodes_that_are_not_alike_have_room_each_for_its_own(run: api.Run) -> None:
    assert places_for(run, Needs(cpus=1, memory=GIB)) == 16 + 8
    assert places_for(run, Needs(cpus=8, memory=10 * GIB)) == 1 + 1
    assert places_for(run, Needs(cpus=16, memory=100 * GIB)) == 0


def test_more_places_take_less_time_as_long_as_there_are_ends(run: api.Run) -> None:
    """A core is as fast as before, and each task has as many."""
    needs = solve_needs(run)
    hours = []
    for cores in (1, 2, 4, 8):
        run.described = replace(UNLIKE, node_cpus=(float(cores),), node_memory=(256.0 * GIB,))
        assert solve_needs(run) == needs
        planned = plan_solving(run, 1e9 * cores)
        assert (planned.maps, planned.tasks) == (4, min(4, max(2, cores)))
        hours.append(planned.hours)
    assert hours[0] > hours[1] > hours[2] == pytest.approx(hours[3])


def test_what_no_described_node_has_room_for_is_refused(run: api.Run) -> None:
    run.described = replace(UNLIKE, node_memory=(1e6, 1e6))
    with pytest.raises(UserError, match=r"solves maps takes .* lower fit\.folds"):
        plan_solving(run, 1e9)
