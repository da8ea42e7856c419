"""Maps of other tools: what they compute, ours computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.map_files import Form, read_map

SOURCE, TARGET = ("a/small", 3), ("a/large", 5)


def read(path: Path, form: Form = "Ax") -> AffineMap:
    return read_map(path, form=form, source=SOURCE, target=TARGET)


def linear(bias: bool = True) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(6, 4, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_linear_layer_of_torch_maps_alike(tmp_path: Path, ending: str, bias: bool) -> None:
    layer, path = linear(bias), tmp_path / f"map{ending}"
    if ending == ".pt":
        torch.save(layer.state_dict(), path)
    else:
        save_file(dict(layer.state_dict()), path)
    found = read(path)
    x = torch.randn(5, 6)
    assert (found.source, found.target) == (SOURCE, TARGET)
    torch.testing.assert_close(found.map_points(x), layer(x).detach())
    torch.testing.assert_close(found.map_directions(x), x @ layer.weight.detach().T)


def test_arrays_of_numpy_map_alike(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    a, p, x = random.normal(size=(6, 4)), random.normal(size=4), random.normal(size=(5, 6))
    np.savez(tmp_path / "map.npz", A=a, p=p)
    np.testing.assert_allclose(read(tmp_path / "map.npz", "xA").map_points(x), x @ a + p)
    np.save(tmp_path / "map.npy", a)
    np.testing.assert_allclose(read(tmp_path / "map.npy", "xA").map_points(x), x @ a)


def test_what_is_read_is_kept_as_a_map_of_ours(tmp_path: Path) -> None:
    torch.save(linear().state_dict(), tmp_path / "theirs.pt")
    found = read(tmp_path / "theirs.pt")
    found.save(tmp_path / "ours.safetensors")
    again = AffineMap.load(tmp_path / "ours.safetensors")
    assert torch.equal(again.weight, found.weight)
    assert torch.equal(again.bias, found.bias)


def test_the_other_product_is_named(tmp_path: Path) -> None:
    torch.save(linear().state_dict(), tmp_path / "map.pt")
    with pytest.raises(
        UserError, match=r"\[4, 6\] maps 4 dimensions to 6, but the bias has 4; as Ax"
    ):
        read(tmp_path / "map.pt", "xA")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"a": torch.zeros(2, 3), "b": torch.zeros(3, 2)},
            r"2 tensors of 2 dimensions.*a \[2, 3\]",
        ),
        ({"p": torch.zeros(3)}, r"holds no matrix: p \[3\]"),
        ({}, "holds no matrix: nothing"),
        ({"A": torch.zeros(2, 3, dtype=torch.int64)}, "holds no matrix"),
    ],
)
def test_files_that_are_no_map(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    torch.save(content, tmp_path / "map.pt")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "map.pt")


def test_other_endings_and_torn_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no map at"):
        read(tmp_path / "absent.pt")
    (tmp_path / "map.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="must end in"):
        read(tmp_path / "map.pkl")
    (tmp_path / "map.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptionError):
        read(tmp_path / "map.safetensors")
    (tmp_path / "map.npz").write_bytes(b"PK\x03\x04torn")
    with pytest.raises(UserError, match="not a NumPy file"):
        read(tmp_path / "map.npz")
    np.save(tmp_path / "map.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a NumPy file"):
        read(tmp_path / "map.npy")
