"""From a condition to what is added to the target's hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrt_dist.commands._vectors import LayerVectors
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.vectors import SteeringVector, displacement
from lrt_dist.plan.conditions import Arm, Condition
from lrt_dist.sites import LayerPair, Sided, seed_of
from lrt_dist.workspace.run import Run


class Displacements:
    """Every direction that an evaluation needs; each map is read once.

    Attributes:
        native: `{concept: {target layer: vector}}`.
    """

    def __init__(
        self, run: Run, vectors: Sided[dict[str, LayerVectors]], norms: dict[int, float]
    ) -> None:
        """Map all vectors, and save the transferred ones.

        Args:
            vectors: native vectors of each model.
            norms: median norm of each layer of the target model.
        """
        self.native = vectors.target
        self._norms = norms
        self._width = run.widths.target
        self._seed = run.config.evaluate.seed
        self._mapped: dict[tuple[str, Arm, LayerPair], SteeringVector] = {}
        for pair in run.pairs:
            for arm in (Arm.TRANSFERRED, Arm.MISMATCHED):
                path = run.folder.map_path(
                    pair.source, pair.target, mismatched=arm is Arm.MISMATCHED
                )
                affine = AffineMap.load(path)
                for concept, by_layer in vectors.source.items():
                    vector = affine.transfer(by_layer[pair.source])
                    self._mapped[concept, arm, pair] = vector
                    if arm is Arm.TRANSFERRED:
                        vector.save(run.folder.transferred_vector(concept, pair))

    def mapped(self, concept: str, arm: Arm, pair: LayerPair) -> SteeringVector:
        """The source model's vector under the map, or under the mismatched map."""
        return self._mapped[concept, arm, pair]

    def of(self, concept: str, target: int, conditions: Sequence[Condition]) -> torch.Tensor:
        """What each condition adds: `α · s · v/‖v‖`, float32 `[conditions, d_target]`; s is the
        layer's norm."""
        return torch.stack([self._one(concept, target, condition) for condition in conditions])

    def _one(self, concept: str, target: int, condition: Condition) -> torch.Tensor:
        if condition.arm is Arm.NONE:
            return torch.zeros(self._width)
        direction = self._direction(concept, target, condition)
        return displacement(direction, condition.strength * self._norms[target])

    def _direction(self, concept: str, target: int, condition: Condition) -> torch.Tensor:
        if condition.arm is Arm.NATIVE:
            return self.native[concept][target].values
        if condition.arm is Arm.RANDOM:
            seed = seed_of(f"{self._seed}/{concept}/{target}/{condition.draw}", bits=64) >> 1
            generator = torch.Generator().manual_seed(seed)
            return torch.randn(self._width, generator=generator, dtype=torch.float64)
        pair = LayerPair(condition.source_layer, target)
        return self.mapped(concept, condition.arm, pair).values
