"""A vector under maps that were each fitted without one fold of documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lrt_dist.linear.fit import maps_without_folds
from lrt_dist.linear.methods import Choice, Method
from lrt_dist.linear.moments import merge_all
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.sites import LayerPair, Side
from lrt_dist.store.moments import MomentFiles
from lrt_dist.tasks.blocks import variable


@dataclass(frozen=True)
class JackknifeTask:
    """Vectors at one pair of layers.

    Attributes:
        pair: source and target layer.
        vectors: file of each concept's vector at the source layer.
        moments: for each run whose text counts, files that hold all that is needed.
        folds: their number.
        method: how the map was fitted.
        choice: of λ and rank, that of the map itself.
        bias: whether the map's bias is added to a mapped vector.
    """

    pair: LayerPair
    vectors: Mapping[str, Path]
    moments: tuple[tuple[Path, ...], ...]
    folds: int
    method: Method
    choice: Choice
    bias: bool


def jackknife(task: JackknifeTask) -> dict[str, torch.Tensor]:
    """Each concept's vector under the map without each fold, float64 `[folds, d_target]`."""
    x = variable(Side.SOURCE, task.pair.source)
    y = variable(Side.TARGET, task.pair.target)
    runs = [MomentFiles(paths) for paths in task.moments]
    folds = [
        merge_all(files.fold(number, [(x, x), (x, y)]) for files in runs)
        for number in range(task.folds)
    ]
    vectors = {name: SteeringVector.load(path).values for name, path in task.vectors.items()}
    mapped: dict[str, list[torch.Tensor]] = {name: [] for name in vectors}
    for map in maps_without_folds(folds, (x, y), task.method, task.choice):
        offset = map.bias if task.bias else 0.0
        for name, vector in vectors.items():
            mapped[name].append(vector.to(map.weight) @ map.weight + offset)
    return {name: torch.stack(rows) for name, rows in mapped.items()}
