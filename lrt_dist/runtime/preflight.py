"""What the machines have, asked before anything is placed on them."""

from __future__ import annotations

import torch


def smallest_gpu() -> int:
    """Bytes of memory of the smallest GPU of this machine."""
    return min(
        int(torch.cuda.get_device_properties(i).total_memory)
        for i in range(torch.cuda.device_count())
    )
