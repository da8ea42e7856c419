"""What the machines have, asked before anything is placed on them."""

from __future__ import annotations

import torch

from lrt_dist.errors import LrtError
from lrt_dist.runtime.contract import Runtime

PATIENCE = 300


def gpu_memory(runtime: Runtime) -> int:
    """Bytes of memory of a GPU: the driver's own, else one of the cluster's. All GPUs of a cluster
    are taken to be alike.

    Raises:
        LrtError: no GPU of the cluster came free to be asked.
    """
    if torch.cuda.is_available():
        return _total()
    import ray

    asked = ray.remote(num_gpus=1, num_cpus=0)(_total).remote()
    try:
        total: int = ray.get(asked, timeout=PATIENCE)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(asked)
        raise LrtError(
            f"none of the cluster's {runtime.gpus:g} GPUs came free within {PATIENCE} s to be "
            "asked for its memory; wait for other jobs, or set cluster.stages"
        ) from error
    return total


def _total() -> int:
    return min(
        int(torch.cuda.get_device_properties(i).total_memory)
        for i in range(torch.cuda.device_count())
    )
