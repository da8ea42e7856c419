"""Stages of a chain that share a node, on a cluster of two."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray.cluster_utils
from scripted import AddingStage, Job

from lrt_dist.errors import NoPlaceError
from lrt_dist.runtime.contract import ChainSpec, Done, StageSpec
from lrt_dist.runtime.pool import RayRuntime

NODE = {"object_store_memory": 100 << 20, "include_dashboard": False}


class HomeStage(AddingStage):
    """Its receipt is its node's id."""

    def open(self, task: Job) -> None:
        """It does nothing."""

    def finish(self, key: str) -> str:
        node: str = ray.get_runtime_context().get_node_id()
        return node


def _homes(address: str, path: Path) -> None:
    """Writes down the nodes of four stages, of which every second one shares a node."""
    stages = [StageSpec(HomeStage, cpus=0.25, gpus=0, node=number % 2) for number in range(4)]
    with RayRuntime(address).chains(ChainSpec(tuple(stages), accumulates=True)) as chains:
        (done,) = chains.run([Job("where")])
    assert isinstance(done, Done)
    path.write_text(json.dumps(done.receipts))


def _refused(address: str, path: Path) -> None:
    """Writes down why a chain of two cores has no place beside one of one core."""
    runtime = RayRuntime(address)
    stage = StageSpec(HomeStage, cpus=1, gpus=0)
    with runtime.chains(ChainSpec((stage,))) as first:
        (done,) = first.run([Job("where")])
        assert isinstance(done, Done)
        larger = ChainSpec((replace(stage, cpus=2),), placement_timeout=3)
        with pytest.raises(NoPlaceError) as refused, runtime.chains(larger):
            pass
        path.write_text(str(refused.value))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[ray.cluster_utils.Cluster]:
    """A head without cores."""
    # Where workers find the stage.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    made = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    yield made
    made.shutdown()


def written(function: Callable[[str, Path], None], address: str, path: Path) -> str:
    """What a new process writes down, which knows nothing of this one's Ray."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=function, args=(address, path), daemon=True)
    process.start()
    process.join(100)
    assert process.exitcode == 0
    return path.read_text()


@pytest.mark.slow
def test_stages_that_share_a_node_are_on_one(
    cluster: ray.cluster_utils.Cluster, tmp_path: Path
) -> None:
    """And the others on another one, though one node would hold them all."""
    for _ in range(2):
        cluster.add_node(num_cpus=1, **NODE)
    homes = json.loads(written(_homes, cluster.address, tmp_path / "homes"))
    first, second, third, fourth = homes
    assert first == third
    assert second == fourth
    assert first != second


@pytest.mark.slow
def test_a_chain_does_not_wait_for_ever_for_a_node_that_its_own_driver_uses(
    cluster: ray.cluster_utils.Cluster, tmp_path: Path
) -> None:
    """The first chain is on the larger node, where Ray puts it; on the other one it would leave
    room."""
    for cpus in (1, 2):
        cluster.add_node(num_cpus=cpus, **NODE)
    message = written(_refused, cluster.address, tmp_path / "refused")
    assert "2 CPU needed, 2 free of 3" in message
    assert "the rest of this run has the nodes that would have room" in message
