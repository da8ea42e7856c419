"""Killed anywhere and run again is never interrupted, byte for byte.

Every comparison is of the same shapes, machine and threads: equal bits.

What is killed, stopped or out of room is a process of its own; what only goes on or looks is not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tiny_run import fork, on_small_disk, start, store_digests, write_tiny_run

from lrt_dist import api
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.runfile import load_run
from lrt_dist.runtime.log import read_log

CommandLine = Callable[..., tuple[int, str]]
SHIFTED_CLOCK = Path(__file__).parents[1] / "faults/shifted_clock"
CONCEPTS_LATER = ("--set", "concepts=[]")


def units_done(out: Path) -> int:
    return len(list(out.glob("activations/*.ledger/unit-*.json")))


def wait_for_units(process: subprocess.Popen[str] | BaseProcess, out: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while units_done(out) < count:
        if isinstance(process, BaseProcess):
            assert process.is_alive()
        else:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.002)


def digest(out: Path) -> dict[str, str]:
    """Hash of every file of the stores and of the row index."""
    rows = {
        f"rows/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (out / "rows").iterdir()
    }
    return store_digests(out) | rows


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> tuple[Path, dict[str, str]]:
    """A RUN file, and the digest of its uninterrupted extraction, in `whole` beside it."""
    folder = tmp_path_factory.mktemp("reference")
    run_file = write_tiny_run(folder, tiny_source, tiny_target)
    with api.open_run(folder / "whole", load_run(run_file, ["concepts=[]"])) as run:
        api.index(run)
        api.extract(run)
    return run_file, digest(folder / "whole")


@pytest.mark.fault("the driver is killed with -9, again and again", "run again: equal")
def test_killed_again_and_again_it_ends_where_it_would_have(
    reference: tuple[Path, dict[str, str]], tmp_path: Path, lrt_dist: CommandLine
) -> None:
    run_file, expected = reference
    out = tmp_path / "killed"
    command = ("run", str(run_file), "--out", str(out), *CONCEPTS_LATER)
    total = RowIndex.open(run_file.parent / "whole/rows").units
    for units in (1, total // 2, total + 2):  # in the source model, and in the target model
        process = fork(*command)
        wait_for_units(process, out, units)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        done = units_done(out)
        assert done < 2 * total
        code, text = lrt_dist("status", str(out))
        assert code == 3, text
        assert f"{min(done, total)} of {total} units" in text
    # what a writer that was killed in the middle of a chunk leaves behind
    chunk = next((out / "activations").glob("tiny-gemma-*.zarr/layers/*/c/0/0"))
    chunk.with_name("0#1").write_bytes(b"half a chunk")
    code, text = lrt_dist(*command)
    assert code == 0, text
    assert digest(out) == expected
    code, text = lrt_dist("verify", str(out))
    assert code == 0, text
    assert "as it was written" in text
    assert lrt_dist("status", str(out))[0] == 0


@pytest.mark.fault("Ctrl-C", "exit 3, and how to go on: equal")
def test_ctrl_c_says_how_to_go_on(
    reference: tuple[Path, dict[str, str]], tmp_path: Path, lrt_dist: CommandLine
) -> None:
    run_file, expected = reference
    out = tmp_path / "stopped"
    command = ("run", str(run_file), "--out", str(out), *CONCEPTS_LATER)
    process = start(*command)
    wait_for_units(process, out, 3)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert "run the same command again" in output
    assert "Traceback" not in output
    code, text = lrt_dist(*command)
    assert code == 0, text
    assert digest(out) == expected


def flip(chunk: Path) -> None:
    content = bytearray(chunk.read_bytes())
    content[100] ^= 0x10
    chunk.write_bytes(content)


def truncate(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:-100])


@pytest.mark.fault(
    "a chunk is corrupt, cut short or deleted",
    "noticed when it is read, and named by `verify`; `--repair`, then `extract`: equal",
)
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_chunk_is_named_dropped_and_redone(
    reference: tuple[Path, dict[str, str]],
    tmp_path: Path,
    lrt_dist: CommandLine,
    damage: Callable[[Path], None],
    record_property: Callable[[str, object], None],
) -> None:
    run_file, expected = reference
    out = tmp_path / "damaged"
    shutil.copytree(run_file.parent / "whole", out)
    (store,) = out.glob("activations/tiny-gemma-*.zarr")
    damage(store / "layers/1/c/2/0")
    code, text = lrt_dist("verify", str(out))
    assert code == 1, text
    assert "target, unit 2: layers/1" in text
    assert "1 bad units" in text
    assert lrt_dist("verify", str(out), "--repair")[0] == 1
    assert lrt_dist("status", str(out))[0] == 3
    before = units_done(out)
    code, text = lrt_dist("extract", str(run_file), "--out", str(out), *CONCEPTS_LATER)
    assert code == 0, text
    assert units_done(out) == before + 1
    assert digest(out) == expected
    assert lrt_dist("verify", str(out))[0] == 0
    record_property("attempts", "1 more for its unit")


@pytest.mark.slow
@pytest.mark.fault(
    "clock and hash seed change between two attempts", "nothing depends on them: equal"
)
def test_another_clock_and_another_hash_seed_change_nothing(
    reference: tuple[Path, dict[str, str]],
    tmp_path: Path,
    lrt_dist: CommandLine,
    record_property: Callable[[str, object], None],
) -> None:
    """Killed under one, gone on with under another, a day before and a day after."""
    run_file, expected = reference
    out = tmp_path / "shifted"
    command = ("run", str(run_file), "--out", str(out), *CONCEPTS_LATER)
    for seed, shift, units in (("1", "0", 2), ("2", "-86400", 9), ("3", "86400", 0)):
        environment = {
            "PYTHONHASHSEED": seed,
            "CLOCK_SHIFT": shift,
            "PYTHONPATH": os.pathsep.join([str(SHIFTED_CLOCK), *sys.path]),
        }
        process = start(*command, environment=environment)
        if units:
            wait_for_units(process, out, units)
            process.kill()
        output, _ = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if units else 0), output
    assert digest(out) == expected
    times = [event["time"] for event in read_log(out / "log.jsonl")]
    assert max(times) - min(times) > 2 * 86400
    record_property("attempts", "1 for a unit that was committed")


@pytest.mark.slow
@pytest.mark.fault("the disk is full", "said so, exit 3; once there is room: equal")
def test_a_full_disk_says_so_and_goes_on_when_there_is_room(
    reference: tuple[Path, dict[str, str]], tmp_path: Path, lrt_dist: CommandLine
) -> None:
    run_file, expected = reference
    small = tmp_path / "small"
    small.mkdir()
    saved = tmp_path / "saved"
    out = small / "out"
    command = [sys.executable, "-m", "lrt_dist.cli", "run", str(run_file), "--out", str(out)]
    script = f"""
        {" ".join(command)} --set 'concepts=[]'
        code=$?
        rm -rf {saved}; cp -r {small}/out {saved}
        exit $code
    """
    process = on_small_disk(small, "400k", script)
    assert process.returncode == 3, process.stderr
    assert "no space left" in process.stderr
    assert "run the same command again" in " ".join(process.stderr.split())
    assert units_done(saved) > 0
    saved.rename(out)  # now there is room
    code, text = lrt_dist("run", str(run_file), "--out", str(out), *CONCEPTS_LATER)
    assert code == 0, text
    assert digest(out) == expected


@pytest.mark.slow
def test_a_killed_driver_on_ray(
    reference: tuple[Path, dict[str, str]], tmp_path: Path, lrt_dist: CommandLine
) -> None:
    """Beside an uninterrupted run on Ray: one in a single process has other threads.

    Each process has a cluster of its own (`local`), whatever else runs on this machine.
    """
    run_file, _ = reference
    out = tmp_path / "killed"
    on_ray = ("--set", "cluster.address=local", "--set", "cluster.stages=2")

    def run_to(folder: Path) -> subprocess.Popen[str]:
        return start("run", str(run_file), "--out", str(folder), *CONCEPTS_LATER, *on_ray)

    process = run_to(out)
    wait_for_units(process, out, 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    for folder in (out, tmp_path / "whole"):
        process = run_to(folder)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    assert digest(out) == digest(tmp_path / "whole")
    assert lrt_dist("verify", str(out))[0] == 0
