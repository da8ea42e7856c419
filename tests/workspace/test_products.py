"""Where the fit's products are made. There is no GPU here: the cores stand for one, and what a GPU
would say is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lrt_dist import api
from lrt_dist.runfile import load_run
from lrt_dist.runtime.log import read_log
from lrt_dist.runtime.preflight import Float64Products, float64_products
from lrt_dist.workspace import products
from lrt_dist.workspace.products import products_device

WriteRun = Callable[..., Path]


@pytest.fixture
def run(write_run: WriteRun, tmp_path: Path) -> Iterator[api.Run]:
    with api.open_run(tmp_path / "out", load_run(write_run(), ["concepts=[]"])) as opened:
        yield opened


def with_gpus(run: api.Run, monkeypatch: pytest.MonkeyPatch, found: Float64Products) -> None:
    run.runtime.node_gpus = (8.0,)
    run.runtime.node_cpus = (32.0,)
    monkeypatch.setattr(run.runtime, "gpu_memory", lambda: 80 * 10**9)
    monkeypatch.setattr(products, "float64_products", lambda device: found)


def told(run: api.Run) -> str:
    return str(list(read_log(run.folder.log))[-1]["message"])


def test_without_gpus_there_is_nothing_to_ask(run: api.Run) -> None:
    assert products_device(run, 1 << 60) == ("cpu", 0.0)
    assert not any(event["event"] == "fit" for event in read_log(run.folder.log))


@pytest.mark.parametrize(
    ("gpu", "core", "difference", "gpu_bytes", "device", "message"),
    [
        (5e13, 4e10, 1e-15, 10**9, "cuda", r"made on the GPUs: 400\.00 TFLOP/s of all GPUs, 1\.28"),
        (1e11, 4e10, 1e-15, 10**9, "cpu", r"made on the cores: 0\.80 TFLOP/s of all GPUs, 1\.28"),
        (5e13, 4e10, 1e-7, 10**9, "cpu", r"those of a GPU differ by 1\.0e-07"),
        (5e13, 4e10, 1e-15, 10**11, "cpu", r"a task needs 93\.1 GiB, .*lower fit\.tile_bytes"),
    ],
    ids=["fast", "slow", "wrong", "small"],
)
def test_the_faster_ones_that_are_right_and_large_enough(
    run: api.Run,
    monkeypatch: pytest.MonkeyPatch,
    gpu: float,
    core: float,
    difference: float,
    gpu_bytes: int,
    device: str,
    message: str,
) -> None:
    with_gpus(run, monkeypatch, Float64Products(gpu, core, difference))
    assert products_device(run, gpu_bytes)[0] == device
    assert re.search(message, told(run))


def test_a_product_is_timed_and_compared() -> None:
    """The cores beside themselves: the same bits."""
    found = float64_products("cpu")
    assert found.gpu > 1e8
    assert found.core > 1e8
    assert found.difference == 0
