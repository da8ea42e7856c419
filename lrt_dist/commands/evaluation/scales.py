"""How long a displacement is: what a strength of 1 means at each target layer."""

from __future__ import annotations

import statistics

from lrt_dist.maps.vectors import SteeringVector, length_at_one
from lrt_dist.sites import Side
from lrt_dist.workspace.run import Run


def layer_scales(run: Run, norms: dict[int, float]) -> dict[int, float | None]:
    """See `maps.vectors.length_at_one`, by target layer; native vectors must have been saved.

    Args:
        norms: median norm of each target layer's hidden states.
    """
    scale = run.config.evaluate.scale
    if scale == "median_norm":
        return dict(norms)
    if scale == "equalised":
        return {layer: _mean_native_norm(run, layer) for layer in norms}
    return dict.fromkeys(norms, 1.0 if scale == "unit" else None)


def _mean_native_norm(run: Run, layer: int) -> float:
    """Over all concepts."""
    paths = [run.folder.native_vector(c.name, Side.TARGET, layer) for c in run.config.concepts]
    return statistics.fmean(length_at_one(SteeringVector.load(path).values, None) for path in paths)
