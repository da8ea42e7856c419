"""A job over several nodes: sent to a job server, a node killed and another joined, nothing shared
but an object store.

Every node is a set of processes of its own, the job server and the object store are spoken to over
HTTP, and the run is watched from outside all the while.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray.cluster_utils
import torch
from local_s3 import s3_bucket, s3_keys, s3_objects
from tiny_run import start, write_tiny_run

from lrt_dist import api
from lrt_dist.runfile import load_run

pytestmark = pytest.mark.slow
CommandLine = Callable[..., tuple[int, str]]
BUCKET = "jobs"
VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ALLOW_HTTP",
    "OMP_NUM_THREADS",
)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # On a cluster's nodes the package is installed, so its script is found.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    with s3_bucket(BUCKET) as url:
        yield url


@pytest.fixture
def cluster(bucket: str) -> Iterator[tuple[ray.cluster_utils.Cluster, str]]:
    """A head that computes nothing, with a job server; and the server's address."""
    port = _free_port()
    made = ray.cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            # Jobs are sent through the head's agent; another cluster here may have the usual port.
            "dashboard_agent_listen_port": _free_port(),
        },
    )
    yield made, f"http://127.0.0.1:{port}"
    made.shutdown()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def disk() -> Iterator[Callable[[], str]]:
    """A new folder for temporary files at each call, as each machine has its own: in one that they
    share, Ray unpacks a job's files anew for each node, under the eyes of the others."""
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp"
    ) as folder:  # sockets' paths are short
        numbers = itertools.count()

        def another() -> str:
            made = Path(folder) / str(next(numbers))
            made.mkdir()
            return str(made)

        yield another


@pytest.mark.fault(
    "a job's node is lost, nothing shared but an object store; another joins",
    "the job ends by itself: equal",
)
def test_a_job_over_several_nodes_outlives_one_of_them(
    cluster: tuple[ray.cluster_utils.Cluster, str],
    disk: Callable[[], str],
    bucket: str,
    tmp_path: Path,
    tiny_source: Path,
    tiny_target: Path,
    lrt_dist: CommandLine,
) -> None:
    """Same shapes, machine and threads: the stores' bytes are those of a run in one process."""
    nodes, address = cluster
    workers = [nodes.add_node(num_cpus=1, temp_dir=disk()) for _ in range(2)]
    run_file = write_tiny_run(
        tmp_path,
        tiny_source,
        tiny_target,
        cluster={"address": "auto"},
        extract={"rows_per_unit": 16, "batch_tokens": 256},
        # As people write it, and as it must be to go along: relative to the file.
        corpus={"paths": ["corpus.jsonl"], "max_tokens": 48},
        concepts=[{"name": "mood", "data": "mood.jsonl"}],
    )
    out = f"{bucket}/run"
    command = ["submit", str(run_file), "--address", address, "--out", out]
    for name in VARIABLES:
        command += ["--env", name]
    job = start(*command)
    seen: list[str] = []

    def wait_for(units: int) -> None:
        while True:
            assert job.poll() is None, job.communicate()[0]
            done = sum(".ledger/unit-" in key for key in s3_keys(BUCKET))
            if done:
                seen.append(lrt_dist("status", out)[1])
            if done >= units:
                return
            time.sleep(0.5)

    wait_for(5)
    nodes.remove_node(workers[0], allow_graceful=False)
    wait_for(20)
    nodes.add_node(num_cpus=1, temp_dir=disk())
    log, _ = job.communicate(timeout=900)
    print(log)  # shown by `pytest -s`: the log that docs/faults.md speaks of
    assert job.returncode == 0, log
    assert "sent as raysubmit_" in log
    assert '"event": "progress", "phase": "extract tiny-llama"' in log
    assert f"report: {out}/report.html" in log
    assert "a replica died" in log
    assert len(set(seen)) > 1
    assert all("row index done" in text for text in seen)

    again = start(*command)
    log, _ = again.communicate(timeout=300)
    assert again.returncode == 0, log
    assert '"phase": "extract' not in log, "there was nothing left to extract"

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with api.open_run(
        tmp_path / "one", load_run(run_file, ["concepts=[]", "cluster.address=serial"])
    ) as run:
        api.index(run)
        api.extract(run)
    torch.set_num_threads(threads)
    folder = tmp_path / "one"
    there = {
        key.removeprefix("run/"): content
        for key, content in s3_objects(BUCKET, "run/activations/").items()
        if ".zarr/" in key
    }
    here = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.glob("activations/*.zarr/**/*")
        if p.is_file()
    }
    assert there.keys() == here.keys()
    assert not [name for name in here if here[name] != there[name]]
    # In a process of its own: here `auto` may be a cluster that cannot open the bucket.
    verified = start("verify", out)
    log, _ = verified.communicate(timeout=300)
    assert verified.returncode == 0, log


def test_a_job_that_fails_leaves_its_exit_code(
    cluster: tuple[ray.cluster_utils.Cluster, str],
    disk: Callable[[], str],
    bucket: str,
    tmp_path: Path,
    tiny_source: Path,
    tiny_target: Path,
) -> None:
    """2 of a wrong input; and Ctrl-C leaves the job alone."""
    nodes, address = cluster
    nodes.add_node(num_cpus=1, temp_dir=disk())
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_target, cluster={"address": "auto"})
    command = ["submit", str(run_file), "--address", address, "--out", f"{bucket}/second"]
    wrong = start(*command, "--set", "corpus.paths=[/no/such/file.txt]")
    log, _ = wrong.communicate(timeout=120)
    assert wrong.returncode == 2, log
    assert "no file matches /no/such/file.txt" in log

    watched = start(*command, *(a for name in VARIABLES for a in ("--env", name)))
    while not s3_keys(BUCKET, "second/rows"):
        assert watched.poll() is None, watched.communicate()[0]
        time.sleep(0.5)
    os.kill(watched.pid, signal.SIGINT)
    log, _ = watched.communicate(timeout=30)
    assert watched.returncode == 3, log
    assert "no longer followed; the job goes on" in log
    id = log.partition("sent as ")[2].split()[0]
    asked = [sys.executable, "-m", "ray.scripts.scripts", "job", "status", "--address", address, id]
    state = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "RUNNING" in state, state
