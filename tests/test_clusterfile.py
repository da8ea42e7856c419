"""A plan for machines that nobody has started."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lrt_dist import api
from lrt_dist.clusterfile import load_cluster
from lrt_dist.commands._ways import DRIVER_SECONDS
from lrt_dist.errors import UserError
from lrt_dist.runfile import load_run
from lrt_dist.runtime.progress import Progress
from lrt_dist.workspace.folder import RunFolder

CommandLine = Callable[..., tuple[int, str]]
WriteRun = Callable[..., Path]
TEN = Path(__file__).parent.parent / "cluster" / "ten-nodes.yaml"


def described(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


def test_a_cluster_of_nodes_that_are_alike() -> None:
    found = load_cluster(TEN)
    assert found.node_cpus == (96.0,) * 10
    assert found.node_memory == (float(1 << 40),) * 10
    assert (found.gpus, found.gpu_memory()) == (80.0, 80 * 10**9)
    assert (found.flops_of_gpu, found.storage, found.network) == (989e12, 10e9, 12.5e9)


def test_a_gpu_of_ones_own_and_none_at_all(tmp_path: Path) -> None:
    own = "{nodes: 1, cpus: 8, memory: 64GiB, gpus: 2, gpu: {memory: 12GiB, tflops: 50}}"
    found = load_cluster(described(tmp_path, own))
    assert (found.gpus, found.gpu_memory(), found.flops_of_gpu) == (2.0, 12 << 30, 50e12)
    found = load_cluster(described(tmp_path, "{nodes: 3, cpus: 8, memory: 64GiB}"))
    assert (found.gpus, found.node_cpus, found.storage) == (0.0, (8.0,) * 3, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{nodes: 1, cpus: 8}", "describes no cluster:\n  memory: missing"),
        (
            "{nodes: 1, cpus: 8, memory: 1GiB, gpu_count: 3}",
            "unknown key 'gpu_count'; did you mean",
        ),
        ("{nodes: 0, cpus: 8, memory: 1GiB}", "nodes: .*greater than or equal to 1"),
        ("{nodes: 1, cpus: 8, memory: much}", "memory: "),
        (
            "{nodes: 1, cpus: 8, memory: 1GiB, gpus: 1}",
            "gpu: None is none of A100-40GB, .*describe",
        ),
        ("{nodes: 1, cpus: 8, memory: 1GiB, gpus: 1, gpu: G80}", "'G80' is none of"),
        ("{nodes: 1, cpus: 8, memory: 1GiB, gpus: 1, gpu: {memory: 1GiB, flop: 1}}", "tflops"),
        ("[1]", "holds a list"),
    ],
)
def test_what_describes_no_cluster(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_cluster(described(tmp_path, text))


def test_a_run_is_planned_for_machines_that_are_not_there(
    write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    """With as many replicas as they hold; and what no GPU holds is refused."""
    run_file = write_run(cluster={"address": "auto", "stages": 2})
    out = ("--out", str(tmp_path / "out"))
    folder = RunFolder(tmp_path / "out", load_run(run_file))
    planned = api.plan(api.Run(folder, Progress(), load_cluster(TEN)))
    assert [(len(m.stages), m.replicas, m.device) for m in planned.models] == [(2, 40, "GPU")] * 2
    code, text = lrt_dist("plan", str(run_file), *out, "--cluster", str(TEN))
    assert code == 0, text
    assert "40% of 989 TFLOP/s for each GPU" in text
    assert re.search(r"batches of units of 64 rows cost \d\.\d\d tokens for each token", text)
    small = "{nodes: 1, cpus: 8, memory: 64GiB, gpus: 1, gpu: {memory: 100kB, tflops: 1}}"
    small_file = str(described(tmp_path, small))
    code, text = lrt_dist("plan", str(run_file), *out, "--cluster", small_file)
    assert code == 2
    assert re.search(r"in 2 stages needs .* on a GPU, which has 97\.7 KiB", " ".join(text.split()))
    assert not (tmp_path / "out").exists()


def test_what_cannot_all_run_at_once_is_said_and_refused(
    write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    """Two models and their moments need a process each, of 1 GiB and more."""
    machines = "{nodes: 1, cpus: 8, memory: 2500MiB}"
    run_file = write_run(cluster={"address": "auto"})
    folder = RunFolder(tmp_path / "out", load_run(run_file))
    small = described(tmp_path, machines)
    planned = api.plan(api.Run(folder, Progress(), load_cluster(small)))
    assert isinstance(planned.other, str)
    assert re.search(r"both models and the moments of 4 pairs .* 3 processes", planned.other)
    options = ("--out", str(tmp_path / "out"), "--set", "extract.store=none")
    code, text = lrt_dist("plan", str(run_file), *options, "--cluster", str(small))
    assert code == 2
    assert "Name fewer fit.pairs, use more or" in " ".join(text.split())
    large = described(tmp_path, machines.replace("2500MiB", "8GiB"))
    planned = api.plan(api.Run(folder, Progress(), load_cluster(large)))
    assert not isinstance(planned.other, str)
    assert (planned.other.processes, planned.other.read_bytes) == (1, 0)
    code, text = lrt_dist("plan", str(run_file), *options, "--cluster", str(large))
    assert code == 0, text
    assert "held while both models run, in 1 process of up to" in " ".join(text.split())


def test_stages_without_a_gpu_and_a_driver_that_is_busy(
    write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    """More stages than GPUs are refused, more replicas make nothing faster, and no unit takes less
    than the driver's part of it."""
    machines = "{nodes: 1, cpus: 8, memory: 64GiB, gpus: 1, gpu: H100}"
    described_file = described(tmp_path, machines)
    folder = RunFolder(tmp_path / "out", load_run(write_run(cluster={"address": "auto"})))
    planned = api.plan(api.Run(folder, Progress(), load_cluster(described_file)))
    assert all(model.hours == planned.units * DRIVER_SECONDS / 3600 for model in planned.models)
    slow = described(tmp_path, machines.replace("H100", "{memory: 80GiB, tflops: 1e-6}"))
    hours = []
    for replicas in (1, 2):
        config = load_run(write_run(cluster={"address": "auto", "replicas": replicas}))
        run = api.Run(RunFolder(tmp_path / "out", config), Progress(), load_cluster(slow))
        hours.append(api.plan(run).models.source.hours)
    assert hours[0] == pytest.approx(hours[1])
    assert hours[0] > planned.models.source.hours
    run_file = write_run(cluster={"address": "auto", "stages": 2})
    out = ("--out", str(tmp_path / "out"), "--cluster", str(described_file))
    code, text = lrt_dist("plan", str(run_file), *out)
    assert code == 2
    assert "2 stages, which take a GPU each, and 1 GPUs are described" in " ".join(text.split())


def test_a_corpus_without_a_site_is_told(
    write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    run_file = write_run(cluster={"address": "auto"})
    (run_file.parent / "corpus.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    out = ("--out", str(tmp_path / "out"))
    code, text = lrt_dist("plan", str(run_file), *out, "--cluster", str(TEN))
    assert code == 2
    assert "in the first 2 documents of the corpus" in " ".join(text.split())


def test_batches_that_are_too_small_are_told(
    write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    """Until they are as proposed; and a driver that reads a corpus takes its time."""
    run_file, out = write_run(cluster={"address": "auto"}), ("--out", str(tmp_path / "out"))
    values = ["extract.rows_per_unit=8192", "extract.batch_tokens=50"]
    folder = RunFolder(tmp_path / "out", load_run(run_file, values))
    planned = api.plan(api.Run(folder, Progress(), load_cluster(TEN)))
    better = planned.better["extract.batch_tokens"]
    assert better > 50
    assert planned.index_hours > 0
    advice = f"extract.batch_tokens: {better} would be better"
    options = ("--cluster", str(TEN), "--set", "extract.rows_per_unit=8192")
    code, text = lrt_dist("plan", str(run_file), *out, *options, "--set", "extract.batch_tokens=50")
    assert code == 0, text
    assert advice in " ".join(text.split())
    followed = ("--set", f"extract.batch_tokens={better}")
    code, text = lrt_dist("plan", str(run_file), *out, *options, *followed)
    assert code == 0, text
    assert "batch_tokens" not in text


def test_a_slow_network_takes_longer_where_nothing_is_stored(
    write_run: WriteRun, tmp_path: Path
) -> None:
    """Two nodes compute half of all states each, in bfloat16, and each wants the other half."""
    run_file = write_run(cluster={"address": "auto"}, extract={"store": "none"})
    ways = []
    for more in ("", ", network: 1MB"):
        machines = f"{{nodes: 2, cpus: 8, memory: 64GiB, gpus: 2, gpu: L4{more}}}"
        cluster = load_cluster(described(tmp_path, machines))
        folder = RunFolder(tmp_path / "out", load_run(run_file))
        ways.append(api.plan(api.Run(folder, Progress(), cluster)))
    fast, slow = (planned.way for planned in ways)
    states = 2 * ways[0].rows * (2 * 32 + 2 * 24)
    assert fast.received_bytes == slow.received_bytes == states // 2
    assert slow.hours * 3600 == pytest.approx(states / 2 / 1e6)
    assert fast.hours < slow.hours


def test_slow_storage_takes_longer_than_computing(
    write_run: WriteRun, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    machines = "{nodes: 1, cpus: 8, memory: 64GiB, gpus: 1, gpu: L4"
    texts = [
        lrt_dist(
            "plan",
            str(write_run(cluster={"address": "auto"})),
            *("--out", str(tmp_path / "out")),
            *("--cluster", str(described(tmp_path, machines + more))),
        )[1]
        for more in ("}", ", storage: 1kB}")
    ]
    totals = [text[text.index("all together") : text.index(" (40%")] for text in texts]
    assert totals[0] != totals[1]


def test_nodes_receive_the_layers_that_their_processes_want(
    write_run: WriteRun, tmp_path: Path
) -> None:
    """Each of four nodes has one of the four pairs, and computes a quarter of all states itself. Of
    two nodes each has two pairs, which share the layer of the wider model."""
    settings = ["fit.tile_bytes=1"]
    run_file = write_run(cluster={"address": "auto"}, extract={"store": "none"})
    for nodes, numbers in ((4, 32 + 24), (2, 32 + 2 * 24)):
        machines = f"{{nodes: {nodes}, cpus: 8, memory: 64GiB}}"
        cluster = load_cluster(described(tmp_path, machines))
        folder = RunFolder(tmp_path / "out", load_run(run_file, settings))
        planned = api.plan(api.Run(folder, Progress(), cluster))
        assert planned.way.processes == nodes
        received = planned.rows * 2 * numbers * (nodes - 1) // nodes
        assert planned.way.received_bytes == received


def test_one_model_on_both_sides_is_received_once(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path
) -> None:
    same = {"model": str(tiny_source), "layers": "all"}
    run_file = write_run(
        source=same, target=same, cluster={"address": "auto"}, extract={"store": "none"}
    )
    cluster = load_cluster(described(tmp_path, "{nodes: 2, cpus: 8, memory: 64GiB}"))
    folder = RunFolder(tmp_path / "out", load_run(run_file))
    planned = api.plan(api.Run(folder, Progress(), cluster))
    assert planned.way.received_bytes == planned.rows * 2 * 4 * 32 // 2


@pytest.mark.parametrize("store", ["zarr", "none"])
def test_one_model_on_both_sides_is_run_and_stored_once(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path, store: str
) -> None:
    """With the layers of both sides."""
    source, target = ({"model": str(tiny_source), "layers": [n, n + 1]} for n in (0, 1))
    extract = {"store": store, "rows_per_unit": 64}
    one = write_run(source=source, target=target, cluster={"address": "auto"}, extract=extract)
    cluster = load_cluster(described(tmp_path, "{nodes: 2, cpus: 8, memory: 64GiB}"))
    planned = api.plan(api.Run(RunFolder(tmp_path / "out", load_run(one)), Progress(), cluster))
    states = planned.rows if store == "zarr" else 3 * 64
    assert tuple(planned.way.stored_bytes) == (3 * (states * 32 * 2 + planned.rows * 4), 0)
    assert planned.way.replicas.target == 0
    assert store == "none" or planned.way.extraction_hours.target == 0


@pytest.mark.parametrize("store", ["zarr", "none"])
def test_weights_are_loaded_from_slow_storage(
    write_run: WriteRun, tmp_path: Path, store: str
) -> None:
    """By each replica, before it can do anything."""
    run_file = write_run(cluster={"address": "auto"}, extract={"store": store})
    machines = "{nodes: 1, cpus: 8, memory: 64GiB, gpus: 3, gpu: L4, storage: 1kB}"
    cluster = load_cluster(described(tmp_path, machines))
    planned = api.plan(
        api.Run(RunFolder(tmp_path / "out", load_run(run_file)), Progress(), cluster)
    )
    weights = [
        model.replicas * sum(stage.weight_bytes for stage in model.stages)
        for model in planned.models
    ]
    if store == "zarr":
        expected = [(w + s) / 1e3 for w, s in zip(weights, planned.way.stored_bytes, strict=True)]
        found = [hours * 3600 for hours in planned.way.extraction_hours]
        assert found == pytest.approx(expected)
    else:
        assert planned.way.hours * 3600 > sum(weights) / 1e3
