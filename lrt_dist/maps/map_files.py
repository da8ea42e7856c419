"""Affine maps that other tools fitted, as maps of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from lrt_dist.errors import UserError
from lrt_dist.files import is_file, place
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.foreign import read_numpy, read_safetensors, read_torch

Form = Literal["Ax", "xA"]
"""Which product the file's matrix A is for: `A x`, with A `[d_target, d_source]`, as in
`torch.nn.Linear`; or `x A`, with A `[d_source, d_target]`."""

_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".safetensors": read_safetensors,
    ".pt": read_torch,
    ".npz": read_numpy,
    ".npy": read_numpy,
}


def read_map(
    path: str | Path, *, form: Form, source: tuple[str, int], target: tuple[str, int]
) -> AffineMap:
    """The map in a file of another tool.

    Args:
        path: a `.safetensors`, `.pt`, `.npz` or `.npy` file of one matrix and at most one vector,
            the bias, under any names.
        form: which product the matrix is for.
        source: `(model, layer)` where the map begins.
        target: `(model, layer)` where it ends.

    Returns:
        The map, in the matrix' dtype; its bias is 0 where the file has none. It has no metrics.

    Raises:
        UserError: there is no such file, or it holds anything else, or the bias does not fit.
        CorruptionError: it is torn.
    """
    path = place(path)
    if not is_file(path):
        raise UserError(f"no map at {path}")
    if path.suffix not in _READERS:
        raise UserError(f"{path} is no map: its name must end in {', '.join(_READERS)}")
    found = _READERS[path.suffix](path)
    tensors = dict(found) if isinstance(found, Mapping) else {"": found}
    matrix = _only(path, tensors, dimensions=2)
    if matrix is None:
        raise UserError(f"{path} holds no matrix: {_list(tensors)}")
    weight = (matrix.T if form == "Ax" else matrix).contiguous()
    bias = _only(path, tensors, dimensions=1)
    if bias is None:
        bias = torch.zeros(weight.shape[1], dtype=weight.dtype)
    if len(bias) != weight.shape[1]:
        other = "xA" if form == "Ax" else "Ax"
        hint = f"; as {other} it would fit" if len(bias) == weight.shape[0] else ""
        raise UserError(
            f"{path}: as {form}, the matrix {list(matrix.shape)} maps {weight.shape[0]} dimensions "
            f"to {weight.shape[1]}, but the bias has {len(bias)}{hint}"
        )
    return AffineMap(weight, bias.to(weight.dtype), source, target, f"read from {path.name}")


def _only(path: Path, tensors: Mapping[Any, Any], dimensions: int) -> torch.Tensor | None:
    """The one of so many dimensions, of floating numbers."""
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
        and tensor.ndim == dimensions
        and tensor.is_floating_point()
    }
    if len(found) > 1:
        raise UserError(
            f"{path} holds {len(found)} tensors of {dimensions} dimensions, not one map: "
            + _list(found)
        )
    return next(iter(found.values()), None)


def _list(tensors: Mapping[Any, Any]) -> str:
    named = [
        f"{name or 'unnamed'} "
        + (str(list(t.shape)) if isinstance(t, torch.Tensor) else type(t).__name__)
        for name, t in tensors.items()
    ]
    return ", ".join(named) or "nothing"
