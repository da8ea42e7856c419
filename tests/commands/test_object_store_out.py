"""A run whose OUT lies in an object store: killed and resumed there, it ends as on a disk.

The store is spoken to over HTTP, and every driver that is killed is a process of its own.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_azure import PROGRAM, azure_container
from local_s3 import s3_bucket, s3_keys, s3_objects
from tiny_run import fork, write_tiny_run

from lrt_dist import api
from lrt_dist.errors import IncompleteError
from lrt_dist.files import place
from lrt_dist.maps.affine import AffineMap
from lrt_dist.runfile import load_run
from lrt_dist.runtime.log import read_log
from lrt_dist.store import lease

CommandLine = Callable[..., tuple[int, str]]
BUCKET = "runs"
WAITS_FOR = (
    "rows/index.json",
    ".ledger/unit-00000001.json",
    "fits.parquet",
    "cells/",
)
"""Objects after whose appearance a driver is killed, one after the other."""


@pytest.fixture
def bucket() -> Iterator[str]:
    with s3_bucket(BUCKET) as url:
        yield url


def comparable(name: str, content: bytes) -> object:
    """What two runs must agree on: all but times, addresses and the page that shows them."""
    if name.endswith(("report.html", "driver.json")):
        return "differs"
    if "/unit-" in name:
        record = json.loads(content)
        return {key: value for key, value in record.items() if key != "seconds"}
    if name in ("fits.parquet", "vectors.parquet"):
        rows = pq.read_table(pa.BufferReader(content)).to_pylist()
        # A sum may be rounded otherwise where its numbers lie otherwise in memory.
        return [
            [f"{v:.12g}" if isinstance(v, float) else v for k, v in row.items() if k != "seconds"]
            for row in rows
        ]
    return content


@pytest.mark.slow
@pytest.mark.fault(
    "OUT is in an object store, and the driver is killed in each step",
    "run again: equal tables, maps and stores",
)
@pytest.mark.parametrize("store", ["zarr", "none"])
def test_killed_and_resumed_in_an_object_store_a_run_ends_as_on_a_disk(
    bucket: str,
    tmp_path: Path,
    tiny_source: Path,
    tiny_target: Path,
    lrt_dist: CommandLine,
    store: str,
) -> None:
    """Same shapes, machine and threads: equal bytes of all but the two tables of `comparable`."""
    run_file = write_tiny_run(
        tmp_path,
        tiny_source,
        tiny_target,
        # Few requests: the server is slow.
        extract={"store": store, "rows_per_unit": 256, "batch_tokens": 256},
        source={"model": str(tiny_source), "layers": [1]},
        target={"model": str(tiny_target), "layers": [0, 1]},
    )
    command = ("run", str(run_file), "--out", f"{bucket}/{store}")
    for wanted in WAITS_FOR:
        driver = fork(*command)
        while not any(wanted in key for key in s3_keys(BUCKET) if key.startswith(f"{store}/")):
            assert driver.is_alive(), wanted
            time.sleep(0.02)
        driver.kill()
        driver.join()
        assert driver.exitcode == -signal.SIGKILL
        assert lrt_dist("status", f"{bucket}/{store}")[0] in (0, 3)
    code, text = lrt_dist(*command)
    assert code == 0, text
    assert f"report: {bucket}/{store}/report.html" in text

    out = tmp_path / "out"
    api.run(load_run(run_file), out)
    disk = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    disk.pop(".lock")
    disk.pop("log.jsonl")
    there = {
        key.removeprefix(f"{store}/"): content
        for key, content in s3_objects(BUCKET).items()
        if key.startswith(f"{store}/")  # the server remembers those of other cases
    }
    logs = [name for name in there if name.startswith("log/")]
    assert logs, "one for each attempt that lived for ten seconds, or ended"
    for name in logs:
        del there[name]
    phases = {event.get("phase") for event in read_log(place(f"{bucket}/{store}/log.jsonl"))}
    assert "maps without a fold" in phases
    assert there.keys() == disk.keys()
    unequal = [n for n in disk if comparable(n, disk[n]) != comparable(n, there[n])]
    assert not unequal

    assert lrt_dist("verify", f"{bucket}/{store}")[0] == 0
    assert lrt_dist("status", f"{bucket}/{store}")[0] == 0
    results = api.Results.read(f"{bucket}/{store}")
    assert len(results.fits) == 2
    assert len(results.verdicts) == 1
    AffineMap.load(f"{bucket}/{store}/maps/1-0.safetensors")


@pytest.mark.slow
def test_two_drivers_of_one_out_in_an_object_store(
    bucket: str, tmp_path: Path, tiny_source: Path, tiny_target: Path, lrt_dist: CommandLine
) -> None:
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_target)
    config = load_run(run_file)
    with api.open_run(f"{bucket}/two", config) as run:
        api.index(run)
        objects_before = s3_keys(BUCKET)
        second = fork("index", str(run_file), "--out", f"{bucket}/two")
        second.join(60)
        assert second.exitcode == 2
        after = {key for key in s3_keys(BUCKET) if not key.startswith("two/log/")}
        assert after == {key for key in objects_before if not key.startswith("two/log/")}
    assert not any(key.startswith("two/driver") for key in s3_keys(BUCKET))


def test_a_driver_that_was_followed_stops(
    bucket: str,
    tmp_path: Path,
    tiny_source: Path,
    tiny_target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was not heard of for so long that another one took its OUT over."""
    monkeypatch.setattr(lease, "BEAT", 0.05)
    config = load_run(write_tiny_run(tmp_path, tiny_source, tiny_target))
    with api.open_run(f"{bucket}/followed", config) as run:
        other = {"token": "other", "host": "elsewhere", "process": 1, "beat": 3}
        for _ in range(10):  # a beat that was on its way may write over one of them
            boto3.client("s3").put_object(
                Bucket=BUCKET, Key="followed/driver.json", Body=json.dumps(other).encode()
            )
            time.sleep(0.1)
        with pytest.raises(IncompleteError, match="process 1 on elsewhere has taken over"):
            api.index(run)
    assert "followed/driver.json" in s3_keys(BUCKET), "it is the other one's"


@pytest.mark.parametrize("url", ["ftp://host/x", "s4://bucket/x"])
def test_a_url_of_no_object_store_is_refused(
    url: str, tmp_path: Path, tiny_source: Path, tiny_target: Path, lrt_dist: CommandLine
) -> None:
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_target)
    code, text = lrt_dist("run", str(run_file), "--out", url)
    assert code == 2, text
    assert "s3://, gs://, az://" in text


def test_a_folder_of_something_else_in_an_object_store_is_refused(
    bucket: str, tmp_path: Path, tiny_source: Path, tiny_target: Path, lrt_dist: CommandLine
) -> None:
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_target)
    boto3.client("s3").put_object(Bucket=BUCKET, Key="other/thing.txt", Body=b"x")
    code, text = lrt_dist("run", str(run_file), "--out", f"{bucket}/other")
    assert code == 2, text
    assert "is no run's directory" in text


def test_an_object_store_that_cannot_be_reached_is_named(
    bucket: str,
    tmp_path: Path,
    tiny_source: Path,
    tiny_target: Path,
    lrt_dist: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_target)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nobody listens
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    code, text = lrt_dist("run", str(run_file), "--out", f"{bucket}/x")
    assert code == 3, text
    assert "object store: Generic S3 error" in text
    assert "127.0.0.1:9/runs/x" in text
    assert "run the same command again" in text


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM, reason="npm install azurite")
def test_a_whole_run_on_azure(
    tmp_path: Path, tiny_source: Path, tiny_target: Path, lrt_dist: CommandLine
) -> None:
    run_file = write_tiny_run(
        tmp_path, tiny_source, tiny_target, extract={"rows_per_unit": 256, "batch_tokens": 256}
    )
    with azure_container("runs") as url:
        for changes in ([], [], ["--set", "fit.folds=2", "--set", "fit.keep_moments=false"]):
            code, text = lrt_dist("run", str(run_file), "--out", f"{url}/tiny", *changes)
            assert code == 0, text
        assert not place(f"{url}/tiny/moments").exists()
        assert lrt_dist("verify", f"{url}/tiny")[0] == 0
        assert len(api.Results.read(f"{url}/tiny").verdicts) == 1
