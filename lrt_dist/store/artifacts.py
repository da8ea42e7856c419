"""Vectors and moments as safetensors, tables as Parquet; each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lrt_dist.linear.moments import Moments
from lrt_dist.linear.vectors import SteeringVector
from lrt_dist.tensorfiles import load_tensors, save_tensors, written_whole

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


def save_moments(path: Path, folds: Sequence[Moments], fingerprint: str) -> None:
    """Write the moments of every fold into one file."""
    tensors: dict[str, torch.Tensor] = {}
    facts = []
    for index, moments in enumerate(folds):
        facts.append({"n": moments.n, "parts": sorted(moments.parts)})
        tensors |= {f"{index}|{name}": mean for name, mean in moments.mean.items()}
        tensors |= {f"{index}|{a}|{b}": second for (a, b), second in moments.second.items()}
    meta = {"kind": "Moments", "folds": json.dumps(facts), "fingerprint": fingerprint}
    save_tensors(path, tensors, meta)


def load_moments(path: Path, fingerprint: str) -> list[Moments] | None:
    """The moments of every fold; None where the file is absent or of another run."""
    if not path.is_file():
        return None
    tensors, meta = load_tensors(path, "Moments")
    if meta["fingerprint"] != fingerprint:
        return None
    folds = []
    for index, fact in enumerate(json.loads(meta["folds"])):
        keys = [key.split("|") for key in tensors if key.startswith(f"{index}|")]
        folds.append(
            Moments(
                fact["n"],
                frozenset(fact["parts"]),
                {k[1]: tensors["|".join(k)] for k in keys if len(k) == 2},
                {(k[1], k[2]): tensors["|".join(k)] for k in keys if len(k) == 3},
            )
        )
    return folds


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
