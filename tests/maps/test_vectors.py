"""Vectors: how they are made, kept, carried to another model, and measured out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.vectors import SteeringVector, make_vector
from lrt_dist.sites import Sided
from lrt_dist.tensorfiles import load_tensors, save_tensors


def vector(dtype: torch.dtype = torch.float64, **changes: Any) -> SteeringVector:
    values = torch.tensor([3.0, -4.0, 0.0], dtype=dtype)
    made = SteeringVector("mood", "a/small", 3, values, "pca", 12, 1 / 3)
    return replace(made, **changes)


def contrasts(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Positive and negative states that overlap."""
    generator = torch.Generator().manual_seed(seed)
    positive, negative = torch.randn(2, 40, 6, generator=generator, dtype=torch.float64)
    return positive + torch.tensor([1.0, 0.5, 0, 0, 0, 0]), negative


def map_from(source: tuple[str, Any], **changes: Any) -> AffineMap:
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0], [5.0, 5.0]])
    made = AffineMap(weight, torch.tensor([100.0, 100.0]), source, ("b/large", 7))
    return replace(made, **changes)


# --- how they are made ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mean_difference", "pca", "logistic"])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_method_finds_a_planted_direction_with_its_sign_and_length(
    method: str, sign: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.zeros(12, dtype=torch.float64)
    planted[3] = sign * 4.0
    base = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(60, 12, generator=generator, dtype=torch.float64)
    made = make_vector(method, base + planted + noise, base)
    assert torch.cosine_similarity(made, planted, dim=0) > 0.9
    assert made.norm() == pytest.approx(4.0, rel=0.1)


def test_mean_difference_is_just_that() -> None:
    positive, negative = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2)
    assert make_vector("mean_difference", positive, negative).tolist() == [2.0, 3.0]


def test_a_penalty_changes_the_probes_direction_and_not_its_length() -> None:
    positive, negative = contrasts()
    plain = make_vector("logistic", positive, negative)
    default = make_vector("logistic", positive, negative, {"penalty": 1.0})
    strong = make_vector("logistic", positive, negative, {"penalty": 100.0})
    torch.testing.assert_close(default, plain)
    assert torch.cosine_similarity(strong, plain, dim=0) < 0.999
    assert float(strong.norm()) == pytest.approx(float(plain.norm()))


@pytest.mark.parametrize("method", ["mean_difference", "logistic"])
def test_a_parameter_that_the_method_does_not_take_is_refused_by_name(method: str) -> None:
    with pytest.raises(UserError, match=rf"vector method '{method}': .*'penalti'"):
        make_vector(method, *contrasts(), {"penalti": 1.0})


def test_states_may_be_numpy_arrays_and_of_half_precision() -> None:
    """Same shapes: equal bits, since all is copied into float64 first."""
    positive, negative = (states.to(torch.bfloat16) for states in contrasts())
    expected = make_vector("pca", positive.double(), negative.double())
    assert expected.dtype == torch.float64
    arrays = [states.float().numpy() for states in (positive, negative)]
    assert torch.equal(make_vector("pca", positive, negative), expected)
    assert torch.equal(make_vector("pca", arrays[0], arrays[1]), expected)


def first_state(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """A vector method of somebody's own."""
    return positive[0].float()


def all_states(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """What is no vector."""
    return positive


def test_a_method_of_ones_own_is_named_by_its_module() -> None:
    """A copy: equal bits."""
    positive, negative = contrasts()
    made = make_vector(f"{__name__}:first_state", positive, negative)
    assert made.dtype == torch.float64
    assert torch.equal(made, positive[0].float().double())
    with pytest.raises(UserError, match=r"gave \[40, 6\] where \[6\] was expected"):
        make_vector(f"{__name__}:all_states", positive, negative)
    with pytest.raises(UserError, match="no vector method is called 'pcaa'; did you mean 'pca'"):
        make_vector("pcaa", positive, negative)


# --- how they are kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1 / 3, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_vector_comes_back_as_it_went(
    tmp_path: Path, dtype: torch.dtype, norm: float | None
) -> None:
    """A copy: equal bits."""
    path = tmp_path / "deep" / "v.safetensors"
    saved = vector(dtype, norm=norm)
    saved.save(path)
    for given in (path, str(path)):
        loaded = SteeringVector.load(given)
        assert loaded.values.dtype == dtype
        assert torch.equal(loaded.values, saved.values)
        assert (loaded.concept, loaded.model, loaded.layer) == ("mood", "a/small", 3)
        assert (loaded.method, loaded.pairs, loaded.norm) == ("pca", 12, norm)
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]


def test_a_vector_may_be_given_as_an_array() -> None:
    """A copy: equal bits."""
    made = SteeringVector("mood", "m", 0, np.arange(3.0))  # type: ignore[arg-type]
    assert torch.equal(made.values, torch.arange(3.0, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"a steering vector is \[d\], got \[1, 3\]"):
        replace(made, values=torch.zeros(1, 3))


def test_what_is_no_vector_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no steering vector at {tmp_path / 'none'}"):
        SteeringVector.load(tmp_path / "none")
    path = tmp_path / "v.safetensors"
    map_from(("a/small", 3)).save(path)
    with pytest.raises(CorruptionError, match="holds 'AffineMap', not SteeringVector"):
        SteeringVector.load(path)
    path.write_bytes(b"torn")
    with pytest.raises(CorruptionError, match=f"{path} is not a safetensors file"):
        SteeringVector.load(path)


@pytest.mark.parametrize(
    ("tensors", "changes", "wrong"),
    [
        ({}, {}, "KeyError.*values"),
        ({"values": torch.zeros(1, 3)}, {}, r"ValueError.*\[1, 3\]"),
        ({"values": torch.zeros(3)}, {"layer": "three"}, "ValueError.*three"),
        ({"values": torch.zeros(3)}, {"norm": None}, "KeyError.*norm"),
    ],
)
def test_half_a_vector_is_not_loaded(
    tmp_path: Path, tensors: dict[str, torch.Tensor], changes: dict[str, Any], wrong: str
) -> None:
    path = tmp_path / "v.safetensors"
    vector().save(path)
    metadata = load_tensors(path, "SteeringVector")[1] | changes
    save_tensors(path, tensors, {k: v for k, v in metadata.items() if v is not None})
    with pytest.raises(CorruptionError, match=f"{path} is not a whole vector: {wrong}"):
        SteeringVector.load(path)


# --- how they are used ----------------------------------------------------------------------------


def test_a_displacement_is_as_long_as_its_strength_says() -> None:
    """To rounding: 1e-6, in float32."""
    added = vector(norm=10.0).displacement(-0.5)
    assert added.dtype == torch.float32
    torch.testing.assert_close(added, torch.tensor([-3.0, 4.0, 0.0]))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        odd = torch.tensor([1.0, 3.0, -7.0]).to(dtype)
        added = vector(values=odd, norm=1e3).displacement(0.5)
        assert float(added.norm()) == pytest.approx(500, rel=1e-6)
        nothing = vector(values=torch.zeros(3, dtype=dtype), norm=1e3).displacement(0.5)
        assert nothing.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(UserError, match=r"'mood' has no norm.*replace\(vector, norm=…\)"):
        vector(norm=None).displacement(0.5)


@pytest.mark.parametrize("norm", [8.5, None])
def test_a_transferred_vector_lives_where_the_map_ends(norm: float | None) -> None:
    """Small whole numbers: exact. The bias plays no part unless it is asked for."""
    affine = map_from(("a/small", 3), norms=Sided(2.0, norm))
    moved = affine.transfer(vector())
    assert moved.values.tolist() == [3.0, 2.0]
    assert moved.values.dtype == affine.weight.dtype
    assert (moved.model, moved.layer, moved.norm) == ("b/large", 7, norm)
    assert (moved.concept, moved.pairs) == ("mood", 12)
    assert moved.method == "pca, transferred from a/small layer 3"
    with_bias = affine.transfer(vector(), bias=True)
    assert torch.equal(with_bias.values, moved.values + affine.bias)
    assert with_bias.method == f"{moved.method} with bias"


@pytest.mark.parametrize(
    ("source", "begins"),
    [
        (("a/small", 4), "a/small layer 4"),
        (("c", 3), "c layer 3"),
        (("a/small", (3, 4)), r"a/small layer 3\+4"),
    ],
)
def test_a_vector_of_another_layer_is_not_transferred(source: Any, begins: str) -> None:
    expected = rf"'mood' lives at a/small layer 3, this map begins at {begins}; .*replace\(vector"
    with pytest.raises(ValueError, match=expected):
        map_from(source).transfer(vector())
