"""Tensors on their way from where they were computed to the host's memory."""

from __future__ import annotations

from collections.abc import Callable

import torch


class HostCopies:
    """Copies that a device makes while it computes on.

    On a GPU they run on a stream of their own, into pinned memory, which torch keeps and gives out
    again; without one a tensor is where it should be already.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin a copy; what is returned waits for it and gives the tensor on the host."""
        if self._stream is None:
            return lambda: tensor
        target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)
        done = self._stream.record_event()

        def wait() -> torch.Tensor:
            done.synchronize()
            return target

        return wait
