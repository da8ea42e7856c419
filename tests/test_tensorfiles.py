"""Files are there whole, say what they are, or are not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from local_s3 import s3_bucket
from safetensors.torch import save_file

from lrt_dist.errors import CorruptionError, DiskFullError, as_disk_full_error
from lrt_dist.files import place
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


def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match=r"no space left while writing to .*t\.safetensors"):
        save_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(5)}, {"kind": "Thing"})
    assert not list(tmp_path.iterdir())


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
