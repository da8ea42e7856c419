"""What kind of machine computes: on another kind equal products may differ in their last bits."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def machine_kind(device: torch.device) -> str:
    """`NVIDIA H100 80GB HBM3`, or `AMD EPYC 26/2/1, AVX512, 2 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{_processor()}, {capability}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """Name and numbers of the model as Linux has them; elsewhere the architecture.

    A virtual machine may hide the name behind `AMD EPYC`; family, model and stepping (on ARM
    implementer and part) still tell generations apart.
    """
    cpuinfo = Path("/proc/cpuinfo")
    facts: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    keys = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    numbers = "/".join(facts[key] for key in keys if key in facts)
    return f"{name} {numbers}".strip()
