"""NumPy in, NumPy out: what the public functions take and give back."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Array = torch.Tensor | NDArray[Any]
A = TypeVar("A", torch.Tensor, NDArray[Any])


def as_tensor(array: Array) -> torch.Tensor:
    """A tensor of what may be a NumPy array of any byte order, strides and permissions.

    Raises:
        TypeError: an array of numbers that torch does not have, or no array.
    """
    if isinstance(array, torch.Tensor):
        return array
    numbers = np.asarray(array)
    # A copy: torch takes no foreign byte order and no negative strides, and warns of what is
    # read-only (a memory map, say).
    return torch.from_numpy(numbers.astype(numbers.dtype.newbyteorder("="), order="C"))


def like(result: torch.Tensor, model: A) -> A:
    """The result as the caller's kind of array: NumPy for NumPy, else a tensor.

    bfloat16, which NumPy does not have, becomes float32.
    """
    if isinstance(model, torch.Tensor):
        return result
    return (result.float() if result.dtype == torch.bfloat16 else result).cpu().numpy()
