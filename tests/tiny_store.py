"""A small activation store, and ledger records."""

from __future__ import annotations

import torch

from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import UnitRecord

SAME = {"layers/1": "00ff00ff", "norms/1": "0f0f0f0f"}
OTHER = SAME | {"layers/1": "11111111"}


def record(unit: int = 3, **changes: object) -> UnitRecord:
    values: dict[str, object] = {
        "unit": unit,
        "rows": 4,
        "checksums": SAME,
        "mean_norms": {1: 200.0},
        "machines": ("a CPU, 2 threads",),
        "token_digest": "t",
        "fingerprint": "f",
        "seconds": 1.5,
        "versions": {"torch": "2"},
        "token_budget": 64,
    }
    return UnitRecord.model_validate(values | changes)


def unread() -> dict[str, str]:
    """For commits that must not need to look at the store."""
    raise AssertionError("the store was read")


def make(url: str, dtype: str = "bfloat16", compress: str = "none") -> ActivationStore:
    return ActivationStore.create(
        url,
        layers={2: 6, 5: 6},
        rows=10,
        rows_per_unit=4,
        logical_dtype=dtype,
        compress=compress,
        fingerprint="abc",
    )


def states(rows: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)) * 1000
