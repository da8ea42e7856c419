"""An object store that answers 500, cuts connections, loses replies or is slow: over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_proxy import Faults, faulty_proxy
from local_s3 import s3_bucket

from lrt_dist import api
from lrt_dist.commands.verify import verify
from lrt_dist.runfile import load_run
from lrt_dist.sites import Side
from lrt_dist.store.ledger import Ledger

WriteRun = Callable[..., Path]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["500", "cut", "lost reply", "slow"])
@pytest.mark.fault(
    "the object store answers 500, cuts the connection, loses its answer, or is slow: one "
    "request in five",
    "repeated by the client; every unit is committed once, every checksum is right",
)
def test_extraction_ends_as_if_nothing_had_been(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Every fifth request goes wrong; each unit is computed once, and is what was written."""
    run_file = write_run()
    faults = Faults(kind, every=5)
    with s3_bucket("faulty") as url:
        target = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        with faulty_proxy(target, faults) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
            settings = ["concepts=[]", f"extract.store_url={url}/activations"]
            with api.open_run(tmp_path / "out", load_run(run_file, settings)) as run:
                units = api.index(run).units
                api.extract(run)
                for side in Side:
                    ledger = Ledger(run.folder.ledger_url(side))
                    assert len(ledger.committed()) == units
                    assert not ledger.quarantined()
                api.fit(run)
            assert faults.struck > 10
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{target}")
        with api.open_run(tmp_path / "out", load_run(run_file, settings)) as run:
            assert verify(run, repair=False) == []
