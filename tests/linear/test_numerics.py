"""However rows come in, and whatever they are like, moments and maps are the same.

Equal bits only where rows go through the same shapes; to rounding where they are cut otherwise.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from tiny_moments import moments_of

import lrt_dist
from lrt_dist.errors import UserError
from lrt_dist.linear.moments import Accumulator, NonFiniteError, merge_all
from lrt_dist.maps import arrays
from lrt_dist.maps.arrays import Fit
from lrt_dist.store.activations import ActivationStore

PAIRS = [("x", "x"), ("x", "y"), ("y", "y")]
BAD = [float("nan"), float("inf"), float("-inf")]


def linked(n: int = 120, d: int = 6, e: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x, and y that follows from it up to noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 1
    return x, x @ rng.normal(size=(d, e)) + 0.3 * rng.normal(size=(n, e))


def tensors(x: np.ndarray, y: np.ndarray) -> dict[str, torch.Tensor]:
    return {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}


def assert_same_map(one: Fit, other: Fit, tolerance: float = 1e-10) -> None:
    for name in ("weight", "bias"):
        a, b = getattr(one.map, name), getattr(other.map, name)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- moments --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 7),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    accumulators=st.integers(1, 4),
    chance=st.randoms(use_true_random=False),
)
def test_any_split_order_and_tree_of_merges(
    n: int, d: int, cuts: list[int], accumulators: int, chance: random.Random
) -> None:
    """To rounding: 1e-12 of the norms of the rows."""
    rows = tensors(*linked(n, d, seed=n))
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    parts = list(itertools.pairwise(edges))
    chance.shuffle(parts)
    workers = [Accumulator(PAIRS) for _ in range(accumulators)]
    for number, (a, b) in enumerate(parts):
        chance.choice(workers).add({k: v[a:b] for k, v in rows.items()}, f"part {number}")
    nodes = [worker.freeze() for worker in workers]
    while len(nodes) > 1:
        chosen = chance.sample(range(len(nodes)), chance.randint(2, len(nodes)))
        merged = merge_all(nodes[i] for i in chosen)
        nodes = [node for i, node in enumerate(nodes) if i not in chosen] + [merged]
    (root,) = nodes
    whole = moments_of(rows, PAIRS, "whole")
    assert root.n == whole.n == n
    assert root.parts == {f"part {number}" for number in range(len(parts))}
    for name, values in rows.items():
        assert (root.mean[name] - whole.mean[name]).norm() <= 1e-12 * values.norm()
    for x, y in PAIRS:
        assert (root.second[x, y] - whole.second[x, y]).norm() <= (
            1e-12 * rows[x].norm() * rows[y].norm()
        )


@settings(max_examples=30, deadline=None)
@given(
    variable=st.sampled_from(["x", "y"]),
    row=st.integers(0, 9),
    value=st.sampled_from(BAD),
    before=st.booleans(),
)
def test_nothing_of_a_refused_part_is_taken_in(
    variable: str, row: int, value: float, before: bool
) -> None:
    """Same shapes, frozen twice: equal bits."""
    good, part = tensors(*linked(8)), tensors(*linked(10, seed=1))
    accumulator = Accumulator(PAIRS)
    if before:
        accumulator.add(good, "good")
    before_it = accumulator.freeze()
    broken = {name: values.clone() for name, values in part.items()}
    broken[variable][row, 2] = value
    with pytest.raises(NonFiniteError, match=f"{variable} is not finite in row {row}") as caught:
        accumulator.add(broken, "part")
    assert (caught.value.variable, caught.value.row) == (variable, row)
    after_it = accumulator.freeze()
    assert (after_it.n, after_it.parts) == (before_it.n, before_it.parts)
    assert after_it.second.keys() == before_it.second.keys()
    for pair, second in before_it.second.items():
        assert torch.equal(after_it.second[pair], second), pair
    accumulator.add(part, "part")  # repaired, it may come again
    assert accumulator.freeze().n == before_it.n + 10


# --- maps -----------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(far_x=st.sampled_from([-1e6, 1e3, 1e6]), far_y=st.sampled_from([-1e6, 0.0, 1e6]))
def test_offsets_change_the_bias_and_not_the_weights(far_x: float, far_y: float) -> None:
    x, y = (np.round(values * 2**20) / 2**20 for values in linked())  # so that x + 1e6 is exact
    near, far = lrt_dist.fit(x, y), lrt_dist.fit(x + far_x, y + far_y)
    torch.testing.assert_close(far.map.weight, near.map.weight, rtol=1e-6, atol=1e-6)
    assert far.metrics.r2 == pytest.approx(near.metrics.r2, abs=1e-9)
    assert far.metrics.rank == near.metrics.rank
    points = torch.from_numpy(x)
    expected = near.map.map_points(points) + far_y
    torch.testing.assert_close(far.map.map_points(points + far_x), expected, rtol=0, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(again=st.lists(st.integers(0, 5), min_size=1, max_size=5), constant=st.booleans())
def test_constant_and_duplicated_columns(again: list[int], constant: bool) -> None:
    x, y = linked()
    wide = np.hstack([x, x[:, again], np.full((len(x), int(constant)), 1e3)])
    plain, fit = lrt_dist.fit(x, y, ridge=0.0), lrt_dist.fit(wide, y, ridge=0.0)
    assert fit.metrics.rank == 6
    for copy, column in enumerate(again, start=6):  # twins share what one of them had
        torch.testing.assert_close(fit.map.weight[copy], fit.map.weight[column])
    if constant:
        assert fit.map.weight[-1].abs().max() < 1e-9
    torch.testing.assert_close(
        fit.map.map_points(torch.from_numpy(wide)), plain.map.map_points(torch.from_numpy(x))
    )
    assert fit.metrics.r2 == pytest.approx(plain.metrics.r2, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(120, 6), (30, 50), (12, 90)])
def test_a_number_as_ridge_is_sklearns_alpha(n: int, d: int) -> None:
    x, y = linked(n, d)
    fit = lrt_dist.fit(x, y, ridge=3.0, folds=3)
    ridge = Ridge(alpha=3.0, solver="svd").fit(x, y)
    np.testing.assert_allclose(fit.map.weight.numpy(), ridge.coef_.T, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(fit.map.bias.numpy(), ridge.intercept_, rtol=1e-8, atol=1e-8)
    assert fit.metrics.rank == min(d, n - 1)


@pytest.mark.parametrize("method", ["affine", "linear", "orthogonal", "low_rank"])
def test_one_row_in_each_fold_is_enough_to_be_finite(method: str) -> None:
    x, y = linked(2)
    fit = lrt_dist.fit(x, y, folds=2, method=method)
    assert torch.isfinite(fit.map.weight).all()
    assert np.isfinite(fit.metrics.r2)
    one = moments_of(tensors(x[:1], y[:1]), PAIRS, "row")
    assert one.n == 1
    assert not any(second.any() for second in one.second.values())


@settings(max_examples=10, deadline=None)
@given(block=st.integers(1, 130), grouped=st.booleans())
def test_blocks_of_rows_do_not_matter(block: int, grouped: bool) -> None:
    """To rounding: 1e-10."""
    x, y = linked()
    groups = np.arange(120) // 7 if grouped else None
    whole = lrt_dist.fit(x, y, groups=groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK_ROWS", block)
        pieces = lrt_dist.fit(x, y, groups=groups)
    assert_same_map(pieces, whole)
    assert pieces.metrics.r2 == pytest.approx(whole.metrics.r2, abs=1e-10)


# --- arrays of all kinds --------------------------------------------------------------------------


def as_store(states: torch.Tensor, folder: Path) -> zarr.Array[Any]:
    """bfloat16 states as an activation store keeps them: two units, uint16."""
    n, d = states.shape
    store = ActivationStore.create(
        str(folder), layers={3: d}, rows=n, rows_per_unit=n // 2 + 1, logical_dtype="bfloat16",
        compress="none", fingerprint="test",
    )  # fmt: skip
    for unit in range(store.units):
        store.write(unit, 3, states[store.unit_rows(unit)].float())
    array = zarr.open_group(str(folder), mode="r")["layers/3"]
    assert isinstance(array, zarr.Array)
    assert array.dtype == np.uint16
    return array


def test_arrays_of_every_kind_give_the_same_fit(tmp_path: Path) -> None:
    """Same shapes: equal bits. Whatever the kind, the same numbers are copied into float64 rows."""
    x, y = (torch.from_numpy(values).bfloat16() for values in linked(e=6))
    a, b = x.float().numpy(), y.float().numpy()
    reference = lrt_dist.fit(a, b)
    np.save(tmp_path / "a.npy", a)
    kinds: dict[str, tuple[Any, Any]] = {
        "float64": (a.astype(np.float64), b.astype(np.float64)),
        "torch": (x.float(), y.float()),
        "torch bfloat16": (x, y),
        "a parameter": (x.float().requires_grad_(), y),
        "Fortran order": (np.asfortranarray(a), b),
        "a view with negative strides": (np.ascontiguousarray(a[::-1])[::-1], b),
        "another byte order": (a.astype(">f4"), b),
        "a memory map": (np.load(tmp_path / "a.npy", mmap_mode="r"), b),
        "zarr": (zarr.array(a, chunks=(50, 3)), zarr.array(b, chunks=(7, 6))),
        "activation stores": (as_store(x, tmp_path / "x.zarr"), as_store(y, tmp_path / "y.zarr")),
        "mixed": (as_store(x, tmp_path / "z.zarr"), b),
    }
    for kind, (one, other) in kinds.items():
        fit = lrt_dist.fit(one, other)
        assert torch.equal(fit.map.weight, reference.map.weight), kind
        assert torch.equal(fit.map.bias, reference.map.bias), kind
        for one, other in zip(fit.mismatched, reference.mismatched, strict=True):
            assert torch.equal(one.weight, other.weight), kind
        assert fit.metrics == reference.metrics, kind


def test_groups_are_never_split() -> None:
    """x says which group a row is of, and nothing else: only a split group can be predicted."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(12), rng.integers(5, 30, 12)))
    x = np.eye(12)[group] + 0.01 * rng.normal(size=(len(group), 12))
    y = rng.normal(size=(12, 80))[group]
    assert lrt_dist.fit(x, y).metrics.r2 > 0.9
    kinds: list[Any] = [
        group, group.tolist(), torch.from_numpy(group), [f"document {g}" for g in group],
        zarr.array(group),
    ]  # fmt: skip
    for groups in kinds:
        for folds in (2, 12):
            assert lrt_dist.fit(x, y, groups=groups, folds=folds).metrics.r2 < 0.05


# --- refusals -------------------------------------------------------------------------------------

X, Y = linked(40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X[:, 0]}, r"x must be an array \[n, d\], got \[40\]"),
        ({"y": Y[None]}, r"y must be an array \[n, d\], got \[1, 40, 4\]"),
        ({"y": Y.tolist()}, r"y must be an array \[n, d\], got list"),
        ({"y": Y[:, :0]}, r"y has no columns, got \[40, 0\]"),
        ({"x": X.astype(complex)}, r"x must hold real numbers .* got complex128"),
        ({"x": X.astype(object)}, r"x must hold real numbers .* got object"),
        ({"y": Y[:39]}, r"x has 40 rows and y 39"),
        ({"x": X[:3], "y": Y[:3]}, r"3 rows cannot be spread over 5 folds"),
        ({"groups": [1, 2, 3]}, r"groups names 3 rows, x has 40"),
        ({"groups": [1, 2, 3, 4] * 10}, r"4 groups cannot be spread over 5 folds; lower folds"),
        ({"folds": 1}, r"cross-validation needs two folds, got 1"),
        (
            {"method": "cubic"},
            r"no fit method is called 'cubic'; did you mean .* affine, low_rank, linear",
        ),
        ({"ridge": -0.5}, r"ridge is 'cv' or a number from 0, got -0.5"),
        ({"ridge": float("nan")}, r"ridge is 'cv' or a number from 0, got nan"),
        ({"ridge": float("inf")}, r"ridge is 'cv' or a number from 0, got inf"),
        ({"ridge": "auto"}, r"ridge is 'cv' or a number from 0, got 'auto'"),
        ({"ridge": True}, r"ridge is 'cv' or a number from 0, got True"),
        ({"ridge": 1.0, "method": "linear"}, r"method 'linear' takes no penalty"),
    ],
)
def test_refusals_name_the_numbers(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lrt_dist.fit(**{"x": X, "y": Y, **arguments})


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["x", "y"]),
    row=st.integers(0, 39),
    value=st.sampled_from(BAD),
    block=st.integers(1, 45),
    grouped=st.booleans(),
)
def test_what_is_not_finite_is_refused_with_its_own_row(
    name: str, row: int, value: float, block: int, grouped: bool
) -> None:
    """Also where the control, which takes y's rows elsewhere, meets it first."""
    both = {"x": X.copy(), "y": Y.copy()}
    both[name][row, 1] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK_ROWS", block)
        groups = np.arange(40) % 9 if grouped else None
        with pytest.raises(UserError, match=rf"^{name} is not finite in row {row}; drop that row"):
            lrt_dist.fit(both["x"], both["y"], groups=groups)


@pytest.mark.parametrize("ridge", [3, np.int64(3), np.float32(3)])
def test_numpys_numbers_are_numbers(ridge: Any) -> None:
    assert_same_map(lrt_dist.fit(X, Y, ridge=ridge), lrt_dist.fit(X, Y, ridge=3.0))
