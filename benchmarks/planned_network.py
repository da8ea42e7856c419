"""What nodes receive of hidden states on their way into moments, beside what `lrt-dist plan` says.

`planned_network` is without stores, `planned_network_once` where stores are read. Four nodes on
this machine, with an object store of their own each; two models with random weights and four layers
each, and the moments of all sixteen pairs. What came into all object stores, without what models or
readers put there, is what went from node to node. The plan says what the node with the most
receives; here all want as much.

`python -m benchmarks.planned_network FOLDER STORE ADDRESS` is the run, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from benchmarks.harness import Result, result, versions
from benchmarks.random_llama import begin_again, config_of, save_pair
from lrt_dist.commands._moments import fitted_units, moments, moments_fingerprint
from lrt_dist.commands.extract import extract
from lrt_dist.commands.index import index
from lrt_dist.commands.plan import plan
from lrt_dist.plan.cost import NUMBER_BYTES
from lrt_dist.workspace.run import Run, open_run

WIDTHS = {"source": 384, "target": 768}
LAYERS, NODES = 4, 4
ROWS, QUICK_ROWS = 40_000, 10_000
STORES = {"planned_network": "none", "planned_network_once": "zarr"}
TARGET = 1.1
NODE = {"num_cpus": 1, "object_store_memory": 400 << 20}


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """See the module."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_pair(folder, WIDTHS, layers=LAYERS, rows=QUICK_ROWS if quick else ROWS)
        with _opened(folder, "indexed", "serial") as run:
            rows, number_bytes = index(run).rows, NUMBER_BYTES[run.config.extract.store_dtype]
            made = rows * LAYERS * sum(WIDTHS.values()) * number_bytes
        rounds = range(1 if quick else 3)
        runs = {name: [_received(folder, STORES[name], made) for _ in rounds] for name in names}
    setting = {"rows": rows, "nodes": NODES, "setting": versions("torch", "ray")}
    return [
        result(name, [run | setting for run in runs[name]], TARGET, higher_is_better=False)
        for name in names
    ]


def _received(folder: Path, store: str, made: int) -> dict[str, float]:
    """
    Args:
        made: bytes of all hidden states.
    """
    begin_again(folder / "indexed", folder / store)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    try:
        for _ in range(NODES):
            cluster.add_node(**NODE)
        this = [sys.executable, "-m", "benchmarks.planned_network"]
        command = [*this, str(folder), store, cluster.address]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        ray.init(cluster.address, logging_level="ERROR")
        nodes = [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes()]
        stores = [node_stats(*node, include_memory_info=False).store_stats for node in nodes]
        received = sum(store.cumulative_created_bytes for store in stores) - made
    finally:
        ray.shutdown()
        cluster.shutdown()
    planned = NODES * int(printed.split()[-1])
    everything = (NODES - 1) * made
    return {
        "received_bytes": received,
        "planned_bytes": planned,
        "all_to_all_bytes": everything,
        "ratio": received / planned,
    }


@contextmanager
def _opened(folder: Path, out: str, address: str) -> Iterator[Run]:
    store = out if out in STORES.values() else "zarr"
    config = config_of(folder, address=address, extract={"store": store}, fit={"tile_bytes": 1})
    with open_run(folder / out, config) as run:
        yield run


def _go(folder: Path, store: str, address: str) -> None:
    """From the models to the moments; prints what the plan says that a node receives."""
    with _opened(folder, store, address) as run:
        planned = plan(run).way.received_bytes
        extract(run)
        records = fitted_units(run.folder)
        moments(run, records, moments_fingerprint(run.folder, records))
    print(planned)


if __name__ == "__main__":
    _go(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
