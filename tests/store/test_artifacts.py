"""Vectors, moments and tables come back as they went."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch

from lrt_dist.linear.moments import Moments
from lrt_dist.linear.vectors import SteeringVector
from lrt_dist.store import artifacts


def test_vector_round_trip(tmp_path: Path) -> None:
    vector = SteeringVector("mood", "m", 3, torch.arange(5.0).double(), "pca", 12)
    artifacts.save_vector(tmp_path / "v.safetensors", vector)
    again = artifacts.load_vector(tmp_path / "v.safetensors")
    assert torch.equal(again.values, vector.values)
    assert (again.concept, again.layer, again.pairs) == ("mood", 3, 12)


def test_moments_round_trip(tmp_path: Path) -> None:
    x = torch.randn(6, 2, dtype=torch.float64)
    folds = [Moments.of({"x/1": x, "y/2": x}, [("x/1", "y/2")], "unit 0 fold 0"), Moments()]
    artifacts.save_moments(tmp_path / "m.safetensors", folds, "f")
    again = artifacts.load_moments(tmp_path / "m.safetensors", "f")
    assert again is not None
    assert torch.equal(again[0].second["x/1", "y/2"], folds[0].second["x/1", "y/2"])
    assert torch.equal(again[0].mean["y/2"], folds[0].mean["y/2"])
    assert [(fold.n, fold.parts) for fold in again] == [(f.n, f.parts) for f in folds]
    assert artifacts.load_moments(tmp_path / "m.safetensors", "of another run") is None


def test_tables_know_what_they_were_made_from(tmp_path: Path) -> None:
    artifacts.save_table(tmp_path / "t.parquet", [{"a": 1}, {"a": 2}], "f")
    assert artifacts.is_current(tmp_path / "t.parquet", "f")
    assert not artifacts.is_current(tmp_path / "t.parquet", "g")
    assert not artifacts.is_current(tmp_path / "none.parquet", "f")
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [{"a": 1}, {"a": 2}]
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
