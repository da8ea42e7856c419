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
from lrt_dist.models.injection import POSITIONS, Parts

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


@contextmanager
def hook_at(
    model: transformers.PreTrainedModel, layer: int, positions: list[int], added: torch.Tensor
) -> Iterator[None]:
    """A plain hook that adds at some positions of one whole text."""

    def change(module: object, args: object, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, positions] += added
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = find_blocks(model)[layer].register_forward_hook(change)
    yield
    handle.remove()


@pytest.mark.parametrize("positions", POSITIONS.names)
@pytest.mark.parametrize("use_cache", [True, False])
def test_some_positions_are_steered_in_generation_of_padded_texts(
    model: transformers.PreTrainedModel, positions: str, use_cache: bool
) -> None:
    """Each text alone, without a cache, its positions chosen by hand. Tokens, which rounding does
    not move where no two logits are as good as equal."""
    model.config.bos_token_id = 5
    texts = ([5, 9, 20, 7, 31], [5, 10, 11])
    ids = torch.tensor([texts[0], [0, 0, *texts[1]]])
    attended = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "pad_token_id": 0}
    for row, text in enumerate(texts):
        # Without a cache every pass begins a text, so the prompt must be said.
        rows, known = (slice(0, 2), None) if use_cache else (slice(row, row + 1), len(text))
        with lrt_dist.steer(model, vector(), 0.8, positions=positions, prompt=known):
            both = model.generate(
                ids[rows], attention_mask=attended[rows], use_cache=use_cache, **settings
            )
        written = both[row - rows.start, 5:].tolist()
        expected = list(text)
        for _ in range(5):
            parts = Parts(len(expected), len(text), 1)
            places = list(POSITIONS.find(positions).choose(parts))
            with hook_at(model, 1, places, vector().displacement(0.8)):
                expected.append(int(logits(model, torch.tensor([expected]))[0, -1].argmax()))
        assert written == expected[len(text) :]
    assert no_hooks(model)
    assert not model._forward_pre_hooks


def test_positions_that_cannot_be_told_are_refused(model: transformers.PreTrainedModel) -> None:
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    with (
        pytest.raises(UserError, match=r"where a text begins cannot be told .* \(attention_mask"),
        lrt_dist.steer(model, vector(), 0.5, positions="last"),
    ):
        model(IDS, attention_mask=mask)
    assert not model._forward_pre_hooks
    with pytest.raises(UserError, match="did you mean 'last'"):  # noqa: SIM117
        with lrt_dist.steer(model, vector(), 0.5, positions="lest"):
            raise AssertionError("the body ran")
