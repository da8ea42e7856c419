"""What kind of machine computes: on another kind equal products may differ in their last bits."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def machine_kind(device: torch.device) -> str:
    """`NVIDIA H100 80GB HBM3`, or `AMD EPYC, AVX512, 2 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{_processor()}, {capability}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """The model that Linux names; elsewhere the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()
