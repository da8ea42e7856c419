"""Nodes that go and come while a run extracts: real raylets, killed for good.

All actors have one core, so one thread: equal bits.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import ray.cluster_utils
from tiny_run import store_digests, wait_for, write_tiny_run

from lrt_dist import api
from lrt_dist.commands import _blocks_ahead, _rows
from lrt_dist.errors import IncompleteError
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import ChainSpec
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.runtime.scheduler import RayChains
from lrt_dist.tasks.moment_stage import BuildMomentStage

pytestmark = pytest.mark.slow

SMALL = {"object_store_memory": 100 << 20, "include_dashboard": False}


@pytest.fixture
def cluster() -> Iterator[ray.cluster_utils.Cluster]:
    """A head without cores; workers have one each."""
    made = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    yield made
    made.shutdown()


def worker(cluster: ray.cluster_utils.Cluster) -> Any:
    return cluster.add_node(num_cpus=1, **SMALL)


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> tuple[Path, dict[str, str]]:
    """A RUN file of some hundred units, its row index, and the digest of its stores."""
    folder = tmp_path_factory.mktemp("nodes")
    run_file = write_tiny_run(
        folder,
        tiny_source,
        tiny_target,
        sites={"min_context": 2},
        extract={"rows_per_unit": 8, "batch_tokens": 256},
    )
    with api.open_run(folder / "whole", load_run(run_file, ["concepts=[]"])) as run:
        api.index(run)
        api.extract(run)
    return run_file, store_digests(folder / "whole")


@pytest.fixture
def sharing() -> Iterator[ray.cluster_utils.Cluster]:
    """A cluster whose hidden states lie in its nodes' object stores, small as they are."""
    in_stores = {"_system_config": {"max_direct_call_object_size": 1000}}
    made = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, **SMALL, **in_stores}
    )
    yield made
    made.shutdown()


ONE_TILE, FOUR_TILES = "fit.tile_bytes=1GiB", "fit.tile_bytes=1"


@pytest.fixture(scope="module")
def unstored(
    reference: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, bytes]]]:
    """A RUN file, and its moments from one process, in one tile or in four."""
    run_file, _ = reference
    expected = {}
    for tiles in (ONE_TILE, FOUR_TILES):
        out = index_alone(run_file, tmp_path_factory.mktemp("unstored") / "out")
        _extract_in_small_blocks(str(out), str(run_file), "serial", tiles)
        expected[tiles] = moments(out)
    assert [len(of_tiles) for of_tiles in expected.values()] == [1, 4]
    return run_file, expected


class Extraction:
    """`lrt-dist extract`, in a process of its own, on a cluster."""

    def __init__(self, run_file: Path, out: Path, address: str, *settings: str) -> None:
        self.out = out
        with api.open_run(out, load_run(run_file, ["concepts=[]"])) as run:
            self.units = api.index(run).units
        command = [sys.executable, "-m", "lrt_dist.cli", "extract", str(run_file)]
        for setting in ("concepts=[]", f"cluster.address={address}", *settings):
            command += ["--set", setting]
        self.process = subprocess.Popen(
            [*command, "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, units: int) -> None:
        deadline = time.monotonic() + 300
        while self.done < units:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.005)

    @property
    def done(self) -> int:
        return commits(self.out)

    def end(self, timeout: float = 300) -> tuple[int, str]:
        text, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, text

    def notes(self, event: str) -> list[str]:
        lines = (self.out / "log.jsonl").read_text().splitlines()
        return [n["message"] for n in map(json.loads, lines) if n["event"] == event]


@pytest.mark.fault("a node is lost", "the other replicas go on at once: equal")
def test_a_node_that_is_lost_costs_what_it_was_working_on(
    cluster: ray.cluster_utils.Cluster, reference: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """The other replica goes on at once; it used to wait for 300 s beside it, and give up."""
    run_file, expected = reference
    _, lost = worker(cluster), worker(cluster)
    run = Extraction(run_file, tmp_path / "out", cluster.address, "cluster.replicas=2")
    run.wait_for(run.units // 4)
    cluster.remove_node(lost, allow_graceful=False)
    began, before = time.monotonic(), run.done
    run.wait_for(min(before + 10, 2 * run.units))
    assert time.monotonic() - began < 60
    code, text = run.end()
    assert code == 0, text
    assert store_digests(run.out) == expected
    assert any("a replica died" in note for note in run.notes("cluster"))


@pytest.mark.fault(
    "a node is lost, another joins, the first survivor is lost too",
    "the run ends on the newcomer: equal",
)
def test_a_node_that_joins_takes_over(
    cluster: ray.cluster_utils.Cluster, reference: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """One dies, another joins, and the first survivor dies too: the run ends on the newcomer."""
    run_file, expected = reference
    first, second = worker(cluster), worker(cluster)
    run = Extraction(run_file, tmp_path / "out", cluster.address, "cluster.replicas=2")
    run.wait_for(run.units // 4)
    cluster.remove_node(first, allow_graceful=False)
    worker(cluster)
    cluster.remove_node(second, allow_graceful=False)
    code, text = run.end()
    assert code == 0, text
    assert store_digests(run.out) == expected


@pytest.mark.fault(
    "the last node is lost", "exit 3 after `cluster.placement_timeout`; run again: equal"
)
def test_without_any_node_left_the_run_ends_and_can_be_taken_up(
    cluster: ray.cluster_utils.Cluster, reference: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    run_file, expected = reference
    only = worker(cluster)
    settings = ("cluster.replicas=1", "cluster.placement_timeout=5")
    run = Extraction(run_file, tmp_path / "out", cluster.address, *settings)
    run.wait_for(run.units // 4)
    cluster.remove_node(only, allow_graceful=False)
    code, text = run.end()
    assert code == 3, text
    assert "no replica is left" in " ".join(text.split())
    worker(cluster)
    code, text = Extraction(run_file, tmp_path / "out", cluster.address, *settings).end()
    assert code == 0, text
    assert store_digests(run.out) == expected


@pytest.mark.fault(
    "the driver on a cluster is killed with -9, at ten random moments", "run again: equal"
)
def test_a_driver_that_is_killed_at_ten_random_moments(
    cluster: ray.cluster_utils.Cluster,
    reference: tuple[Path, dict[str, str]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    run_file, expected = reference
    worker(cluster)
    chance = random.Random(0)
    run = Extraction(run_file, tmp_path / "out", cluster.address, "cluster.replicas=1")
    for units in sorted(chance.sample(range(1, 2 * run.units - 20), 10)):
        run.wait_for(units)
        time.sleep(chance.uniform(0, 0.2))
        run.process.kill()
        run.process.communicate()
        run = Extraction(run_file, run.out, cluster.address, "cluster.replicas=1")
    code, text = run.end()
    assert code == 0, text
    assert store_digests(run.out) == expected
    record_property("attempts", "1 for a unit that was committed, 1 more for what was in flight")


def _extract_in_small_blocks(out: str, run_file: str, address: str, tiles: str) -> None:
    """Nothing is stored; moments are kept after each of some ten blocks.

    Beside OUT lies the id of a process that holds moments, and of one that holds a model.
    """
    settings = [
        "concepts=[]",
        "extract.store=none",
        tiles,
        "cluster.placement_timeout=5",
        f"cluster.address={address}",
    ]
    plain = RayRuntime.chains

    @contextmanager
    def chains(runtime: RayRuntime, spec: ChainSpec, *more: Any) -> Iterator[RayChains]:
        with plain(runtime, spec, *more) as live:
            holds = isinstance(spec.stages[0].build, BuildMomentStage)
            path = Path(out).with_name("moments" if holds else "model")
            path.write_text(str(live.process_ids()[0][0]))
            yield live

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_rows, "ROWS_PER_PRODUCT", 43)
        # Else all are computed before the first is taken in.
        patched.setattr(_rows, "USUAL_ROWS", 64)
        patched.setattr(_blocks_ahead, "SOONEST", 0.0)
        patched.setattr(_blocks_ahead, "KEEPING", 0)
        patched.setattr(RayRuntime, "chains", chains)
        with api.open_run(out, load_run(run_file, settings)) as run:
            try:
                api.extract(run)
            except IncompleteError as error:
                print(error)
                sys.exit(error.exit_code)


def extracting(
    out: Path, run_file: Path, cluster: ray.cluster_utils.Cluster, tiles: str
) -> BaseProcess:
    """A new process, which knows nothing of what this one and its forks have of Ray."""
    arguments = (str(out), str(run_file), cluster.address, tiles)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_extract_in_small_blocks, args=arguments)
    process.start()
    return process


@pytest.mark.fault(
    "a node is lost while nothing is stored",
    "extraction goes on from the moments that were kept last, on the nodes that are left: equal",
)
@pytest.mark.parametrize(
    ("count", "tiles", "held"),
    [(3, ONE_TILE, "moments"), (3, ONE_TILE, "model"), (2, FOUR_TILES, "moments")],
)
def test_a_node_that_is_lost_with_what_nobody_stored(
    sharing: ray.cluster_utils.Cluster,
    unstored: tuple[Path, dict[str, dict[str, bytes]]],
    tmp_path: Path,
    count: int,
    tiles: str,
    held: str,
) -> None:
    """Moments and models have a node each, or both of two nodes hold moments of two tiles and a
    model; hidden states lie on all."""
    run_file, expected = unstored
    nodes = {raylet_of(node): node for node in (worker(sharing) for _ in range(count))}
    out = index_alone(run_file, tmp_path / "out")
    process = extracting(out, run_file, sharing, tiles)
    try:
        wait_for(process, lambda: commits(out) >= 20)
        moments_node, model_node = (
            parent_of(int((tmp_path / name).read_text())) for name in ("moments", "model")
        )
        assert count == 2 or moments_node != model_node
        lost = moments_node if held == "moments" else model_node
        sharing.remove_node(nodes[lost], allow_graceful=False)
        process.join(100)
    finally:
        process.kill()
    assert process.exitcode == 0
    assert moments(out) == expected[tiles]
    notes = (out / "log.jsonl").read_text()
    went_on = "goes on from what was kept last" in notes
    # A model's node may be lost with no state on it that was still wanted.
    assert went_on or (held == "model" and "a replica died" in notes)


@pytest.mark.fault(
    "the last node is lost while nothing is stored",
    "exit 3 after `cluster.placement_timeout`; run again: equal",
)
def test_without_any_node_left_what_was_kept_stays(
    sharing: ray.cluster_utils.Cluster,
    unstored: tuple[Path, dict[str, dict[str, bytes]]],
    tmp_path: Path,
) -> None:
    run_file, expected = unstored
    only = worker(sharing)
    out = index_alone(run_file, tmp_path / "out")
    process = extracting(out, run_file, sharing, FOUR_TILES)
    try:
        wait_for(process, lambda: commits(out) >= 20)
        sharing.remove_node(only, allow_graceful=False)
        process.join(100)
    finally:
        process.kill()
    assert process.exitcode == 3
    worker(sharing)
    process = extracting(out, run_file, sharing, FOUR_TILES)
    process.join(100)
    assert process.exitcode == 0
    assert moments(out) == expected[FOUR_TILES]


def _fit_in_small_blocks(out: str, run_file: str, address: str) -> None:
    """As `_extract_in_small_blocks`, of hidden states that are stored; four tiles are many."""
    settings = [
        "concepts=[]",
        FOUR_TILES,
        "cluster.placement_timeout=5",
        f"cluster.address={address}",
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_rows, "ROWS_PER_PRODUCT", 43)
        patched.setattr(_rows, "USUAL_ROWS", 64)
        patched.setattr(_blocks_ahead, "SOONEST", 0.0)
        patched.setattr(_blocks_ahead, "KEEPING", 0)
        patched.setattr("lrt_dist.plan.tiles.MANY_TILES", 4)
        patched.setattr("lrt_dist.commands._moments.MANY_TILES", 4)
        with api.open_run(out, load_run(run_file, settings)) as run:
            api.fit(run)


@pytest.mark.fault(
    "a node is lost that reads hidden states and holds moments",
    "the fit goes on from the moments that were kept last, on the nodes that are left: equal",
)
def test_a_node_that_is_lost_while_stores_are_read(
    sharing: ray.cluster_utils.Cluster, reference: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """Two nodes hold moments of two tiles each; what is left of them has room for all."""
    run_file, _ = reference
    for name in ("serial", "ray"):
        shutil.copytree(run_file.parent / "whole", tmp_path / name)
    _fit_in_small_blocks(str(tmp_path / "serial"), str(run_file), "serial")
    lost, _ = worker(sharing), worker(sharing)
    out = tmp_path / "ray"
    process = multiprocessing.get_context("spawn").Process(
        target=_fit_in_small_blocks, args=(str(out), str(run_file), sharing.address)
    )
    process.start()
    try:
        wait_for(process, lambda: len(list(out.glob("moments/*/*.kept"))) == 4)
        sharing.remove_node(lost, allow_graceful=False)
        process.join(100)
    finally:
        process.kill()
    assert process.exitcode == 0
    assert moments(out) == moments(tmp_path / "serial")
    assert "goes on from what was kept last" in (out / "log.jsonl").read_text()


def commits(out: Path) -> int:
    """Units that are committed, of both models together."""
    return len(list(out.glob("activations/*.ledger/unit-*.json")))


def index_alone(run_file: Path, out: Path) -> Path:
    """A run that is indexed; the same as the reference's."""
    whole = run_file.parent / "whole"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("activations"))
    return out


def raylet_of(node: Any) -> int:
    """Id of the process that starts those of a node."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def parent_of(pid: int) -> int:
    """Id of the process that started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def moments(out: Path) -> dict[str, bytes]:
    """Every byte of every tile, by its name."""
    found = {path.name: path.read_bytes() for path in out.glob("moments/*/*.safetensors")}
    assert found
    return found


@pytest.mark.fault("two runs start on one machine", "each has a cluster of its own, both finish")
def test_two_runs_on_one_machine_both_finish(
    reference: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """Each with a cluster of its own: `auto` does not join that of the other."""
    run_file, _ = reference
    runs = []
    for name in ("first", "second"):
        runs.append(Extraction(run_file, tmp_path / name, "auto", "cluster.replicas=1"))
        runs[-1].wait_for(1)
    for run in runs:
        code, text = run.end(600)
        assert code == 0, text
    assert store_digests(runs[0].out) == store_digests(runs[1].out)
