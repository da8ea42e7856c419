"""Hooks on decoder blocks, as context managers that unwind even when half installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


class StopForward(Exception):  # noqa: N818 (not an error: the way out of a forward pass)
    """Raised by the last wanted block; carries its hidden state `[batch, tokens, d]`."""

    def __init__(self, hidden_BTD: torch.Tensor) -> None:
        super().__init__("the last wanted block is done")
        self.hidden_BTD = hidden_BTD


def block_output(output: Any) -> torch.Tensor:
    """The hidden state in what a block returns: the tensor itself, or the first of several."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return hidden


@contextmanager
def capture(
    blocks: Mapping[int, nn.Module], select: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[dict[int, torch.Tensor]]:
    """Collect `select(hidden)` at the output of each of `blocks` during a forward pass."""
    selected: dict[int, torch.Tensor] = {}

    def tap(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            selected[layer] = select(block_output(output))

        return hook

    with ExitStack() as stack:
        for layer, block in blocks.items():
            handle = block.register_forward_hook(tap(layer))
            stack.callback(handle.remove)
        yield selected


@contextmanager
def change_output(block: nn.Module, change: Callable[[Any], torch.Tensor]) -> Iterator[None]:
    """Let the hidden state in what `block` returns be `change(output)`."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        changed = change(output)
        return (changed, *output[1:]) if isinstance(output, tuple | list) else changed

    with _hooked(block, hook):
        yield


def change_hidden(
    block: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]
) -> AbstractContextManager[None]:
    """Let the hidden state in what `block` returns be `change(hidden)`."""
    return change_output(block, lambda output: change(block_output(output)))


@contextmanager
def stop_after(block: nn.Module) -> Iterator[None]:
    """End the forward pass with `StopForward` once `block` has run."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        raise StopForward(block_output(output))

    with _hooked(block, hook):
        yield


@contextmanager
def _hooked(block: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
