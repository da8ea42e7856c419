"""A map is a function that composes, turns round, and comes back from a disk as it went."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import r2_score

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.card import model_card
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.sites import Sided
from lrt_dist.tensorfiles import save_tensors

A, B, C = ("a/small", 20), ("b", 7), ("/home/me/models/c_large", 0)
METRICS = {"r2": 0.4567891, "r2_mismatched": -0.02, "n": 12345, "path": [0.5, 2], "why": None}


def random_map(
    d: int = 4,
    e: int = 3,
    source: tuple[str, int] = A,
    target: tuple[str, int] = B,
    *,
    rank: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> AffineMap:
    rng = np.random.default_rng(seed)
    rank = min(d, e) if rank is None else rank
    weight = rng.normal(size=(d, rank)) @ rng.normal(size=(rank, e))
    bias = torch.from_numpy(rng.normal(size=e)).to(dtype)
    return AffineMap(torch.from_numpy(weight).to(dtype), bias, source, target, "affine", 1 / 3)


def states(d: int, n: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(9).normal(size=(n, d)))


def test_points_have_the_bias_and_directions_do_not() -> None:
    """Small whole numbers: their sums are exact in any order."""
    affine = AffineMap(torch.eye(3)[:, :2], torch.tensor([5.0, 6.0]), ("a", 1), ("b", 2))
    one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 4.0, 4.0])
    assert affine.map_points(one).tolist() == [6.0, 8.0]
    difference = affine.map_points(one) - affine.map_points(other)
    assert torch.equal(affine.map_directions(one - other), difference)
    assert not callable(affine)
    with pytest.raises(ValueError, match=r"takes 3 dimensions \(a layer 1\), got 2"):
        affine.map_points(torch.zeros(2))
    with pytest.raises(ValueError, match="do not fit"):
        AffineMap(torch.zeros(3, 2), torch.zeros(3), ("a", 1), ("b", 2))


def test_metrics_are_a_copy_that_json_can_hold() -> None:
    metrics: dict[str, Any] = {"quantiles": (0.1, 0.9)}
    affine = replace(random_map(), metrics=metrics)
    metrics["quantiles"] = None
    assert affine.metrics == {"quantiles": [0.1, 0.9]}
    assert copy.deepcopy(affine).metrics == affine.metrics
    with pytest.raises(TypeError, match="Tensor is not JSON serializable"):
        replace(affine, metrics={"r2": torch.zeros(1)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["deep/m.safetensors", "deep/folder", "a.folder"])
def test_a_map_comes_back_as_it_went(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """A copy: equal bits."""
    norms = Sided(1 / 7, None)
    affine = replace(random_map(target=C, dtype=dtype), metrics=METRICS, norms=norms)
    path = tmp_path / name
    affine.save(path)
    for given in (path, str(path)):
        again = AffineMap.load(given)
        assert again.weight.dtype == again.bias.dtype == dtype
        assert torch.equal(again.weight, affine.weight)
        assert torch.equal(again.bias, affine.bias)
        assert (again.source, again.target) == (A, C)
        assert (again.method, again.ridge, again.metrics) == ("affine", 1 / 3, METRICS)
        assert again.norms == norms
    written = {p.name for p in (path.parent if path.is_file() else path).iterdir()}
    assert written == ({path.name} if path.is_file() else {"map.safetensors", "README.md"})


def test_what_is_no_map_is_not_loaded(tmp_path: Path) -> None:
    for nothing in (tmp_path, tmp_path / "none", tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match=f"no map at {nothing}"):
            AffineMap.load(nothing)
    vector = tmp_path / "v.safetensors"
    SteeringVector("mood", "m", 3, torch.zeros(5), "pca", 12).save(vector)
    with pytest.raises(CorruptionError, match="holds 'SteeringVector', not AffineMap"):
        AffineMap.load(vector)
    partial = tmp_path / "map.safetensors"
    save_tensors(partial, {"weight": torch.zeros(2, 2)}, {"kind": "AffineMap"})
    with pytest.raises(CorruptionError, match="is not a whole map: KeyError"):
        AffineMap.load(tmp_path)


def test_a_card_says_what_the_map_is(tmp_path: Path) -> None:
    replace(random_map(576, 640), metrics=METRICS).save(tmp_path)
    card = (tmp_path / "README.md").read_text()
    _, front_matter, body = card.split("---\n", 2)
    front = yaml.safe_load(front_matter)
    assert front["library_name"] == "lrt_dist"
    assert front["base_model"] == ["a/small", "b"]
    assert "steering-vectors" in front["tags"]
    assert body.startswith("\n# a/small layer 20 → b layer 7\n")
    for part in (
        "d_source = 576", "d_target = 640", "Method: affine; λ = 0.3333", "float64",
        "| r2 | 0.4568 |", "| r2_mismatched | -0.02 |", "| n | 12345 |", "| path | 0.5, 2 |",
        "| why | – |", "map_directions(v)", "affine.transfer(vector)",
        "Read R² beside `r2_mismatched`",
    ):  # fmt: skip
        assert part in body, part
    assert card == model_card(AffineMap.load(tmp_path))


@pytest.mark.parametrize(
    "model", ["/home/me/c_large", "./c_large", "~/c_large", "x/y/c_large", "c_large.gguf", "a--b"]
)
def test_a_card_gives_no_local_path_as_base_model(model: str) -> None:
    card = model_card(random_map(target=(model, 2)))
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == ["a/small"]
    assert f"→ {Path(model).name} layer 2" in card
    assert "/home" not in card
    bare = model_card(random_map(source=(model, 2), target=(model, 3)))
    assert "base_model" not in yaml.safe_load(bare.split("---\n")[1])
    assert "None are known" in bare


def test_then_is_one_after_the_other() -> None:
    """To rounding: 1e-7, with weights multiplied in another order."""
    first = replace(random_map(4, 3), metrics=METRICS, norms=Sided(1.0, 2.0))
    second = replace(random_map(3, 6, B, C), method="linear", norms=Sided(3.0, 4.0))
    both = first.then(second)
    x = states(4)
    torch.testing.assert_close(both.map_points(x), second.map_points(first.map_points(x)))
    torch.testing.assert_close(
        both.map_directions(x), second.map_directions(first.map_directions(x))
    )
    assert (both.source, both.target) == (A, C)
    assert (both.method, both.ridge, both.metrics) == ("affine then linear", 0.0, {})
    assert both.norms == Sided(1.0, 4.0)
    narrow = random_map(3, 6, B, C, dtype=torch.float32)
    assert first.then(narrow).weight.dtype == torch.float64
    assert first.then(narrow).bias.dtype == torch.float64


def test_then_refuses_what_does_not_begin_where_the_first_ends() -> None:
    first = random_map(4, 3)
    for source in (("b", 8), C):
        expected = f"ends at b layer 7, the second begins at {source[0]} layer {source[1]}"
        with pytest.raises(ValueError, match=expected) as refusal:
            first.then(random_map(3, 6, source, A))
    assert "dataclasses.replace(second, source=('b', 7))" in str(refusal.value)
    assert first.then(replace(random_map(3, 6, C, A), source=("b", 7))).target == A
    with pytest.raises(ValueError, match=r"layer 7 with 3 dimensions, the second .* with 5"):
        first.then(random_map(5, 6, B, C))


def test_the_inverse_of_a_square_map_undoes_it() -> None:
    """To rounding: 1e-7."""
    affine = replace(random_map(5, 5), norms=Sided(1.0, 2.0))
    other = random_map(5, 5, B, C, seed=1)
    back = affine.inverse()
    x = states(5)
    torch.testing.assert_close(back.map_points(affine.map_points(x)), x)
    torch.testing.assert_close(affine.map_directions(back.map_directions(x)), x)
    torch.testing.assert_close(back.weight, torch.linalg.inv(affine.weight))
    assert (back.source, back.target) == (B, A)
    assert (back.method, back.ridge, back.metrics) == ("inverse(affine)", 0.0, {})
    assert back.norms == Sided(2.0, 1.0)
    # (first, then second)⁻¹ = second⁻¹, then first⁻¹
    one, two = affine.then(other).inverse(), other.inverse().then(back)
    torch.testing.assert_close(one.weight, two.weight)
    torch.testing.assert_close(one.bias, two.bias)


@pytest.mark.parametrize(("d", "e", "rank"), [(3, 6, 3), (6, 3, 3), (5, 5, 2), (6, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_other_inverses_are_minimum_norm_least_squares(
    d: int, e: int, rank: int, dtype: torch.dtype
) -> None:
    affine = random_map(d, e, rank=rank, dtype=dtype)
    back = affine.inverse()
    assert back.weight.dtype == back.bias.dtype == dtype
    weight, bias = affine.weight.double().numpy(), affine.bias.double().numpy()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    expected = np.linalg.pinv(weight, rcond=tolerance)
    y = states(e).numpy()
    x = back.map_points(torch.from_numpy(y)).double().numpy()
    close = 100 * tolerance * float(np.abs(expected).max())
    np.testing.assert_allclose(back.weight.double().numpy(), expected, rtol=0, atol=close)
    least = np.linalg.lstsq(weight.T, (y - bias).T, rcond=tolerance)[0].T
    np.testing.assert_allclose(x, least, rtol=0, atol=close)


def test_a_half_precision_map_has_an_inverse() -> None:
    """Its entries are coarse, but that is no want of rank."""
    rotation = torch.linalg.qr(states(64, 64))[0]
    affine = AffineMap(rotation.bfloat16(), torch.zeros(64).bfloat16(), A, B)
    torch.testing.assert_close(affine.inverse().weight, rotation.T.bfloat16(), rtol=0, atol=0.02)


def test_r2_is_sklearns_weighted_by_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=generator), torch.randn(50, 3, generator=generator)
    affine = AffineMap(torch.randn(4, 3, generator=generator), torch.ones(3), ("a", 0), ("b", 0))
    expected = r2_score(y, affine.map_points(x), multioutput="variance_weighted")
    assert affine.r2(x, y) == pytest.approx(expected, rel=1e-5)
    assert affine.r2(x, affine.map_points(x)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"y \[49, 3\] must be \[50, 3\]"):
        affine.r2(x, y[1:])
    with pytest.raises(ValueError, match="nothing to explain"):
        affine.r2(x, torch.ones(50, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_numpy_in_gives_numpy_out(dtype: torch.dtype) -> None:
    """To rounding: that of the dtype, since NumPy aligns memory in another way.

    bfloat16, which NumPy does not have, comes back as float32.
    """
    affine = random_map(dtype=dtype)
    x = states(4)
    for method in (affine.map_points, affine.map_directions):
        expected, mapped = method(x), method(x.numpy())
        assert isinstance(expected, torch.Tensor)
        assert expected.dtype == dtype
        assert isinstance(mapped, np.ndarray)
        assert mapped.dtype == (np.float64 if dtype == torch.float64 else np.float32)
        torch.testing.assert_close(torch.from_numpy(mapped).to(dtype), expected)
    y = affine.map_points(x).double() + states(3)
    assert affine.r2(x.numpy(), y.numpy()) == pytest.approx(affine.r2(x, y))


def test_arrays_that_torch_cannot_share_are_taken_too() -> None:
    """To rounding: 1e-12. Read-only, another byte order, negative strides."""
    affine = random_map()
    x = states(4).numpy()
    expected = affine.map_points(x)
    frozen = x.copy()
    frozen.setflags(write=False)
    for given in (frozen, x.astype(">f8"), np.ascontiguousarray(x[::-1])[::-1]):
        np.testing.assert_allclose(affine.map_points(given), expected, rtol=1e-12, atol=1e-12)
