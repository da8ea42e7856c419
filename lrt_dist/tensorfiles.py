"""Tensors in a file, as safetensors with a kind: whole or not at all, the same bytes every time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lrt_dist.errors import CorruptionError
from lrt_dist.files import atomic_write

_KEY = "lrt_dist"


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors as they are, of any shape and dtype.

    Args:
        metadata: its `kind` is what `load_tensors` will ask for.

    Raises:
        DiskFullError: there is no space left.
    """
    with atomic_write(path) as partial:
        # safetensors writes through a memory map, where a full disk kills the process: reserve.
        content = sum(tensor.nbytes for tensor in tensors.values())
        # As one string: a dictionary would come out in another order every time.
        packed = json.dumps(dict(metadata), sort_keys=True)
        header = 4096 + 256 * len(tensors) + 2 * len(packed)
        with partial.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, content + header)
        save_file({name: _owning(t) for name, t in tensors.items()}, partial, {_KEY: packed})


def load_tensors(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of what `save_tensors` wrote.

    Raises:
        CorruptionError: the file is torn, no safetensors file, or of another kind.
        FileNotFoundError: there is none.
    """
    with open_tensors(path, kind) as (file, metadata):
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


@contextmanager
def open_tensors(path: Path, kind: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """The open file, to read tensors one by one (`keys`, `get_tensor`), and its metadata; raises
    as `load_tensors` does."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if metadata.get("kind") != kind:
                raise CorruptionError(f"{path} holds {metadata.get('kind')!r}, not {kind}")
            yield file, metadata
    except SafetensorError as error:
        raise CorruptionError(f"{path} is not a safetensors file: {error}") from error


def _owning(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, and no view into another tensor's memory: safetensors refuses shared memory."""
    alone = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor.contiguous() if alone else tensor.clone(memory_format=torch.contiguous_format)
