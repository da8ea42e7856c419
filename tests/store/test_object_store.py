"""The same store and ledger on an object store, really spoken to over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer
from test_activations import make, states
from test_ledger import record

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger

BUCKET = "activations"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    return f"s3://{BUCKET}/run"


def test_store_and_ledger_on_s3(bucket: str, endpoint: str) -> None:
    store = make(f"{bucket}/m.zarr")
    crcs = store.write(1, 2, states())
    again = ActivationStore.open(f"{bucket}/m.zarr")
    assert torch.equal(again.states(2, 1, crcs["layers/2"]), states().bfloat16())

    ledger = Ledger(f"{bucket}/m.ledger")
    ledger.claim({"a": 1})
    ledger.commit(record(1))
    ledger.commit(record(1))
    with pytest.raises(CorruptionError, match="committed twice"):
        ledger.commit(record(1, rows=9))
    with pytest.raises(UserError, match="a: 1 -> 2"):
        Ledger(f"{bucket}/m.ledger").claim({"a": 2})
    assert list(Ledger(f"{bucket}/m.ledger").committed()) == [1]
    ledger.quarantine(2, "bad text")
    assert ledger.quarantined() == {2: "bad text"}
    ledger.drop(1)
    assert ledger.committed() == {}

    listed = boto3.client("s3", endpoint_url=endpoint).list_objects_v2(Bucket=BUCKET)
    keys = {entry["Key"] for entry in listed["Contents"]}
    assert {"run/m.zarr/layers/2/c/1/0", "run/m.ledger/identity.json"} <= keys

    with pytest.raises(UserError, match="no activation store"):
        ActivationStore.open(f"{bucket}/none.zarr")
