"""A hidden state survives its way between processes, and is nobody else's memory."""

from __future__ import annotations

import pickle

import pytest
import torch

from lrt_dist.runtime.carry import packed, unpacked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 5), (7,)])
def test_a_tensor_comes_back_as_it_went(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A copy: equal bits."""
    tensor = torch.randn(shape).to(dtype)
    sent = packed(tensor.transpose(0, -1))
    again = unpacked(pickle.loads(pickle.dumps(sent)))  # noqa: S301 (as Ray does)
    assert again.dtype == dtype
    assert torch.equal(again, tensor.transpose(0, -1))


def test_its_bytes_travel_beside_the_pickle() -> None:
    buffers: list[pickle.PickleBuffer] = []
    carry = packed(torch.randn(64, 1024))
    pickled = pickle.dumps(carry, protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 1000
    assert sum(buffer.raw().nbytes for buffer in buffers) == 64 * 1024 * 4


def test_what_is_received_may_be_written_to() -> None:
    """As blocks do that add in place; what Ray maps is read by others too."""
    sent = packed(torch.ones(2, 3))
    sent.content.flags.writeable = False
    received = unpacked(sent)
    received += 1
    assert unpacked(sent).tolist() == torch.ones(2, 3).tolist()


@pytest.mark.parametrize("carry", [None, 3, "text", [1, 2], torch.tensor(2.0)])
def test_what_is_no_array_goes_as_it_is(carry: object) -> None:
    assert unpacked(packed(carry)) is carry
