"""What the machines have, asked before anything is placed on them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

WIDTH = 2048
"""Of the matrices whose product is timed: 17 GFLOP."""


def smallest_gpu() -> int:
    """Bytes of memory of the smallest GPU of this machine."""
    return min(
        int(torch.cuda.get_device_properties(i).total_memory)
        for i in range(torch.cuda.device_count())
    )


@dataclass(frozen=True)
class Float64Products:
    """How a float64 product is done here.

    Attributes:
        gpu: operations a second of this process's GPU.
        core: operations a second of one core.
        difference: of the two products, over their largest number.
    """

    gpu: float
    core: float
    difference: float


def float64_products(device: str) -> Float64Products:
    """Time one product on a device and on the cores that this process has.

    Args:
        device: as torch names it.
    """
    a = torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there = a.to(device)
    here = a.T @ a
    difference = (here - (there.T @ there).cpu()).abs().max() / here.abs().max()

    return Float64Products(
        gpu=product_speed(there),
        core=product_speed(a) / torch.get_num_threads(),
        difference=float(difference),
    )


def product_speed(square: torch.Tensor) -> float:
    """Operations a second of a square matrix times itself where it lies, the best of three."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        float((square.T @ square)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * len(square) ** 3 / best
