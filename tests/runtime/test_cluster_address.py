"""A cluster that is gone: Ray would wait for it for a quarter of an hour."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrt_dist.errors import UserError
from lrt_dist.runtime.cluster_address import connect


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that is taken, where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's folder, for this test; short, since paths of sockets are."""
    folder = Path(tempfile.mkdtemp())
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_refused_at_once(nobody: str, scheme: str) -> None:
    with pytest.raises(UserError, match=rf"no Ray cluster at {scheme}{nobody}: .*refused.*start"):
        connect(scheme + nobody, print)


def test_so_is_one_of_the_environment(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    with pytest.raises(UserError, match=f"no Ray cluster at {nobody}: .*refused"):
        connect("auto", print)


def _connect(path: Path) -> None:
    notes: list[str] = []
    connect("auto", notes.append)
    path.write_text("\n".join(notes))


def test_where_ray_start_left_an_address_behind_a_cluster_is_started(
    nobody: str, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    os.makedirs(temporary / "ray")
    (temporary / "ray" / "ray_current_cluster").write_text(nobody)
    process = multiprocessing.get_context("spawn").Process(
        target=_connect, args=(tmp_path / "notes",), daemon=True
    )
    process.start()
    process.join(100)
    assert process.exitcode == 0
    (note,) = (tmp_path / "notes").read_text().splitlines()
    assert note.startswith(f"the Ray cluster at {nobody}, which `ray start` made known, is gone")
