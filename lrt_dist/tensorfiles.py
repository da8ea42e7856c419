"""Tensors in a file, as safetensors with a kind: whole or not at all, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lrt_dist.errors import CorruptionError
from lrt_dist.files import atomic_write, is_local, read_range

_KEY = "lrt_dist"
FETCHED_FIRST = 1 << 20
"""Bytes of a file in an object store that are fetched at once: a small file, or a header."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What safetensors calls dtypes."""


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
        # As one string: a dictionary would come out in another order every time.
        packed = json.dumps(dict(metadata), sort_keys=True)
        write_tensors(partial, {name: _owning(t) for name, t in tensors.items()}, {_KEY: packed})


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a file as `save_file` does, but with the permissions that files of this user have:
    safetensors puts one in its place that nobody else may read."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


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
        with safe_open(path, framework="pt") if is_local(path) else _RemoteTensors(path) as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if metadata.get("kind") != kind:
                raise CorruptionError(f"{path} holds {metadata.get('kind')!r}, not {kind}")
            yield file, metadata
    except SafetensorError as error:
        raise CorruptionError(f"{path} is not a safetensors file: {error}") from error


class _RemoteTensors:
    """A safetensors file in an object store, of which only what is asked for is fetched.

    The format is that of https://huggingface.co/docs/safetensors: the length of the header, a
    header in JSON, then the bytes of all tensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        if self._size < 8:
            raise SafetensorError(f"{self._size} bytes")
        self._first = read_range(path, 0, min(FETCHED_FIRST, self._size))
        length = int.from_bytes(self._bytes(0, 8), "little")
        self._begin = 8 + length
        try:
            self._header: dict[str, Any] = json.loads(self._bytes(8, self._begin))
            ends = [entry["data_offsets"][1] for name, entry in self._tensors().items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SafetensorError(f"header of {length} bytes cannot be read: {error!r}") from error
        if self._begin + max(ends, default=0) != self._size:
            raise SafetensorError(f"{self._size} bytes, not {self._begin + max(ends, default=0)}")

    def __enter__(self) -> _RemoteTensors:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def keys(self) -> list[str]:
        return sorted(self._tensors())

    def metadata(self) -> dict[str, str] | None:
        return self._header.get("__metadata__")

    def get_tensor(self, name: str) -> torch.Tensor:
        entry = self._header[name]
        begin, end = (self._begin + offset for offset in entry["data_offsets"])
        # Memory of torch's own, always aligned alike: rounding may depend on where numbers lie.
        flat = torch.empty(end - begin, dtype=torch.uint8)
        flat.numpy()[:] = np.frombuffer(self._bytes(begin, end), dtype=np.uint8)
        return flat.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def _tensors(self) -> dict[str, Any]:
        return {name: entry for name, entry in self._header.items() if name != "__metadata__"}

    def _bytes(self, begin: int, end: int) -> bytes:
        if end <= len(self._first):
            return self._first[begin:end]
        return read_range(self._path, begin, min(end, self._size))


def _owning(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, and no view into another tensor's memory: safetensors refuses shared memory."""
    alone = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor.contiguous() if alone else tensor.clone(memory_format=torch.contiguous_format)
