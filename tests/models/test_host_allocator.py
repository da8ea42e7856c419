"""Freed memory stays with the process: no page of it is handed out anew."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from lrt_dist.models.host_allocator import keep_freed_memory

SIZE = 7 << 20  # 28 MiB

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.set_num_threads(1)
counts = []
for keep in (False, True):
    if keep:
        keep_freed_memory()
        for _ in range(5):  # until there is room for a block that must be aligned
            torch.ones(SIZE)
    before = faults()
    for _ in range(5):
        torch.ones(SIZE)
    counts.append(faults() - before)
print(*counts)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this is no glibc")
def test_freed_memory_is_used_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    by_default, kept = (int(count) for count in done.stdout.split())
    assert by_default > 5 * 14, "pages may be of 4 KiB or of 2 MiB"
    assert kept < by_default / 10
