"""The same store and ledger on an object store, really spoken to over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
import torch
from local_s3 import s3_bucket
from tiny_store import OTHER, make, record, states, unread

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger

BUCKET = "activations"


@pytest.fixture
def bucket() -> Iterator[str]:
    with s3_bucket(BUCKET) as url:
        yield f"{url}/run"


def test_store_and_ledger_on_s3(bucket: str) -> None:
    """A copy: equal bits."""
    store = make(f"{bucket}/m.zarr")
    checksums = store.write(1, 2, states()).checksums
    again = ActivationStore.open(f"{bucket}/m.zarr")
    assert torch.equal(again.states(2, 1, checksums["layers/2"]), states().bfloat16())

    ledger = Ledger(f"{bucket}/m.ledger")
    ledger.claim({"a": 1})
    ledger.commit(record(1), unread)
    ledger.commit(record(1), unread)
    with pytest.raises(CorruptionError, match="committed twice"):
        ledger.commit(record(1, rows=9), unread)
    with pytest.raises(UserError, match="a: 1 -> 2"):
        Ledger(f"{bucket}/m.ledger").claim({"a": 2})
    elsewhere = record(1, checksums=OTHER, machines=("another",))
    ledger.commit(elsewhere, lambda: OTHER)
    assert Ledger(f"{bucket}/m.ledger").committed() == {1: elsewhere}
    ledger.quarantine(2, "bad text")
    assert ledger.quarantined() == {2: "bad text"}
    ledger.drop(1)
    assert ledger.committed() == {}

    listed = boto3.client("s3").list_objects_v2(Bucket=BUCKET)
    keys = {entry["Key"] for entry in listed["Contents"]}
    assert {"run/m.zarr/layers/2/c/1/0", "run/m.ledger/identity.json"} <= keys

    with pytest.raises(UserError, match="no activation store"):
        ActivationStore.open(f"{bucket}/none.zarr")
