"""What a ledger of 25,000 units of ten layers costs the driver.

On a local disk: `ledger_commit`, milliseconds of a commit ÷ 2; `ledger_resume`, seconds in which a
run that is taken up again knows what is done, and reads every record once, ÷ 30.

`ledger_commit_s3`, `ledger_resume_s3`: the same in an S3 store that is spoken to over HTTP (moto,
in a process of its own) and answers 20 milliseconds late, 300 times a second at most, ÷ 5 and ÷ 30.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Result, result
from lrt_dist.store.committing import Committer
from lrt_dist.store.ledger import Ledger, UnitRecord

UNITS, LAYERS = 25_000, 10
MOST = {
    "ledger_commit": 2e-3,
    "ledger_resume": 30.0,
    "ledger_commit_s3": 5e-3,
    "ledger_resume_s3": 30.0,
}
"""Seconds: of a commit, and of a resume."""
LATE = 0.02
"""Seconds that the store waits before it answers."""


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """A new ledger each round."""
    units = UNITS // 50 if quick else UNITS
    rounds: list[dict[str, float]] = []
    for _ in range(1 if quick else 3):
        seconds: dict[str, float] = {}
        if {"ledger_commit", "ledger_resume"} & set(wanted):
            with TemporaryDirectory() as folder:
                seconds |= _seconds(f"{folder}/model.ledger", units, "")
        if {"ledger_commit_s3", "ledger_resume_s3"} & set(wanted):
            with late_s3() as bucket:
                seconds |= _seconds(f"{bucket}/model.ledger", units, "_s3")
        rounds.append(seconds)
    setting = f"{units:,} units of {LAYERS} layers"
    return [
        result(
            name,
            [{"ratio": one[name] / MOST[name], "setting": setting} for one in rounds],
            1.0,
            higher_is_better=False,
        )
        for name in wanted
    ]


def _seconds(url: str, units: int, where: str) -> dict[str, float]:
    """Of a commit, and of a resume."""
    began = time.perf_counter()
    with Committer(Ledger(url)) as committer:
        for unit in range(units):
            committer.commit(record_of(unit), dict, failed_before=False)
    committed = time.perf_counter()
    ledger = Ledger(url)
    assert len(ledger.committed_units()) == units
    assert len(ledger.committed()) == units
    return {
        f"ledger_commit{where}": (committed - began) / units,
        f"ledger_resume{where}": time.perf_counter() - committed,
    }


@contextmanager
def late_s3() -> Iterator[str]:
    """The URL of a bucket."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    server = spawning.Process(target=_serve, args=(theirs,))
    server.start()
    endpoint = f"http://127.0.0.1:{ours.recv()}"
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    try:
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bench", method="PUT")).close()
        yield "s3://bench"
    finally:
        server.terminate()
        server.join()


def _serve(told: Connection) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    application = DomainDispatcherApplication(create_backend_app)

    def late(*request: Any) -> Any:
        time.sleep(LATE)
        return application(*request)

    server = make_server("127.0.0.1", 0, late, threaded=True)
    told.send(server.server_port)
    server.serve_forever()


def record_of(unit: int) -> UnitRecord:
    """Of a unit of ten layers."""
    arrays = [f"{kind}/{layer}" for layer in range(LAYERS) for kind in ("layers", "norms")]
    return UnitRecord(
        unit=unit,
        rows=4096,
        checksums=dict.fromkeys(arrays, "0123abcd"),
        mean_norms=dict.fromkeys(range(LAYERS), 100.0),
        machines=("a GPU",),
        token_digest="0123456789abcdef",
        fingerprint="0123456789abcdef",
        seconds=1.0,
        versions={"torch": "2", "transformers": "5"},
        token_budget=16384,
    )
