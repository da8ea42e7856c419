"""A map fitted to contrast states: few rows, all of them in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lrt_dist.maps.arrays import fit
from lrt_dist.sites import LayerPair, Side, Sided
from lrt_dist.store.states import ContrastStates


@dataclass(frozen=True)
class FitStatesTask:
    """Fit one pair of layers.

    Attributes:
        pair: the layers.
        states: files of each model's contrast states; those of both models in one order.
        groups: for each contrast pair of all files, what it belongs to: no group is on both sides
            of a split.
        models: names of the models.
        norms: median norms of the layers' hidden states.
        folds, method, draws: as in `fit` of the configuration.
        paths: of the map, and after it of those fitted to mismatched rows.
    """

    pair: LayerPair
    states: Sided[tuple[Path, ...]]
    groups: tuple[str, ...]
    models: Sided[str]
    norms: Sided[float]
    folds: int
    method: str
    draws: int
    paths: tuple[Path, ...]


def fit_states(task: FitStatesTask) -> None:
    """Fit, and save the maps; the true one last, so that it says that all are there.

    Raises:
        UserError: fewer groups than folds.
    """
    layers = Sided(task.pair.source, task.pair.target)
    x, y = (_rows(task.states[side], layers[side]) for side in Side)
    fitted = fit(
        x,
        y,
        # Row after row as `_rows` has them: every pair has two.
        groups=[group for group in task.groups for _ in range(2)],
        folds=task.folds,
        method=task.method,
        mismatched_draws=task.draws,
    )
    maps = list(zip(task.paths, (fitted.map, *fitted.mismatched), strict=True))
    for path, affine in reversed(maps):
        replace(
            affine,
            source=(task.models.source, layers.source),
            target=(task.models.target, layers.target),
            norms=Sided[float | None](*task.norms),
        ).save(path)


def _rows(paths: tuple[Path, ...], layer: int) -> torch.Tensor:
    """The positive and the negative state of every pair, float32 `[2 · pairs, d]`."""
    pairs = [torch.stack(ContrastStates.load(path, [layer]).of(layer), dim=1) for path in paths]
    return torch.cat(pairs).flatten(0, 1)
