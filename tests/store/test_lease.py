"""One driver at a time on a store: on disk, and over HTTP."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import obstore
import pytest

from lrt_dist.errors import IncompleteError, UserError
from lrt_dist.store import lease
from lrt_dist.store.lease import sole_driver
from lrt_dist.store.objects import open_objects


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.1)


def hold(url: str) -> None:
    """In a process of its own: hold the lease until killed."""
    lease.BEAT = 0.1
    with sole_driver(url, print):
        time.sleep(60)


@pytest.fixture
def holder(url: str) -> Iterator[multiprocessing.process.BaseProcess]:
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(url,))
    process.start()
    deadline = time.monotonic() + 60
    while holder_of(url) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    process.kill()
    process.join()


def holder_of(url: str) -> dict[str, object] | None:
    try:
        body = obstore.get(open_objects(url), "driver.json").bytes()
    except FileNotFoundError:
        return None
    found: dict[str, object] = json.loads(bytes(body))
    return found


@pytest.mark.fault(
    "two drivers on one store",
    "the second is refused",
)
def test_a_second_driver_is_refused(url: str, holder: multiprocessing.process.BaseProcess) -> None:
    notes: list[str] = []
    with (
        pytest.raises(UserError, match=rf"process {holder.pid} on \S+ is working on"),
        sole_driver(url, notes.append),
    ):
        raise AssertionError("both hold it")
    assert "taking it over if nothing is heard" in notes[0]


def test_a_killed_driver_of_this_machine_is_followed_at_once(
    url: str, holder: multiprocessing.process.BaseProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    monkeypatch.setattr(lease, "PATIENCE", 10_000)
    with sole_driver(url, print) as held:
        held.check()
        assert (holder_of(url) or {})["process"] == os.getpid()
    assert holder_of(url) is None


@pytest.mark.fault(
    "a driver of another machine is gone for good",
    "the next one takes over after 30 seconds",
)
def test_a_driver_of_another_machine_that_is_silent_is_followed(url: str) -> None:
    body = {"token": "x", "host": "elsewhere", "process": 1, "beat": 7}
    obstore.put(open_objects(url), "driver.json", json.dumps(body).encode())
    with sole_driver(url, print):
        assert (holder_of(url) or {})["host"] != "elsewhere"


def test_a_driver_that_was_silent_too_long_learns_that_it_was_followed(url: str) -> None:
    with sole_driver(url, print) as held:
        held.check()
        body = {"token": "x", "host": "elsewhere", "process": 1, "beat": 7}
        obstore.put(open_objects(url), "driver.json", json.dumps(body).encode())
        time.sleep(1)
        with pytest.raises(IncompleteError, match="process 1 on elsewhere has taken over"):
            held.check()
    assert (holder_of(url) or {})["token"] == "x"
