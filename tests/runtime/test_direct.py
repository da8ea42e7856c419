"""Carries that go from process to process by Ray's direct transport, beside the object store.

It needs the package `nixl`, but no GPU: Ray is told of two, and the tensors are on the CPU. As
Ray keeps one cluster for each process, this file run as a program is the driver.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from lrt_dist.runtime.carry import Held
from lrt_dist.runtime.chain import StageActor
from lrt_dist.runtime.contract import ChainSpec, StageSpec
from lrt_dist.runtime.pool import RayRuntime

BATCHES = 8


@dataclass(frozen=True)
class Sum:
    """A task whose carry is a tensor that every stage adds one to."""

    key: str
    batches: int = BATCHES

    def smaller(self) -> None:
        return None


class Adder:
    """See `lrt_dist.runtime.contract.Stage`. The receipt is what it sent, one number a batch."""

    def __init__(self, fatal: Path | None) -> None:
        self._fatal = fatal
        self._sent: dict[str, list[float]] = {}

    def open(self, task: Sum) -> None:
        self._sent[task.key] = []

    def step(self, key: str, batch: int, carry: Any) -> torch.Tensor:
        if carry is None:
            carry = torch.full((4, 256, 512), float(batch), dtype=torch.bfloat16)
        if key == "fatal" and batch == 3 and self._fatal and not self._fatal.exists():
            self._fatal.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        sent: torch.Tensor = carry + 1
        self._sent[key].append(float(sent.float().mean()))
        return sent

    def finish(self, key: str) -> list[float]:
        return self._sent.pop(key)

    def forget(self, key: str) -> None:
        self._sent.pop(key, None)


@dataclass(frozen=True)
class BuildAdder:
    fatal: Path | None

    def __call__(self) -> Adder:
        return Adder(self.fatal)


def main(fatal: Path) -> None:
    """Ten tasks through two stages, the first of which dies once; what came out, as JSON."""
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    stages = tuple(
        StageSpec(BuildAdder(fatal if first else None), cpus=1, gpus=1) for first in (True, False)
    )
    with RayRuntime().chains(ChainSpec(stages, carry_bytes=1 << 20)) as chains:
        tasks = [Sum(f"task{n}") for n in range(9)]
        outcomes = list(chains.run([*tasks[:4], Sum("fatal"), *tasks[4:]]))
    receipts = {o.task.key: getattr(o, "receipts", str(o)) for o in outcomes}
    actor = StageActor.options(num_gpus=1).remote(stages[1])  # type: ignore[attr-defined]
    carry, _ = actor.step.remote("alone", 0, None, actor.open.remote(Sum("alone"), None))
    print(json.dumps({"sent": type(ray.get(carry)).__name__, "receipts": receipts}))


def test_carries_go_straight_and_a_dead_stage_ends_no_run(tmp_path: Path) -> None:
    pytest.importorskip("nixl")
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "died")],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sent"] == Held.__name__
    assert sorted(found["receipts"]) == sorted(["fatal", *(f"task{n}" for n in range(9))])
    expected = [[b + 1.0 for b in range(BATCHES)], [b + 2.0 for b in range(BATCHES)]]
    for key, receipts in found["receipts"].items():
        assert receipts == expected, key


if __name__ == "__main__":
    main(Path(sys.argv[1]))
