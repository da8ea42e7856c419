"""Vectors, moments and tables come back as they went."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch

from lrt_dist.linear.vectors import SteeringVector
from lrt_dist.store import artifacts


def test_vector_round_trip(tmp_path: Path) -> None:
    vector = SteeringVector("mood", "m", 3, torch.arange(5.0).double(), "pca", 12)
    artifacts.save_vector(tmp_path / "v.safetensors", vector)
    again = artifacts.load_vector(tmp_path / "v.safetensors")
    assert torch.equal(again.values, vector.values)
    assert (again.concept, again.layer, again.pairs) == ("mood", 3, 12)


def test_tables_know_what_they_were_made_from(tmp_path: Path) -> None:
    artifacts.save_table(tmp_path / "t.parquet", [{"a": 1}, {"a": 2}], "f")
    assert artifacts.is_current(tmp_path / "t.parquet", "f")
    assert not artifacts.is_current(tmp_path / "t.parquet", "g")
    assert not artifacts.is_current(tmp_path / "none.parquet", "f")
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [{"a": 1}, {"a": 2}]
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
