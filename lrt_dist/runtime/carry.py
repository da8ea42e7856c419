"""A hidden state on its way from stage to stage, in a form that Ray does not copy into a pickle.

On the CPU, arrays travel beside the pickle: written to shared memory once, and mapped by whoever
reads them on the same node. A tensor would be copied into the pickle, and out of it.

On a GPU, where the package `nixl` is installed, the tensor stays where it is until the next stage
fetches it by Ray's direct transport (https://docs.ray.io/en/latest/ray-core/direct-transport.html),
over NVLink, InfiniBand or Ethernet. Of Ray's transports it is the one whose transfers end when one
of the two processes dies: those of NCCL would take the other stage along.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

DIRECT = "nixl"


@dataclass(frozen=True)
class Carry:
    """A tensor as bytes.

    Attributes:
        content: uint8, its last axis that of the tensor times the bytes of a number.
        dtype: of the tensor.
    """

    content: NDArray[np.uint8]
    dtype: torch.dtype


@dataclass(frozen=True)
class Held:
    """A tensor that its sender holds until nobody refers to it any more."""

    tensor: ray.ObjectRef


def has_direct_transport() -> bool:
    """Whether this process can hand a tensor on without the object store."""
    return importlib.util.find_spec(DIRECT) is not None


def packed(carry: Any, *, direct: bool = False) -> Any:
    """What goes to the next stage.

    Args:
        carry: what a stage returned; anything but a tensor with a size, or a tuple of several,
            goes as it is.
        direct: hold it here for the next stage, on the device where it is.

    Returns:
        A `Held`; or a `Carry`, of the same memory if the tensor is on the CPU.
    """
    if isinstance(carry, tuple):
        return tuple(packed(part, direct=direct) for part in carry)
    if not isinstance(carry, torch.Tensor) or not (carry.dim() and carry.numel()):
        return carry
    tensor = carry.detach().contiguous()
    if direct:
        return Held(ray.put(tensor, _tensor_transport=DIRECT))
    return Carry(tensor.cpu().view(torch.uint8).numpy(), carry.dtype)


def unpacked(carry: Any) -> Any:
    """The tensor that was packed.

    From a `Carry` in memory of its own: what Ray maps cannot be written to. From a `Held` on the
    kind of device where its sender had it.
    """
    if isinstance(carry, tuple):
        return tuple(unpacked(part) for part in carry)
    if isinstance(carry, Held):
        return ray.get(carry.tensor)
    if not isinstance(carry, Carry):
        return carry
    content = torch.empty(carry.content.shape, dtype=torch.uint8)
    content.numpy()[...] = carry.content
    return content.view(carry.dtype)
