"""The activation store: a Zarr v3 group of one model over one row index.

`layers/{l}` holds hidden states `[rows, d]`, as uint16 with attribute `logical_dtype: bfloat16`
(zarr has no bfloat16, and float16 overflows on massive activations) or as float32; `norms/{l}`
holds their Euclidean norms, float32 `[rows]`, taken before rounding. One row chunk is one unit,
so no two units ever write the same object. The ledger keeps a checksum of every chunk.

Where hidden states go straight into moments, the store has the norms of all units and the states of
a few (`states_of`); checksums are still those of all.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import ObjectStore

from lrt_dist.errors import CorruptionError, UserError, as_disk_full_error
from lrt_dist.store.objects import open_objects


@dataclass(frozen=True)
class Written:
    """What was written of one layer of one unit.

    Attributes:
        checksums: `{array: crc32 of its uncompressed bytes}` of the two arrays.
        mean_norm: mean Euclidean norm of the rows, by which unlike machines are compared.
    """

    checksums: dict[str, str]
    mean_norm: float


class ActivationStore:
    """See the module. Attributes: `url`, `layers` (with their widths), `rows`, `rows_per_unit`, and
    `states_of`, the units whose states it holds, None if it holds all."""

    def __init__(self, url: str, group: zarr.Group) -> None:
        self.url = url
        self._group = group
        attributes: dict[str, Any] = dict(group.attrs)
        self.rows = int(attributes["rows"])
        self.rows_per_unit = int(attributes["rows_per_unit"])
        self.logical_dtype = str(attributes["logical_dtype"])
        self.fingerprint = str(attributes["fingerprint"])
        some = attributes.get("states_of")
        self.states_of = None if some is None else frozenset(map(int, some))
        self.layers = {int(layer): int(width) for layer, width in attributes["layers"].items()}
        self._arrays: dict[str, zarr.Array[Any]] = {}

    @classmethod
    def create(
        cls,
        url: str,
        *,
        layers: Mapping[int, int],
        rows: int,
        rows_per_unit: int,
        logical_dtype: str,
        compress: str,
        fingerprint: str,
        states_of: Collection[int] | None = None,
    ) -> ActivationStore:
        """Make the store, in its final shape, or open it if it exists.

        Raises:
            UserError: it exists and belongs to another run.

        Args:
            layers: `{layer: d}`.
            logical_dtype: `bfloat16` or `float32`.
            compress: `none` or `zstd`.
            states_of: units whose states will be written; None for all.
        """
        with as_disk_full_error(url):
            group = zarr.open_group(_zarr_store(url), mode="a")
            if "fingerprint" in group.attrs:
                if group.attrs["fingerprint"] != fingerprint:
                    raise UserError(
                        f"{url} was made by another run than its ledger; delete both, or use "
                        "another --out"
                    )
                return cls(url, group)
            # No checksum in the chunk: the ledger has one, and a second pass would cost as much.
            codecs = [] if compress == "none" else [ZstdCodec()]
            shared: dict[str, Any] = {
                "compressors": codecs,
                "fill_value": 0,
                "overwrite": True,
                "config": {"write_empty_chunks": True},
            }
            stored = "uint16" if logical_dtype == "bfloat16" else "float32"
            for layer, width in layers.items():
                group.create_array(
                    f"layers/{layer}",
                    shape=(rows, width),
                    chunks=(rows_per_unit, width),
                    dtype=stored,
                    attributes={"logical_dtype": logical_dtype},
                    **shared,
                )
                group.create_array(
                    f"norms/{layer}",
                    shape=(rows,),
                    chunks=(rows_per_unit,),
                    dtype="float32",
                    **shared,
                )
            # The attributes come last: a store without them was never finished being made.
            group.update_attributes(
                {
                    "rows": rows,
                    "rows_per_unit": rows_per_unit,
                    "logical_dtype": logical_dtype,
                    "layers": {str(layer): width for layer, width in layers.items()},
                    "fingerprint": fingerprint,
                    "states_of": None if states_of is None else sorted(states_of),
                }
            )
        return cls(url, group)

    @classmethod
    def open(cls, url: str) -> ActivationStore:
        """Open an existing store.

        Raises:
            UserError: there is none.
        """
        try:
            group = zarr.open_group(_zarr_store(url), mode="r+")
            return cls(url, group)
        except (FileNotFoundError, KeyError) as error:
            raise UserError(
                f"no activation store at {url}; run `lrt-dist extract` first"
            ) from error

    def unit_rows(self, unit: int) -> slice:
        """Rows of a unit."""
        first = unit * self.rows_per_unit
        return slice(first, min(first + self.rows_per_unit, self.rows))

    @property
    def units(self) -> int:
        """Number of units."""
        return -(-self.rows // self.rows_per_unit)

    def write(
        self, unit: int, layer: int, states: torch.Tensor, norms: torch.Tensor | None = None
    ) -> Written:
        """Write one unit of one layer: its norms, and its states if the store holds them.

        Args:
            states: `[rows of the unit, d]` on the CPU.
            norms: float32 `[rows]`, where they were taken before the states were rounded.
        """
        rows = self.unit_rows(unit)
        if norms is None:
            norms = torch.linalg.vector_norm(states, dim=1, dtype=torch.float32)
        data = self._data(layer, states, norms)
        for name in self.arrays(unit) & data.keys():
            with as_disk_full_error(self.url):
                self._array(name)[rows] = data[name]
        return _written(data, norms)

    def described(
        self, unit: int, layer: int, states: torch.Tensor, norms: torch.Tensor
    ) -> Written:
        """What `write` would return; nothing is written."""
        return _written(self._data(layer, states, norms), norms)

    def _data(
        self, layer: int, states: torch.Tensor, norms: torch.Tensor
    ) -> dict[str, np.ndarray[Any, Any]]:
        return {
            f"layers/{layer}": encoded(states, self.logical_dtype),
            f"norms/{layer}": norms.numpy(),
        }

    def states(self, layer: int, unit: int, checksum: str | None = None) -> torch.Tensor:
        """Hidden states of one unit, `[rows, d]`, in the store's logical dtype; see
        `stored_states`."""
        return decoded(self.stored_states(layer, unit, checksum))

    def stored_states(
        self, layer: int, unit: int, checksum: str | None = None
    ) -> np.ndarray[Any, Any]:
        """The same as they are stored, see `encoded`.

        Args:
            checksum: what the ledger says of this chunk; None to take it as it is.

        Raises:
            CorruptionError: the chunk does not match the checksum, or cannot be decoded.
            UserError: the states of this unit were not stored.
        """
        if not self.holds_states(unit):
            raise UserError(
                f"{self.url} has no states of unit {unit}: they went straight into moments "
                "(extract.store: none)"
            )
        return self._checked(f"layers/{layer}", unit, checksum)

    def norms(
        self, layer: int, unit: int, checksum: str | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Norms of the hidden states of one unit, float32 `[rows]`; see `states`."""
        return self._checked(f"norms/{layer}", unit, checksum)

    def checksums(self, unit: int) -> dict[str, str]:
        """The crc32 of every array that holds something of a unit, as the store holds it now.

        Raises:
            CorruptionError: a chunk cannot be decoded.
        """
        return {name: self.checksum(name, unit) for name in sorted(self.arrays(unit))}

    def holds_states(self, unit: int) -> bool:
        """Whether the states of a unit are here, not its norms alone."""
        return self.states_of is None or unit in self.states_of

    def arrays(self, unit: int) -> set[str]:
        """Names of the arrays that hold something of a unit."""
        kinds = ("layers", "norms") if self.holds_states(unit) else ("norms",)
        return {f"{kind}/{layer}" for layer in self.layers for kind in kinds}

    def checksum(self, name: str, unit: int) -> str:
        """The crc32 of what is stored now, as `write` returned it; a missing chunk reads as zeros.

        Raises:
            CorruptionError: the chunk cannot be decoded.
        """
        return _checksum(self._read(name, self.unit_rows(unit)))

    def _checked(self, name: str, unit: int, checksum: str | None) -> np.ndarray[Any, Any]:
        data = self._read(name, self.unit_rows(unit))
        if checksum is not None and _checksum(data) != checksum:
            raise CorruptionError(
                f"{self.url}: {name} of unit {unit} has crc32 {_checksum(data)}, the ledger says "
                f"{checksum}; `lrt-dist verify --repair` lets extract redo it"
            )
        return data

    def _read(self, name: str, rows: slice) -> np.ndarray[Any, Any]:
        try:
            return np.asarray(self._array(name)[rows])
        except (ValueError, RuntimeError) as error:
            raise CorruptionError(
                f"{self.url}: {name}, rows {rows.start} … {(rows.stop or self.rows) - 1}: {error}; "
                "`lrt-dist verify --repair` finds the bad units and lets extract redo them"
            ) from error

    def _array(self, name: str) -> zarr.Array[Any]:
        # write_empty_chunks is not kept in the store, so it is asked for at every opening.
        if name not in self._arrays:
            array = self._group[name]
            if not isinstance(array, zarr.Array):
                raise UserError(f"{self.url} has no array {name}")
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]


def _written(data: Mapping[str, np.ndarray[Any, Any]], norms: torch.Tensor) -> Written:
    checksums = {name: _checksum(array) for name, array in data.items()}
    return Written(checksums, float(norms.mean(dtype=torch.float64)))


def encoded(states: torch.Tensor, logical_dtype: str) -> np.ndarray[Any, Any]:
    """Hidden states as they are stored: uint16 that stands for `bfloat16`, or float32."""
    if logical_dtype == "bfloat16":
        return states.to(torch.bfloat16).view(torch.uint16).numpy()
    return states.to(torch.float32).numpy()


def decoded(stored: np.ndarray[Any, Any]) -> torch.Tensor:
    """Hidden states of what `encoded` made, in the same memory."""
    states = torch.from_numpy(stored)
    return states.view(torch.bfloat16) if stored.dtype == np.uint16 else states


def _checksum(data: np.ndarray[Any, Any]) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(data).data):08x}"


def _zarr_store(url: str) -> ObjectStore[Any]:
    with warnings.catch_warnings():
        # zarr calls its object-store client experimental; the tests here are what we go by.
        warnings.simplefilter("ignore", UserWarning)
        return ObjectStore(open_objects(url))
