"""CLUSTER.yaml, read: machines that nobody has started, for `lrt-dist plan --cluster`.

nodes: 10
cpus: 64           # cores of each node
memory: 512GiB     # of each node
gpus: 8            # of each node
gpu: H100          # or {memory: 80GiB, tflops: 989, float64_tflops: 67}
storage: 10GB      # a second, read or written by all nodes together
network: 12.5GB    # a second, that each node receives from the others
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize, Field, ValidationError

from lrt_dist.config.base import NonNegative, Positive, Strict
from lrt_dist.errors import UserError
from lrt_dist.runfile import explain, read_values


@dataclass
class DescribedMachines:
    """See `runtime.contract.Machines`; nothing runs on them.

    Attributes:
        node_cpus: cores of each node.
        node_memory: bytes of each node.
        node_gpus: GPUs of each node.
        bytes_of_gpu: memory of each GPU.
        flops_of_gpu: operations a second of each GPU, at most.
        float64_of_gpu: the same in float64; 0 where it is not known.
        storage: bytes a second that all nodes together read or write; None: not to be counted.
        network: bytes a second that each node receives from others; None: not to be counted.
    """

    node_cpus: tuple[float, ...]
    node_memory: tuple[float, ...]
    node_gpus: tuple[float, ...]
    bytes_of_gpu: int
    flops_of_gpu: float
    float64_of_gpu: float
    storage: float | None
    network: float | None

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        return sum(self.node_gpus)

    def gpu_memory(self) -> int:
        """As described."""
        return self.bytes_of_gpu


class GpuDescription(Strict):
    """A kind of GPU.

    Attributes:
        memory: bytes.
        tflops: 10¹² operations a second of dense bfloat16 products, at most.
        float64_tflops: the same of float64 products; 0 where the fit is not to count on them.
    """

    memory: ByteSize
    tflops: float = Field(gt=0)
    float64_tflops: float = Field(0.0, ge=0)


GPUS = {
    "A100-40GB": (40, 312, 19.5),
    "A100": (80, 312, 19.5),
    "H100": (80, 989, 67),
    "H200": (141, 989, 67),
    "B200": (180, 2250, 40),
    "L40S": (48, 362, 1.4),
    "L4": (24, 121, 0.47),
}
"""GB of memory, and 10¹² operations a second of dense products, in bfloat16 and in float64; of
NVIDIA's data sheets (https://www.nvidia.com/en-us/data-center/), SXM where there are several forms.
Those of L40S and L4 do not say float64: a 64th of float32, as all of Ada's."""


class ClusterDescription(Strict):
    """Nodes that are all alike; see the module."""

    nodes: Positive
    cpus: Positive
    memory: ByteSize
    gpus: NonNegative = 0
    gpu: str | GpuDescription | None = None
    storage: ByteSize | None = None
    network: ByteSize | None = None


def load_cluster(path: str | Path) -> DescribedMachines:
    """Read a CLUSTER.yaml.

    Raises:
        UserError: the file is missing, or says something that no cluster can mean.
    """
    try:
        found = ClusterDescription.model_validate(read_values(path, ()))
    except ValidationError as error:
        explained = explain(error, ClusterDescription)
        raise UserError(f"{path} describes no cluster:\n  {explained}") from error
    gpu = _gpu(path, found)
    return DescribedMachines(
        node_cpus=(float(found.cpus),) * found.nodes,
        node_memory=(float(found.memory),) * found.nodes,
        node_gpus=(float(found.gpus),) * found.nodes,
        bytes_of_gpu=int(gpu.memory) if gpu else 0,
        flops_of_gpu=gpu.tflops * 1e12 if gpu else 0.0,
        float64_of_gpu=gpu.float64_tflops * 1e12 if gpu else 0.0,
        storage=float(found.storage) if found.storage else None,
        network=float(found.network) if found.network else None,
    )


def _gpu(path: str | Path, found: ClusterDescription) -> GpuDescription | None:
    if not found.gpus:
        return None
    if isinstance(found.gpu, GpuDescription):
        return found.gpu
    if found.gpu not in GPUS:
        raise UserError(
            f"{path}: gpu: {found.gpu!r} is none of {', '.join(GPUS)}; describe it: "
            "{memory: 80GiB, tflops: 989}"
        )
    gigabytes, tflops, float64 = GPUS[found.gpu]
    return GpuDescription(memory=ByteSize(gigabytes * 10**9), tflops=tflops, float64_tflops=float64)
