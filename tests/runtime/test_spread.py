"""Stages of a chain that share a node, on a cluster of two."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import ray.cluster_utils
from scripted import AddingStage, Job

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


@pytest.mark.slow
def test_stages_that_share_a_node_are_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others on another one, though one node would hold them all."""
    # Where workers find the stage.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    cluster = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, **NODE}
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **NODE)
        arguments = (cluster.address, tmp_path / "homes")
        process = multiprocessing.get_context("spawn").Process(target=_homes, args=arguments)
        process.start()
        process.join(100)
    finally:
        cluster.shutdown()
    assert process.exitcode == 0
    first, second, third, fourth = json.loads((tmp_path / "homes").read_text())
    assert first == third
    assert second == fourth
    assert first != second
