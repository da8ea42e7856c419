"""The directions of the drawn controls, draw by draw.

Shape suffixes: N draws, S source layers, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.controls import (
    covariance_directions,
    generator,
    permuted_vectors,
    random_directions,
)
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.plan.conditions import Arm
from lrt_dist.store.states import ContrastStates
from lrt_dist.tensorfiles import open_tensors

CHUNK = 32
"""Draws at a target layer that are made at once."""

SAMPLED_ROWS = "sampled rows"
"""Kind of the file with some hidden states of each target layer; tensors `{layer}`, `[rows, d]`."""


def sampled_rows(path: Path, layer: int) -> torch.Tensor:
    """Some hidden states of a layer, float32 `[rows, d]`."""
    with open_tensors(path, SAMPLED_ROWS) as (file, _):
        rows: torch.Tensor = file.get_tensor(str(layer))
    return rows


def random_source_vectors(source: int, width: int, draws: int, seed: int) -> torch.Tensor:
    """Random vectors of a source layer, not yet mapped, float32 `[draws, d]`, of length 1."""
    return _units(random_directions(width, draws, generator(seed, Arm.RANDOM_SOURCE, source)))


def permuted_source_vectors(
    concept: str,
    method: str,
    parameters: Mapping[str, Any],
    states: Path,
    source: int,
    draws: int,
    seed: int,
) -> torch.Tensor:
    """Vectors of a concept's contrast pairs with permuted labels, not yet mapped, float32
    `[draws, d]`, of length 1; at all source layers the same labels.

    Args:
        states: file of the source model's contrast states.
    """
    random = generator(seed, Arm.PERMUTED, concept)
    of_layer = ContrastStates.load(states, [source]).of(source)
    return _units(permuted_vectors(method, parameters, *of_layer, draws, random))


def mapped_directions(
    units_ND: torch.Tensor, affine: AffineMap, vector: torch.Tensor, *, bias: bool
) -> torch.Tensor:
    """Vectors of the source model through a map, float32 `[N, d]`, of any length.

    Args:
        units_ND: of length 1. They are mapped as if they were as long as the claim's vector, which
            matters where a bias is added.
        vector: the claim's, of the source model, `[d]`.
        bias: whether the map's bias is added to a mapped vector.
    """
    mapped_ND = units_ND @ affine.weight.to(torch.float32)
    if not bias:
        return mapped_ND
    return mapped_ND + affine.bias.to(torch.float32) / float(torch.linalg.vector_norm(vector))


def _units(vectors_ND: torch.Tensor) -> torch.Tensor:
    norms_N1 = torch.linalg.vector_norm(vectors_ND, dim=1, keepdim=True)
    units_ND: torch.Tensor = vectors_ND / norms_N1.clamp_min(1e-30)
    return units_ND


def transferred_vectors(paths: Mapping[int, Path]) -> dict[int, torch.Tensor]:
    """A concept's transferred vectors at one target layer, by source layer, float64 `[d]`."""
    return {source: SteeringVector.load(path).values.double() for source, path in paths.items()}


class TargetDraws:
    """A control that is drawn at a target layer: a direction for each source layer and draw.

    Across source layers the directions have the same angles as the transferred vectors, which are
    much alike: so a control is searched over as many different vectors as the claim is.
    """

    def __init__(
        self,
        arm: Arm,
        target: int,
        vectors: Mapping[int, torch.Tensor],
        rows: torch.Tensor,
        seed: int,
    ) -> None:
        """Nothing is drawn yet.

        Args:
            arm: covariance or random.
            target: the layer.
            vectors: of the claim, by source layer, `[d]`.
            rows: some hidden states of the layer, `[rows, d]`.
            seed: of the draws.
        """
        self._arm, self._target, self._rows, self._seed = arm, target, rows, seed
        self._sources = sorted(vectors)
        units_SD = _units(torch.stack([vectors[source] for source in self._sources]))
        w, V = torch.linalg.eigh(units_SD @ units_SD.T)
        self._root_SS = (V * w.clamp_min(0).sqrt()) @ V.T

    def __getitem__(self, draw: int) -> dict[int, torch.Tensor]:
        """One draw: float32 `[d]` by source layer, of any length."""
        number, place = divmod(draw, CHUNK)
        return dict(zip(self._sources, self._chunk(number)[place], strict=True))

    def chunks(self, draws: int) -> Iterator[torch.Tensor]:
        """So many draws, some at a time: float32 `[chunk, S, d]`, source layers ascending."""
        for first in range(0, draws, CHUNK):
            yield self._chunk(first // CHUNK)[: draws - first]

    def _chunk(self, number: int) -> torch.Tensor:
        random = generator(self._seed, self._arm, self._target, number)
        count = CHUNK * len(self._sources)
        if self._arm is Arm.COVARIANCE:
            apart = covariance_directions(self._rows, count, random)
        else:
            apart = random_directions(self._rows.shape[1], count, random)
        apart_CSD = apart.reshape(CHUNK, len(self._sources), -1)
        return torch.einsum("st,ctd->csd", self._root_SS.to(apart), apart_CSD)
