"""A fit from two arrays: for people who have their own activations, no cluster and no config."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch

from lrt_dist.errors import UserError
from lrt_dist.linear.fit import Fit, SourceFit, shuffled, wanted_moments
from lrt_dist.linear.moments import Accumulator, NonFiniteError
from lrt_dist.linear.solutions import METHODS

BLOCK_ROWS = 4096
"""Rows in memory at a time."""
FAR = (3 - 5**0.5) / 2
"""How far away, as a share of all rows, the rows lie that the null pairs. The golden section, since
data is often ordered in halves, thirds or quarters that correspond to each other."""


def fit(
    x: Any,
    y: Any,
    *,
    groups: Sequence[Any] | None = None,
    ridge: float | Literal["cv"] = "cv",
    folds: int = 5,
    method: str = "affine",
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
            the map of L-Cross, arXiv 2501.02009) or `orthogonal` (Procrustes with one scale).

    Returns:
        The fit: `.map` and its null `.null` (fitted to rows that do not belong together), and
        `.report`, all of whose R² are of rows that were held out.

    Raises:
        UserError: shapes or arguments that do not go together, a value that is not finite, fewer
            groups than folds.
    """
    n = _rows(x, y)
    if method not in METHODS:
        raise UserError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if ridge != "cv" and (
        not isinstance(ridge, Real) or isinstance(ridge, bool) or not 0 <= ridge < math.inf
    ):
        raise UserError(f"ridge is 'cv' or a number from 0, got {ridge!r}")
    if ridge != "cv" and method != "affine":
        raise UserError(f"method {method!r} takes no penalty; leave ridge out, or use 'affine'")
    fold_N = _folds(n, groups, folds)
    moments = Accumulator.for_folds(wanted_moments([("x", "y")]), folds)
    for start, block in _blocks(x, y, n):
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
    source = SourceFit(frozen, "x", method, ridge=None if ridge == "cv" else float(ridge))
    fitted = source.fit(frozen, "y")
    learning = (*source.learning_curve(frozen, "y"), *fitted.report.learning)
    return replace(fitted, report=replace(fitted.report, learning=learning))


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


def _folds(n: int, groups: Sequence[Any] | None, folds: int) -> np.ndarray[Any, Any]:
    """The fold of each row, `[n]`: whole groups, each to the fold with the fewest rows."""
    if folds < 2:
        raise UserError(f"cross-validation needs two folds, got {folds}")
    dtype = np.min_scalar_type(folds)  # the only thing that grows with n
    if groups is None:
        if n < folds:
            raise UserError(f"{n} rows cannot be spread over {folds} folds")
        sizes = np.full(folds, n // folds)
        sizes[: n % folds] += 1
        return np.repeat(np.arange(folds, dtype=dtype), sizes)
    keys = [key.item() if hasattr(key, "item") else key for key in groups]
    if len(keys) != n:
        raise UserError(f"groups names {len(keys)} rows, x has {n}")
    counts = Counter(keys)
    if len(counts) < folds:
        raise UserError(f"{len(counts)} groups cannot be spread over {folds} folds; lower folds")
    filled = [0] * folds
    chosen = {}
    for key, count in counts.most_common():
        chosen[key] = filled.index(min(filled))
        filled[chosen[key]] += count
    return np.array([chosen[key] for key in keys], dtype=dtype)


def _blocks(x: Any, y: Any, n: int) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Blocks of rows, with the target rows that the null pairs them with."""
    rng = np.random.Generator(np.random.PCG64(0))
    for start in range(0, n, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, n)
        far = (start + max(1, round(FAR * n))) % n
        strangers = [_tensor(y, far, min(far + stop - start, n))]
        if (missing := stop - start - len(strangers[0])) > 0:
            strangers.append(_tensor(y, 0, missing))
        order = torch.from_numpy(rng.permutation(stop - start))
        yield (
            start,
            {
                "x": _tensor(x, start, stop),
                "y": _tensor(y, start, stop),
                shuffled("y"): torch.cat(strangers)[order],
            },
        )


def _first_bad(x: Any, y: Any, n: int) -> tuple[str, int]:
    """Where the first value lies that is not finite. The accumulator cannot tell: the null may
    have met it before its own row came."""
    for start in range(0, n, BLOCK_ROWS):
        for name, array in (("x", x), ("y", y)):
            bad = ~torch.isfinite(_tensor(array, start, min(start + BLOCK_ROWS, n))).all(1)
            if bool(bad.any()):
                return name, start + int(bad.nonzero()[0])
    raise AssertionError("all values are finite")


def _tensor(array: Any, start: int, stop: int) -> torch.Tensor:
    rows = array[start:stop]
    if isinstance(rows, torch.Tensor):
        return rows.detach().cpu()
    rows = np.asarray(rows)
    # A copy: torch takes no foreign byte order, no negative strides, and warns of what is read-only
    # (a memory map, say).
    rows = rows.astype(rows.dtype.newbyteorder("="), order="C")
    if dict(getattr(array, "attrs", {})).get("logical_dtype") == "bfloat16":
        return torch.from_numpy(rows).view(torch.bfloat16)
    return torch.from_numpy(rows)
