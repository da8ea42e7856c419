"""Scores kept by content: what was computed once, for whatever run, is not computed again.

A *cell* is one item under one displacement. Its address is a hash of everything that decides its
score, so a table of cells needs no other description, and never goes stale: another strength,
draw, concept or item is another address. Each finished task adds one file, whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lrt_dist.errors import CorruptionError
from lrt_dist.files import atomic_write

ADDRESS_BYTES = 16

Addresses = NDArray[np.void]


class CellStore:
    """All cells in a folder; 24 bytes of memory each."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            CorruptionError: a file cannot be read.
        """
        self._folder = folder
        tables = [_read(path) for path in sorted(folder.glob("*.parquet"))]
        self._addresses = np.concatenate([_no_addresses(), *(a for a, _ in tables)])
        self._values = np.concatenate([np.zeros(0), *(values for _, values in tables)])
        order = np.argsort(self._addresses.view("S16"), kind="stable")
        self._addresses, self._values = self._addresses[order], self._values[order]

    def find(self, addresses: Addresses) -> NDArray[np.float64]:
        """Scores at some addresses, of the same shape; NaN where there is none."""
        if not len(self._values):
            return np.full(addresses.shape, np.nan)
        known = self._addresses.view("S16")
        place = np.searchsorted(known, addresses.view("S16")).clip(max=len(known) - 1)
        found = known[place] == addresses.view("S16")
        return np.where(found, self._values[place], np.nan)

    def add(self, addresses: Addresses, values: NDArray[np.float64]) -> None:
        """Keep the scores of a finished task.

        Raises:
            DiskFullError: there is no space left.
        """
        flat = np.ascontiguousarray(addresses.reshape(-1))
        name = hashlib.blake2b(flat.tobytes(), digest_size=ADDRESS_BYTES).hexdigest()
        table = pa.table(
            {
                "cell": pa.array(flat.tolist(), pa.binary(ADDRESS_BYTES)),
                "value": values.reshape(-1),
            }
        )
        with atomic_write(self._folder / f"{name}.parquet") as partial:
            pq.write_table(table, partial)
        merged = np.concatenate([self._addresses, flat])
        order = np.argsort(merged.view("S16"), kind="stable")
        self._addresses = merged[order]
        self._values = np.concatenate([self._values, values.reshape(-1)])[order]


def address(*parts: bytes) -> bytes:
    """The address of what these parts, in this order, decide."""
    digest = hashlib.blake2b(digest_size=ADDRESS_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def addresses_of(rows: Sequence[bytes], columns: Sequence[bytes]) -> Addresses:
    """The address of every row with every column: `[rows, columns]`."""
    flat = [address(row, column) for row in rows for column in columns]
    whole = np.frombuffer(b"".join(flat), dtype=f"V{ADDRESS_BYTES}")
    return whole.reshape(len(rows), len(columns))


def _read(path: Path) -> tuple[Addresses, NDArray[np.float64]]:
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptionError(
            f"{path} cannot be read as Parquet ({error}): delete it and run `lrt-dist evaluate` "
            "again"
        ) from error
    joined = b"".join(table["cell"].to_pylist())
    return np.frombuffer(joined, dtype=f"V{ADDRESS_BYTES}"), table["value"].to_numpy()


def _no_addresses() -> Addresses:
    return np.zeros(0, dtype=f"V{ADDRESS_BYTES}")
