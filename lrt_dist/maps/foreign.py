"""Tensors in files of other tools, by name. Nothing is unpickled but tensors: a file cannot run
code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.files import is_local


def read_torch(path: Path, *known: tuple[type, str]) -> Any:
    """What `torch.save` wrote: a tensor, or containers of them.

    Args:
        known: classes, each with the full name that it has in the file, which may be in it too.

    Raises:
        UserError: it holds other objects.
        CorruptionError: it is torn.
    """
    check_local(path)
    try:
        with torch.serialization.safe_globals(list(known)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds Python objects other than tensors, which are not loaded, as that could "
            "run code. Save the tensors alone: torch.save({name: tensor}, path)"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CorruptionError(f"{path} cannot be read by torch: {error}") from error


def read_numpy(path: Path) -> Mapping[str, torch.Tensor]:
    """The arrays of a `.npz`, or the one of a `.npy` under the name "".

    Raises:
        UserError: it holds anything but numbers, or is none.
    """
    check_local(path)
    try:
        with path.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            arrays = {"": found} if isinstance(found, np.ndarray) else dict(found)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (ValueError, EOFError, TypeError, BadZipFile) as error:
        raise UserError(f"{path} is not a NumPy file of numbers: {error}") from error


def read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    """All tensors.

    Raises:
        CorruptionError: it is torn.
    """
    check_local(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CorruptionError(f"{path} is not a safetensors file: {error}") from error


def check_local(path: Path) -> None:
    """Raises:
    UserError: the file lies in an object store.
    """
    if not is_local(path):
        raise UserError(
            f"{path}: files of other tools are not read from object stores; copy it here"
        )
