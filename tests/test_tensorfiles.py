"""Files are there whole, say what they are, or are not there."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from local_s3 import s3_bucket
from safetensors.torch import save_file
from tiny_run import forked, kill_when, on_small_disk

from lrt_dist.errors import CorruptionError, DiskFullError, as_disk_full_error
from lrt_dist.files import place, sweep
from lrt_dist.tensorfiles import load_tensors, save_tensors


def assert_equal(again: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Names, dtypes and bits."""
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)


def test_tensors_come_back_as_they_went(tmp_path: Path) -> None:
    """A copy: equal bits."""
    whole = torch.randn(4, 6, dtype=torch.float64)
    tensors = {
        "whole": whole,
        "row": whole[1],
        "transposed": whole.T,
        "empty": torch.zeros(0, 3),
        "half": torch.tensor(1.5, dtype=torch.bfloat16),
    }
    path = tmp_path / "deep" / "t.safetensors"
    save_tensors(path, tensors, {"kind": "Thing", "name": 'a "Ω"'})
    again, metadata = load_tensors(path, "Thing")
    assert metadata == {"kind": "Thing", "name": 'a "Ω"'}
    assert_equal(again, tensors)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_is_not_what_was_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.zeros(5)}, {"kind": "Thing"})
    with pytest.raises(CorruptionError, match="holds 'Thing', not Other"):
        load_tensors(path, "Other")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(CorruptionError, match="holds None"):
        load_tensors(tmp_path / "bare.safetensors", "Thing")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptionError, match="is not a safetensors file"):
        load_tensors(path, "Thing")
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none.safetensors", "Thing")


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """A real one, in a process of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    saving = f"""
from pathlib import Path
import torch
from lrt_dist.tensorfiles import save_tensors
save_tensors(Path("{disk}/t.safetensors"), {{"a": torch.zeros(1 << 19)}}, {{"kind": "Thing"}})
"""
    script = f"{sys.executable} -c {shlex.quote(saving)}; ls -A {disk}"
    ended = on_small_disk(disk, "1m", script)
    said = r"DiskFullError: no space left while writing to .*t\.safetensors"
    assert re.search(said, ended.stderr), ended.stderr
    assert not ended.stdout, "nothing is left"


def test_a_file_may_be_read_by_whom_the_user_lets(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    before = os.umask(0o022)
    try:
        save_tensors(path, {"a": torch.zeros(5)}, {"kind": "Thing"})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    """A real process, killed for good while safetensors writes."""

    def left() -> bool:
        return any(path.name.startswith(".tmp") for path in tmp_path.iterdir())

    for _ in range(20):  # it may be through with the file before it dies
        kill_when(forked(_save_for_ever, str(tmp_path / "t.safetensors")), left)
        if left():
            break
    assert left()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"t.safetensors"}


def _save_for_ever(path: str) -> None:
    while True:
        save_tensors(Path(path), {"a": torch.zeros(1 << 24)}, {"kind": "Thing"})


@pytest.mark.parametrize("text", ["No space left on device", "(os error 28)", "StorageFull"])
def test_other_libraries_full_disks_are_known(text: str) -> None:
    with pytest.raises(DiskFullError, match="writing to there"), as_disk_full_error("there"):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="something else"), as_disk_full_error("there"):
        raise RuntimeError("something else")


def test_tensors_in_an_object_store(tmp_path: Path) -> None:
    """A copy: equal bits; and what is torn is told, not guessed at."""
    with s3_bucket("tensors") as url:
        path = place(f"{url}/deep/t.safetensors")
        tensors = {
            "large": torch.randn(600, 500),  # beyond what is fetched at once
            "small": torch.tensor([1.5, -2.5], dtype=torch.bfloat16),
            "empty": torch.zeros(0, 3),
        }
        save_tensors(path, tensors, {"kind": "Thing", "name": "a"})
        again, metadata = load_tensors(path, "Thing")
        assert metadata == {"kind": "Thing", "name": "a"}
        assert_equal(again, tensors)
        content = path.read_bytes()
        for torn in (b"", content[:5], content[:30], content[:-3], b"x" * 100):
            path.write_bytes(torn)
            with pytest.raises(CorruptionError, match="is not a safetensors file"):
                load_tensors(path, "Thing")
        path.unlink()
        with pytest.raises(FileNotFoundError):
            load_tensors(path, "Thing")
