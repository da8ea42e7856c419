"""Vector files of other tools, in and out. A file's name ends in what it is.

| ending | holds | read and written by |
|---|---|---|
| `.gguf` | a control vector: float32 `direction.N` for layers N | llama.cpp, repeng |
| `.pt` | `{N: tensor}`, or a `SteeringVector` of steering-vectors | torch, steering-vectors |
| `.npy` | one vector | NumPy |
| `.safetensors` | our own; or tensors named by their layer; or one tensor | anything |

vLLM itself takes no vectors; EasySteer (github.com/ZJU-REAL/EasySteer), which is built on it, reads
the `.gguf`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.files import atomic_write, is_file, place
from lrt_dist.maps.foreign import check_local, read_numpy, read_safetensors, read_torch
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.tensorfiles import write_tensors

ENDINGS = (".gguf", ".pt", ".npy", ".safetensors")
_ARCHITECTURE = "controlvector"
_DIRECTION = "direction."
_THEIRS = "steering_vectors.steering_vector.SteeringVector"
_LAST_NUMBER = re.compile(r"(?:.*\D)?(\d+)\D*")


@dataclass
class _Theirs:
    """Stands in for the class of steering-vectors, whose instances people save."""

    layer_activations: dict[int, torch.Tensor]
    layer_type: str = "decoder_block"


def read_vector(
    path: str | Path, *, model: str, layer: int | None = None, concept: str | None = None
) -> SteeringVector:
    """One vector of a file.

    A file of ours says itself to which model and layer it belongs, and what it stands for. Of
    other files the caller has to say it.

    Args:
        path: see the module.
        model: name of the model where the vector lives.
        layer: which of the file's vectors, or where a vector without a layer lives; needed unless
            the file holds one vector and says its layer. Layers are numbers of blocks, from 0, and
            a vector belongs to the output of its block.
        concept: what it stands for; None: the file's name.

    Returns:
        The vector, in the file's dtype. It has a norm only if the file is ours.

    Raises:
        UserError: there is no such file, it holds no vector, or not that one.
        CorruptionError: it is torn.
    """
    path = place(path)
    if not is_file(path):
        raise UserError(f"no vector file at {path}")
    found = _read(path)
    if isinstance(found, SteeringVector):
        return found
    chosen = _choose(path, found, layer)
    values = found[chosen].squeeze()
    if values.ndim != 1 or not values.is_floating_point():
        raise UserError(
            f"{path} holds {list(found[chosen].shape)} of {found[chosen].dtype} where a vector [d] "
            "of floating numbers was expected"
        )
    home = layer if chosen is None else chosen
    assert home is not None
    return SteeringVector(concept or path.stem, model, home, values, f"read from {path.name}")


def write_vectors(
    vectors: Sequence[SteeringVector], path: str | Path, *, strength: float | None = None
) -> None:
    """Write vectors of one model for another tool; one file for all.

    Args:
        vectors: of different layers.
        path: where; its ending says the format.
        strength: write what is added at that strength, `α · s · v/‖v‖`, so that a coefficient of 1
            there is the strength α here; None for the vectors as they are.

    Raises:
        UserError: the ending is not known, the format does not hold these vectors, or a vector has
            no norm.
        DiskFullError: there is no space left.
    """
    path = place(path)
    _check(vectors, path)
    values = {
        v.layer: (v.values.float() if strength is None else v.displacement(strength)).contiguous()
        for v in vectors
    }
    with atomic_write(path) as partial:
        if path.suffix == ".gguf":
            _write_gguf(partial, values, vectors[0].model)
        elif path.suffix == ".pt":
            torch.save(values, partial)
        elif path.suffix == ".npy":
            with partial.open("wb") as stream:
                np.save(stream, next(iter(values.values())).numpy(), allow_pickle=False)
        else:
            write_tensors(partial, {f"{_DIRECTION}{layer}": v for layer, v in values.items()})


def _check(vectors: Sequence[SteeringVector], path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UserError(f"{path} must end in one of {', '.join(ENDINGS)}")
    models, layers = {v.model for v in vectors}, [v.layer for v in vectors]
    if len(models) != 1:
        raise UserError(f"one file holds vectors of one model, not of {', '.join(sorted(models))}")
    if len(set(layers)) < len(layers):
        raise UserError(f"one file holds one vector for each layer; these have layers {layers}")
    if path.suffix == ".npy" and len(vectors) > 1:
        raise UserError(f"a .npy file holds one vector, not {len(vectors)}; .safetensors holds all")
    if path.suffix == ".gguf" and 0 in layers:
        raise UserError("llama.cpp takes no control vector at layer 0: export a later layer")


def _read(path: Path) -> SteeringVector | Mapping[int | None, torch.Tensor]:
    """By layer; None for one that does not say it."""
    readers = {".gguf": _read_gguf, ".pt": _read_torch, ".npy": _read_numpy}
    if path.suffix in readers:
        return readers[path.suffix](path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is no vector file: its name must end in {', '.join(ENDINGS)}")
    try:
        return SteeringVector.load(path)
    except CorruptionError:
        return _read_safetensors(path)


def _choose(path: Path, found: Mapping[int | None, torch.Tensor], layer: int | None) -> int | None:
    known = [number for number in found if number is not None]
    if not known and layer is None:
        raise UserError(f"{path} does not say to which layer its vector belongs: name the layer")
    if not known:
        return None
    if layer in known:
        return layer
    if layer is None and len(known) == 1:
        return known[0]
    raise UserError(
        f"{path} has vectors of layers {', '.join(map(str, sorted(known)))}; "
        + (f"none of {layer}" if layer is not None else "name one of them")
    )


def _read_gguf(path: Path) -> Mapping[int | None, torch.Tensor]:
    gguf = _gguf()
    check_local(path)
    try:
        reader = gguf.GGUFReader(path)
        field = reader.get_field("general.architecture")
        architecture = field.contents() if field else None
    except (ValueError, IndexError, OSError, UnicodeDecodeError) as error:
        raise CorruptionError(f"{path} cannot be read as GGUF: {error}") from error
    if architecture != _ARCHITECTURE:
        raise UserError(
            f"{path} is a GGUF file of {architecture!r}, not a control vector ({_ARCHITECTURE!r})"
        )
    names = {t.name: t for t in reader.tensors if t.name.startswith(_DIRECTION)}
    bad = [name for name in names if not name.removeprefix(_DIRECTION).isdecimal()]
    if bad or not names:
        raise UserError(f"{path}: {bad[0] if bad else 'no tensor'} is a direction.N of a layer N")
    return {
        int(name.removeprefix(_DIRECTION)): torch.from_numpy(np.array(tensor.data))
        for name, tensor in names.items()
    }


def _read_torch(path: Path) -> Mapping[int | None, torch.Tensor]:
    found = read_torch(path, (_Theirs, _THEIRS))
    if isinstance(found, _Theirs):
        found = found.layer_activations
    return _by_layer(path, found if isinstance(found, Mapping) else {"": found})


def _read_numpy(path: Path) -> Mapping[int | None, torch.Tensor]:
    return _by_layer(path, read_numpy(path))


def _read_safetensors(path: Path) -> Mapping[int | None, torch.Tensor]:
    found = read_safetensors(path)
    if {"weight", "bias"} <= found.keys():
        raise UserError(f"{path} is a map, not a vector")
    return _by_layer(path, found)


def _by_layer(path: Path, found: Mapping[Any, Any]) -> Mapping[int | None, torch.Tensor]:
    """Names are layers, or end in one; a single tensor may have any name."""
    other = next((value for value in found.values() if not isinstance(value, torch.Tensor)), None)
    if other is not None or not found:
        raise UserError(f"{path} holds {type(other).__name__ if found else 'nothing'}, no tensor")
    layers: dict[int | None, torch.Tensor] = {}
    for name, tensor in found.items():
        number = _LAST_NUMBER.fullmatch(str(name))
        layer = int(number[1]) if number else None
        if layer in layers or (layer is None and len(found) > 1):
            raise UserError(
                f"{path}: it is not clear which layer {name!r} belongs to; name each tensor by its "
                "layer, e.g. direction.15"
            )
        layers[layer] = tensor
    return layers


def _write_gguf(path: Path, values: Mapping[int, torch.Tensor], model: str) -> None:
    """As repeng writes it: https://github.com/vgel/repeng, `ControlVector.export_gguf`."""
    writer = _gguf().GGUFWriter(path, _ARCHITECTURE)
    writer.add_string(f"{_ARCHITECTURE}.model_hint", model)
    writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(values))
    for layer, tensor in values.items():
        writer.add_tensor(f"{_DIRECTION}{layer}", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise UserError("GGUF files need the package gguf: pip install 'lrt-dist[gguf]'") from error
    return gguf
