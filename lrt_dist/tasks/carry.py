"""A hidden state on its way from stage to stage, in a form that Ray does not copy into a pickle.

Arrays travel beside the pickle: written to shared memory once, and mapped by whoever reads them on
the same node. A tensor would be copied into the pickle, and out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Carry:
    """A tensor as bytes.

    Attributes:
        content: uint8, its last axis that of the tensor times the bytes of a number.
        dtype: of the tensor.
    """

    content: NDArray[np.uint8]
    dtype: torch.dtype


def packed(carry: Any) -> Any:
    """A tensor on the CPU as a `Carry` of the same memory; anything else as it is."""
    if not isinstance(carry, torch.Tensor) or not (carry.dim() and carry.numel()):
        return carry
    return Carry(carry.detach().contiguous().view(torch.uint8).numpy(), carry.dtype)


def unpacked(carry: Any) -> Any:
    """The tensor of a `Carry`, in memory of its own: what Ray maps cannot be written to."""
    if not isinstance(carry, Carry):
        return carry
    content = torch.empty(carry.content.shape, dtype=torch.uint8)
    content.numpy()[...] = carry.content
    return content.view(carry.dtype)
