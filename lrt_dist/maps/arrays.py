"""A fit from two arrays: for people who have their own activations, no cluster and no config."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lrt_dist.errors import UserError
from lrt_dist.linear.fit import Coefficients, FitMetrics, SourceFit, mismatched, wanted_moments
from lrt_dist.linear.methods import FIT_METHODS
from lrt_dist.linear.moments import Accumulator, NonFiniteError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.tensors import as_tensor
from lrt_dist.plan.pairing import partner_units, rows_of_other_groups, shuffled
from lrt_dist.sites import Sided

BLOCK_ROWS = 4096
"""Rows in memory at a time."""
NORM_ROWS = 1 << 16
"""Rows, evenly spaced, of which the median norm is taken: memory must not grow with n."""


@dataclass(frozen=True)
class Fit:
    """What `fit` gives.

    Attributes:
        map: fitted to all rows.
        mismatched: the same fit to each draw of mismatched rows: the control.
        metrics: of rows that were held out.
    """

    map: AffineMap
    mismatched: tuple[AffineMap, ...]
    metrics: FitMetrics


def fit(
    x: Any,
    y: Any,
    *,
    groups: Sequence[Any] | np.ndarray[Any, Any] | None = None,
    ridge: float | Literal["cv"] = "cv",
    folds: int = 5,
    method: str = "affine",
    mismatched_draws: int = 3,
) -> Fit:
    """Fit a map from hidden states x to hidden states y of the same rows.

    Memory does not grow with n: rows are read in blocks, and all results come from their second
    moments per fold.

    Args:
        x, y: `[n, d_x]` and `[n, d_y]`, of any real dtype: NumPy or torch arrays, or Zarr arrays
            (those of an activation store too).
        groups: for every row what it belongs to, e.g. its document; rows of one group are never
            on both sides of a split. None: consecutive rows are kept together, as scikit-learn's
            `KFold` does.
        ridge: the penalty as scikit-learn's `Ridge(alpha)` means it, or `cv` to choose one.
        folds: number of cross-validation folds.
        method: `affine` (ridge with an intercept, the map of LRT, arXiv 2506.00653), `low_rank`
            (the same cut to a cross-validated rank), `linear` (minimum norm without an intercept,
            the map of L-Cross, arXiv 2501.02009), `orthogonal` (Procrustes with one scale), or
            `module:attribute`, a `linear.methods.Method` of your own.
        mismatched_draws: number of random pairings of rows of different groups (without groups:
            of different rows), each of which gets a map of its own, as a control.

    Returns:
        `.map`, from ("x", 0) to ("y", 0); `.mismatched`, the same fit to each pairing of rows that
        do not belong together; `.metrics`, all of whose R² are of rows that were held out.

    Raises:
        UserError: shapes or arguments that do not go together, a value that is not finite, fewer
            groups than folds.
    """
    n = _rows(x, y)
    chosen_method = FIT_METHODS.find(method)
    if ridge != "cv" and (
        not isinstance(ridge, Real) or isinstance(ridge, bool) or not 0 <= ridge < math.inf
    ):
        raise UserError(f"ridge is 'cv' or a number from 0, got {ridge!r}")
    if ridge != "cv" and (not chosen_method.penalised or chosen_method.ranked):
        raise UserError(f"method {method!r} takes no penalty; leave ridge out, or use 'affine'")
    if mismatched_draws < 1:
        raise UserError(f"mismatched_draws is a number from 1, got {mismatched_draws}")
    keys = None if groups is None else _keys(n, groups)
    fold_N = _folds(n, keys, folds)
    moments = Accumulator.for_folds(wanted_moments([("x", "y")], mismatched_draws), folds)
    norms: Sided[list[torch.Tensor]] = Sided([], [])
    every = max(1, n // NORM_ROWS)
    for start, block in _blocks(x, y, n, keys, mismatched_draws):
        for sampled, name in zip(norms, ("x", "y"), strict=True):
            sampled.append(block[name][-start % every :: every].float().norm(dim=1))
        fold = fold_N[start : start + BLOCK_ROWS]
        for number in np.unique(fold):
            chosen = torch.from_numpy(np.flatnonzero(fold == number))
            part = {name: rows[chosen] for name, rows in block.items()}
            try:
                moments[number].add(part, f"rows {start} … of fold {number}")
            except NonFiniteError as error:
                name, row = _first_bad(x, y, n)
                raise UserError(
                    f"{name} is not finite in row {row}; drop that row from x and y"
                ) from error
    frozen = [accumulator.freeze() for accumulator in moments]
    source = SourceFit(frozen, "x", chosen_method, ridge=None if ridge == "cv" else float(ridge))
    draws = range(mismatched_draws)
    fitted = source.fit(frozen, "y", [("x", mismatched("y", draw)) for draw in draws])
    learning = (*source.learning_curve(frozen, "y"), *fitted.metrics.learning)

    def affine(fitted: Coefficients) -> AffineMap:
        return AffineMap(
            fitted.weight,
            fitted.bias,
            ("x", 0),
            ("y", 0),
            method,
            fitted.ridge,
            norms=Sided(_median(norms.source), _median(norms.target)),
        )

    metrics = replace(fitted.metrics, learning=learning)
    return Fit(
        replace(affine(fitted.map), metrics=metrics.as_json()),
        tuple(affine(control) for control in fitted.mismatched),
        metrics,
    )


def _median(norms: list[torch.Tensor]) -> float:
    return float(np.median(torch.cat(norms).numpy()))


def _rows(x: Any, y: Any) -> int:
    for name, array in (("x", x), ("y", y)):
        if len(getattr(array, "shape", ())) != 2:
            shape = list(getattr(array, "shape", [])) or type(array).__name__
            raise UserError(f"{name} must be an array [n, d], got {shape}")
        if array.shape[1] == 0:
            raise UserError(f"{name} has no columns, got {list(array.shape)}")
        try:
            real = not _tensor(array, 0, 1).is_complex()
        except TypeError:
            real = False
        if not real:
            dtype = getattr(array, "dtype", type(array).__name__)
            raise UserError(f"{name} must hold real numbers of at most 64 bits, got {dtype}")
    if x.shape[0] != y.shape[0]:
        raise UserError(f"x has {x.shape[0]} rows and y {y.shape[0]}; they must be the same rows")
    return int(x.shape[0])


def _keys(n: int, groups: Sequence[Any] | np.ndarray[Any, Any]) -> NDArray[np.int64]:
    """The number of the group of each row, `[n]`, as they come."""
    numbers: dict[Any, int] = {}
    keys = [key.item() if hasattr(key, "item") else key for key in groups]
    if len(keys) != n:
        raise UserError(f"groups names {len(keys)} rows, x has {n}")
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _folds(n: int, keys: NDArray[np.int64] | None, folds: int) -> np.ndarray[Any, Any]:
    """The fold of each row, `[n]`: whole groups, each to the fold with the fewest rows."""
    if folds < 2:
        raise UserError(f"cross-validation needs two folds, got {folds}")
    dtype = np.min_scalar_type(folds)  # the only thing that grows with n
    if keys is None:
        if n < folds:
            raise UserError(f"{n} rows cannot be spread over {folds} folds")
        sizes = np.full(folds, n // folds)
        sizes[: n % folds] += 1
        return np.repeat(np.arange(folds, dtype=dtype), sizes)
    counts = Counter(keys.tolist())
    if len(counts) < folds:
        raise UserError(f"{len(counts)} groups cannot be spread over {folds} folds; lower folds")
    filled = [0] * folds
    chosen = {}
    for key, count in counts.most_common():
        chosen[key] = filled.index(min(filled))
        filled[chosen[key]] += count
    return np.array([chosen[key] for key in keys.tolist()], dtype=dtype)


def _blocks(
    x: Any, y: Any, n: int, keys: NDArray[np.int64] | None, draws: int
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Blocks of rows in random order, with their first row, each with mismatched target rows."""
    starts = range(0, n, BLOCK_ROWS)

    def groups(block: int) -> NDArray[np.int64]:
        rows = slice(starts[block], min(starts[block] + BLOCK_ROWS, n))
        return np.arange(rows.start, rows.stop) if keys is None else keys[rows]

    order = [(block,) for block in shuffled(range(len(starts)), "blocks of rows")]
    # Without groups every row is one, and two rows are enough; else a giant group needs a look.
    present = {
        block: range(2 * block, 2 * block + 2)
        if keys is None
        else np.unique(groups(block)).tolist()
        for block in range(len(starts))
    }
    partners = partner_units(order, present)
    targets: dict[int, torch.Tensor] = {}
    for (block,), others in zip(order, partners, strict=True):
        pool = (block, *others)
        targets = {
            number: targets[number] if number in targets else _block(y, starts[number], n)
            for number in pool
        }
        own, *further = (groups(number) for number in pool)
        whole = torch.cat([targets[number] for number in pool])
        variables = {"x": _block(x, starts[block], n), "y": targets[block]}
        for draw in range(draws):
            rng = np.random.Generator(np.random.PCG64((draw, block)))
            places = rows_of_other_groups(
                own, np.concatenate([own[:0], *further]), 1 / len(order), rng
            )
            variables[mismatched("y", draw)] = whole[torch.from_numpy(places)]
        yield starts[block], variables


def _block(array: Any, start: int, n: int) -> torch.Tensor:
    return _tensor(array, start, min(start + BLOCK_ROWS, n))


def _first_bad(x: Any, y: Any, n: int) -> tuple[str, int]:
    """Where the first value lies that is not finite. The accumulator cannot tell: it may have met
    it as a mismatched row before its own row came."""
    for start in range(0, n, BLOCK_ROWS):
        for name, array in (("x", x), ("y", y)):
            bad = ~torch.isfinite(_tensor(array, start, min(start + BLOCK_ROWS, n))).all(1)
            if bool(bad.any()):
                return name, start + int(bad.nonzero()[0])
    raise AssertionError("all values are finite")


def _tensor(array: Any, start: int, stop: int) -> torch.Tensor:
    rows = as_tensor(array[start:stop]).detach().cpu()
    # An activation store keeps bfloat16 as uint16 and says so (docs/store-format.md).
    if dict(getattr(array, "attrs", {})).get("logical_dtype") == "bfloat16":
        return rows.view(torch.bfloat16)
    return rows
