"""Where the fit's float64 products are made: on the cores, or on GPUs that are faster at them."""

from __future__ import annotations

from lrt_dist.formatting import format_bytes
from lrt_dist.plan.memory import USABLE
from lrt_dist.runtime.contract import Needs
from lrt_dist.runtime.preflight import float64_products
from lrt_dist.workspace.run import Run

SAME = 1e-12
"""Largest difference of a GPU's product from that of the cores: both are rounded in float64."""
GPU = "cuda"
CPU = "cpu"


class ProductsDevices:
    """`products_device` of the machines that there are; each set of machines is asked once."""

    def __init__(self, run: Run, gpu_bytes: int) -> None:
        self._run, self._gpu_bytes = run, gpu_bytes
        self._found: dict[tuple[tuple[float, ...], ...], tuple[str, float]] = {}

    def now(self) -> tuple[str, float]:
        """Of those that there are now."""
        machines = (self._run.machines.node_cpus, self._run.machines.node_gpus)
        if machines not in self._found:
            self._found[machines] = products_device(self._run, self._gpu_bytes)
        return self._found[machines]


def products_device(run: Run, gpu_bytes: int) -> tuple[str, float]:
    """The device on which a task of the fit makes its products, and operations a second of one of
    them, which are 0 where no GPU was asked.

    People are told where GPUs are there and are not used.

    Args:
        gpu_bytes: memory of a GPU that the largest task needs.
    """
    machines = run.machines
    if not machines.gpus:
        return CPU, 0.0
    there = machines.gpu_memory()
    if gpu_bytes > USABLE * there:
        run.progress.note(
            "fit",
            f"products are made on the cores: a task needs {format_bytes(gpu_bytes)}, a GPU has "
            f"{format_bytes(there)}; lower fit.tile_bytes to have the GPUs make them",
        )
        return CPU, 0.0
    (found,) = run.runtime.map(float64_products, [GPU], Needs(gpus=1))
    if found.difference > SAME:
        run.progress.note(
            "fit",
            f"products are made on the cores: those of a GPU differ by {found.difference:.1e} "
            f"(at most {SAME:.0e} is rounding)",
        )
        return CPU, found.core
    gpus, cores = found.gpu * machines.gpus, found.core * sum(machines.node_cpus)
    chosen = GPU if gpus > cores else CPU
    run.progress.note(
        "fit",
        f"float64 products are made on the {'GPUs' if chosen is GPU else 'cores'}: "
        f"{gpus / 1e12:.2f} TFLOP/s of all GPUs, {cores / 1e12:.2f} of all cores",
    )
    return chosen, found.gpu if chosen is GPU else found.core
