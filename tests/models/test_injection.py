"""What is done to hidden states, and where."""

from __future__ import annotations

import pytest
import torch

from lrt_dist.models.injection import (
    OPERATORS,
    POSITIONS,
    Parts,
    Positions,
    Steering,
    chosen_positions,
    inject,
)

WIDTH = 16


def every_other(parts: Parts) -> range:
    """A choice of somebody's own."""
    return range(parts.prompt, parts.tokens, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", [[0, 1, 2, 3, 4], [0, 1]]),
        ("all_but_special", [[1, 2, 3, 4], [0, 1]]),
        ("from_prompt_end", [[2, 3, 4], [0, 1]]),
        ("last", [[2], [0]]),
        ("answer", [[3, 4], [1]]),
        ("own", [[3], [1]]),
    ],
)
def test_positions_are_chosen_in_each_sequence(name: str, expected: list[list[int]]) -> None:
    positions = Positions(every_other) if name == "own" else POSITIONS.find(name)
    sequences = (Parts(5, prompt=3, special=1), Parts(2, prompt=1, special=0))
    assert [list(chosen_positions(positions, parts)) for parts in sequences] == expected


def test_a_displacement_is_added_where_the_mask_is() -> None:
    """Small whole numbers: exact."""
    hidden = torch.zeros(1, 2, 3, 2)  # [N, B, T, D]
    displacement = torch.tensor([[0.0, 2.0], [-3.0, 0.0]])
    steering = Steering.adding(displacement)[:, None, None]  # [N, 1, 1, D]
    mask = torch.tensor([[True, False, False], [False, False, True]])
    steered = inject(hidden, steering, mask)
    assert steered.shape == (2, 2, 3, 2)
    expected = torch.zeros(2, 2, 3, 2)
    for n in range(2):
        expected[n, 0, 0] = expected[n, 1, 2] = displacement[n]
    assert torch.equal(steered, expected)
    everywhere = displacement[:, None, None].expand(2, 2, 3, 2)
    assert torch.equal(inject(hidden, steering), everywhere)
    assert inject(hidden.bfloat16(), steering).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", OPERATORS.names)
def test_an_operator_changes_the_component_along_the_vector_alone(
    operator: str, dtype: torch.dtype
) -> None:
    """To rounding: 1e-5, in bfloat16 2 % of the largest state. Under a zero direction nothing
    happens."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, WIDTH, generator=random).to(dtype)
    direction = torch.nn.functional.normalize(torch.randn(1, WIDTH, generator=random))
    strengths = torch.tensor([[-1.0], [2.0], [0.0]])
    steering = Steering(OPERATORS.find(operator), strengths * direction, strengths)
    assert [content == b"" for content in steering.contents] == [False, False, True]
    steered = inject(hidden, steering[:, None, None]).float()
    before = hidden.float()
    component = before @ direction[0]
    tolerance = 1e-5 if dtype is torch.float32 else 0.02 * float(before.abs().max())
    for number, amount in enumerate((-1.0, 2.0)):
        wanted = {
            "add": component + amount,
            "ablate": component * (1 + amount),
            "clamp": torch.full_like(component, amount),
        }[operator]
        expected = before + (wanted - component).unsqueeze(-1) * direction[0]
        torch.testing.assert_close(steered[number], expected, rtol=0, atol=tolerance)
    assert torch.equal(steered[2], before)
