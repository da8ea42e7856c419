"""What the machines have, asked before anything is placed on them."""

from __future__ import annotations

import torch

from lrt_dist.runtime.tasks import Runtime


def gpu_memory(runtime: Runtime) -> int:
    """Bytes of the smallest of the GPUs that could be asked."""
    if torch.cuda.is_available():
        return _total()
    import ray

    total: int = ray.get(ray.remote(num_gpus=1, num_cpus=0)(_total).remote())
    return total


def _total() -> int:
    return min(
        int(torch.cuda.get_device_properties(i).total_memory)
        for i in range(torch.cuda.device_count())
    )
