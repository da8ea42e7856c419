"""A hidden state from one stage's process to the next one's, as an array over as a tensor.

128 MiB in bfloat16: 8,192 tokens of a model of width 8,192. Put into Ray's object store by this
process, taken out by an actor, until it lies in memory that may be written to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
import torch

from benchmarks.harness import Result, result, versions
from lrt_dist.runtime.carry import packed, unpacked

TARGET = 0.6


@ray.remote(num_cpus=1)
class _Receiver:
    def receive(self, carry: Any) -> float:
        return float(unpacked(carry)[0, 0, 0])


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """In turn, in one cluster."""
    hidden = torch.randn(4, 64, 256) if quick else torch.randn(16, 512, 8192)
    hidden = hidden.bfloat16()
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        receiver = _Receiver.remote()  # type: ignore[attr-defined]
        rounds = []
        for _ in range(3 if quick else 11):
            times = []
            for carry in (packed(hidden), hidden):
                began = time.perf_counter()
                ray.get(receiver.receive.remote(ray.put(carry)))
                times.append(time.perf_counter() - began)
            rounds.append(times)
    finally:
        ray.shutdown()
    setting = f"{hidden.nbytes:,} bytes; " + versions("ray", "torch")
    runs = [
        {"array": array, "tensor": tensor, "ratio": array / tensor, "setting": setting}
        for array, tensor in rounds[1:]
    ]
    return [result(name, runs, TARGET, higher_is_better=False) for name in names]
