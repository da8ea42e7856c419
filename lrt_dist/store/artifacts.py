"""Vectors as safetensors, tables as Parquet; each written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lrt_dist.files import written_whole
from lrt_dist.linear.vectors import SteeringVector
from lrt_dist.tensorfiles import load_tensors, save_tensors

_FINGERPRINT = b"lrt_dist_fingerprint"


def save_vector(path: Path, vector: SteeringVector) -> None:
    """Write a vector with its metadata."""
    save_tensors(
        path,
        {"values": vector.values},
        {
            "kind": "SteeringVector",
            "concept": vector.concept,
            "model": vector.model,
            "layer": str(vector.layer),
            "method": vector.method,
            "pairs": str(vector.pairs),
        },
    )


def load_vector(path: Path) -> SteeringVector:
    """Read what `save_vector` wrote.

    Raises:
        CorruptionError: the file is not a vector.
    """
    tensors, meta = load_tensors(path, "SteeringVector")
    return SteeringVector(
        meta["concept"],
        meta["model"],
        int(meta["layer"]),
        tensors["values"],
        meta["method"],
        int(meta["pairs"]),
    )


def save_table(path: Path, rows: Sequence[Mapping[str, Any]] | pa.Table, fingerprint: str) -> None:
    """Write a table, stamped with the fingerprint of what it was made from."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(r) for r in rows])
    meta = {**(table.schema.metadata or {}), _FINGERPRINT: fingerprint.encode()}
    with written_whole(path) as partial:
        pq.write_table(table.replace_schema_metadata(meta), partial)


def is_current(path: Path, fingerprint: str) -> bool:
    """Whether a table exists and was made from the same things."""
    if not path.is_file():
        return False
    meta = pq.read_schema(path).metadata or {}
    return bool(meta.get(_FINGERPRINT, b"").decode() == fingerprint)
