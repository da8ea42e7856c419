"""Steering any causal LM: what is added, where, and that nothing of it stays behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

import lrt_dist
from lrt_dist.errors import UserError
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.models.anatomy import find_blocks
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
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "gpt-2": lambda: transformers.GPT2Config(
        vocab_size=61,
        n_embd=WIDTH,
        n_layer=3,
        n_head=2,
        n_positions=64,
        bos_token_id=None,
        eos_token_id=None,
    ),
}
IDS = torch.tensor([[5, 9, 20, 7, 31], [8, 9, 10, 11, 12]])


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(FAMILIES[request.param]())
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def vector(layer: int = 1, seed: int = 1) -> SteeringVector:
    values = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return SteeringVector("mood", "m", layer, values, norm=20.0)


def logits(model: transformers.PreTrainedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        rows: torch.Tensor = model(ids, use_cache=False).logits
        return rows


@contextmanager
def plain_hook(model: transformers.PreTrainedModel, layer: int, added: Any) -> Iterator[None]:
    """The same by hand."""

    def hook(module: object, args: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + added, *output[1:])
        return output + added

    handle = find_blocks(model)[layer].register_forward_hook(hook)
    yield
    handle.remove()


def no_hooks(model: transformers.PreTrainedModel) -> bool:
    return not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("layer", [0, 2])
def test_steering_is_a_plain_forward_with_a_plain_hook(
    model: transformers.PreTrainedModel, layer: int
) -> None:
    """To rounding: 1e-5. Before and after, same shapes: equal bits."""
    steering = vector(layer)
    before = logits(model)
    with lrt_dist.steer(model, steering, strength=-0.5):
        steered = logits(model)
    length = float(steering.values.square().sum()) ** 0.5
    by_hand = (-0.5 * 20.0 / length * steering.values).float()
    with plain_hook(model, layer, by_hand):
        expected = logits(model)
    torch.testing.assert_close(steered, expected, rtol=1e-5, atol=1e-5)
    assert (steered - before).abs().max() > 0.1
    assert torch.equal(logits(model), before)
    assert no_hooks(model)


def test_nested_contexts_add_up(model: transformers.PreTrainedModel) -> None:
    """To rounding: 1e-5, since two sums become one."""
    one, other, elsewhere = vector(), vector(seed=2), vector(0, seed=3)
    with (
        lrt_dist.steer(model, one, 0.5),
        lrt_dist.steer(model, other, -0.3),
        lrt_dist.steer(model, elsewhere, 0.2),
    ):
        together = logits(model)
    with (
        plain_hook(model, 1, one.displacement(0.5) + other.displacement(-0.3)),
        plain_hook(model, 0, elsewhere.displacement(0.2)),
    ):
        expected = logits(model)
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)
    with lrt_dist.steer(model, one, 0.5):
        with lrt_dist.steer(model, other, -0.3):
            pass
        alone = logits(model)
    with plain_hook(model, 1, one.displacement(0.5)):
        torch.testing.assert_close(alone, logits(model), rtol=1e-5, atol=1e-5)


def test_generation_is_steered_at_every_token(model: transformers.PreTrainedModel) -> None:
    """Tokens, which rounding does not move where no two logits are as good as equal."""
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}
    with lrt_dist.steer(model, vector(), 0.5):
        steered = model.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)
    expected = IDS
    with plain_hook(model, 1, vector().displacement(0.5)):
        for _ in range(6):
            following = logits(model, expected)[:, -1].argmax(-1, keepdim=True)
            expected = torch.cat([expected, following], 1)
    assert steered.tolist() == expected.tolist()
    plain = model.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)
    assert plain.tolist() != expected.tolist()


def test_a_model_of_half_precision_is_steered_in_its_own_dtype(
    model: transformers.PreTrainedModel,
) -> None:
    """To rounding: bfloat16's, 1e-2."""
    half = model.to(torch.bfloat16)
    with lrt_dist.steer(half, vector(), 0.5):
        steered = logits(half)
    assert steered.dtype == torch.bfloat16
    with plain_hook(half, 1, vector().displacement(0.5).to(torch.bfloat16)):
        torch.testing.assert_close(steered, logits(half), rtol=1e-2, atol=1e-2)


def test_what_fails_inside_leaves_no_hook(model: transformers.PreTrainedModel) -> None:
    with pytest.raises(KeyboardInterrupt), lrt_dist.steer(model, vector(), 0.5):
        raise KeyboardInterrupt
    assert no_hooks(model)
    with pytest.raises(IndexError), lrt_dist.steer(model, vector(), 0.5):
        logits(model, IDS + 1000)
    assert no_hooks(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": None}, r"'mood' has no norm.*dataclasses\.replace\(vector, norm=…\)"),
        (
            {"values": torch.ones(WIDTH + 1)},
            r"'mood' has 17 dimensions .* width 16; use AffineMap\.transfer",
        ),
        ({"layer": 3}, r"lives at layer 3 of m; this model has layers 0 … 2"),
        ({"layer": -1}, r"lives at layer -1 of m; this model has layers 0 … 2"),
    ],
)
def test_a_vector_that_does_not_fit_is_refused_with_a_way_out(
    model: transformers.PreTrainedModel, changes: dict[str, Any], message: str
) -> None:
    with (
        pytest.raises(UserError, match=message),
        lrt_dist.steer(model, replace(vector(), **changes), 0.5),
    ):
        raise AssertionError("the body ran")
    assert no_hooks(model)


def test_a_model_without_one_list_of_blocks_is_refused(
    model: transformers.PreTrainedModel,
) -> None:
    model.config.num_hidden_layers = 9
    with (
        pytest.raises(UserError, match="found 0 lists of 9 blocks"),
        lrt_dist.steer(model, vector(), 0.5),
    ):
        raise AssertionError("the body ran")
    assert no_hooks(model)


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
    rows = torch.cat([direction, direction, torch.zeros(1, WIDTH)])
    amounts = torch.tensor([[-1.0], [2.0], [0.0]])
    steering = Steering(OPERATORS.find(operator), rows, amounts)
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


def test_a_model_is_steered_by_an_operator(model: transformers.PreTrainedModel) -> None:
    """-1 removes a vector: then its sign and its norm play no part. To rounding: 1e-5."""
    steering = vector()
    unit = (steering.values / steering.values.norm()).float()
    states: list[torch.Tensor] = []

    def keep(module: object, args: object, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handle = find_blocks(model)[1].register_forward_hook(keep)
    logits(model)
    handle.remove()
    with lrt_dist.steer(model, replace(steering, norm=None), -1.0, operator="ablate"):
        ablated = logits(model)
    with plain_hook(model, 1, -(states[0] @ unit).unsqueeze(-1) * unit):
        torch.testing.assert_close(ablated, logits(model), rtol=1e-5, atol=1e-5)
    with lrt_dist.steer(model, steering, 0.3, operator="clamp"):
        clamped = logits(model)
    with plain_hook(model, 1, (0.3 * 20.0 - states[0] @ unit).unsqueeze(-1) * unit):
        torch.testing.assert_close(clamped, logits(model), rtol=1e-5, atol=1e-5)
    with (
        pytest.raises(UserError, match="no operator is called 'abalte'; did you mean 'ablate'"),
        lrt_dist.steer(model, steering, -1.0, operator="abalte"),
    ):
        raise AssertionError("the body ran")
