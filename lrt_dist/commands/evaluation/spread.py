"""What effects vary with beside items: contrast pairs behind vectors, documents behind maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from lrt_dist.commands._moments import kept_moments
from lrt_dist.commands._rows import Records
from lrt_dist.commands.evaluation.carriers import Carriers
from lrt_dist.commands.evaluation.gradients import GradientFiles
from lrt_dist.commands.evaluation.measurement import Measured
from lrt_dist.config import ConceptConfig
from lrt_dist.linear.methods import Choice
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.controls import resampled_vectors
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.plan.cost import solve_bytes
from lrt_dist.resampling import further_covariance, resampled_items
from lrt_dist.sites import Direction, LayerPair, Side, Sided
from lrt_dist.store.states import ContrastStates
from lrt_dist.store.tables import FitRow, Table
from lrt_dist.tasks.jackknife import JackknifeTask, jackknife
from lrt_dist.workspace.placement import task_needs
from lrt_dist.workspace.run import Run

RESAMPLES = 200
"""Vectors of resampled contrast pairs."""


class Spread:
    """Predicts how mean effects would change with other contrast pairs and other documents.

    Attributes:
        documents_vary: whether the map's documents are.
    """

    def __init__(
        self,
        run: Run,
        carriers: Carriers,
        states: Sided[dict[str, Path]],
        gradients: GradientFiles | None,
        scales: Mapping[int, float | None],
        without_fold: Mapping[str, torch.Tensor],
    ) -> None:
        """Nothing is read yet.

        Args:
            carriers: the maps.
            states: files of each model's contrast states, by concept.
            gradients: of all items; None where effects cannot be predicted.
            scales: see `maps.vectors.length_at_one`, by target layer.
            without_fold: see `without_folds`.
        """
        self._run, self._carriers = run, carriers
        self._states, self._scales = states, scales
        self._gradients, self._without_fold = gradients, without_fold
        self.documents_vary = gradients is not None and bool(without_fold)

    def pairs_vary(self, concept: str) -> bool:
        """Whether a concept's contrast pairs are among what varies: vectors that are given have
        none that are known."""
        return self._gradients is not None and not self._config(concept).vector.files

    def covariance(self, concept: str, found: Measured) -> torch.Tensor:
        """Of the mean transferred and the mean native effect, float64 `[2, 2]`; items not counted.

        Predictions are scaled by how measured effects compare with them.
        """
        if self._gradients is None:
            return torch.zeros(2, 2, dtype=torch.float64)
        run, pair = self._run, found.pair
        slope = found.agreement.slope if math.isfinite(found.agreement.slope) else 1.0
        factor, scale = found.strength * slope, self._scales[pair.target]
        items = self._gradients.of(concept, "test", pair.target).double()

        def effects(vectors: torch.Tensor) -> torch.Tensor:
            """Of vectors `[n, d]` on each test item, as predicted: `[n, items]`."""
            exact = vectors.double()
            if scale is not None:
                norms = torch.linalg.vector_norm(exact, dim=1, keepdim=True).clamp_min(1e-30)
                exact = scale * exact / norms
            predicted: torch.Tensor = factor * exact @ items.T
            return predicted

        def saved(path: Path) -> torch.Tensor:
            return SteeringVector.load(path).values.unsqueeze(0)

        source, target = self._resampled(concept, pair)
        affine = AffineMap.load(self._carriers.of(concept, pair)[0])
        through = affine.map_points if run.config.evaluate.map_bias else affine.map_directions
        mapped = saved(run.folder.transferred_vector(concept, pair))
        native = saved(run.folder.native_vector(concept, Side.TARGET, pair.target))
        left_out = self._without_fold.get(concept)
        return further_covariance(
            [
                (
                    effects(through(source)) - effects(mapped),
                    None if left_out is None else effects(left_out),
                ),
                (effects(target) - effects(native), None),
            ]
        )

    def _resampled(self, concept: str, pair: LayerPair) -> Sided[torch.Tensor]:
        """Vectors of the same resampled pairs in both models."""
        config = self._config(concept)
        counts = resampled_items(
            range(len(self._run.concepts[concept].vector)),
            RESAMPLES,
            self._run.config.evaluate.seed,
        )

        def vectors(side: Side) -> torch.Tensor:
            layer = pair.source if side is Side.SOURCE else pair.target
            if side in config.vector.files:
                path = self._run.folder.native_vector(concept, side, layer)
                return SteeringVector.load(path).values.expand(RESAMPLES, -1)
            states = ContrastStates.load(self._states[side][concept], [layer]).of(layer)
            return resampled_vectors(
                config.vector.method, config.vector.parameters, *states, counts
            )

        return Sided.of(vectors)

    def _config(self, concept: str) -> ConceptConfig:
        return next(c for c in self._run.config.concepts if c.name == concept)


def without_folds(
    run: Run, records: Records, measured: Mapping[str, Measured]
) -> dict[str, torch.Tensor]:
    """Every concept's vector under the maps of its pair without each fold in turn, float64
    `[folds, d_target]`; none where the run's moments were not kept, or where maps were not fitted
    on them."""
    moments = kept_moments(run, records) if run.config.fit.on == "corpus" else None
    if moments is None:
        return {}
    fits = {
        (row.source_layer, row.target_layer): row
        for row in Table.read(run.folder.fits[Direction.FORWARD], FitRow)
    }
    by_pair: dict[LayerPair, list[str]] = {}
    for name, found in measured.items():
        by_pair.setdefault(found.pair, []).append(name)
    tasks = []
    for pair, names in by_pair.items():
        row = fits[pair.source, pair.target]
        cut = run.config.fit.method == "low_rank"
        tasks.append(
            JackknifeTask(
                pair,
                {n: run.folder.native_vector(n, Side.SOURCE, pair.source) for n in names},
                moments,
                run.config.fit.folds,
                run.method,
                Choice(row.ridge_relative, rank=row.map_rank if cut else None),
                run.config.evaluate.map_bias,
            )
        )
    memory = solve_bytes(run.widths.source, run.widths.target, run.config.fit.folds, 0)
    needs = task_needs(run, max(run.widths), memory)
    mapped: dict[str, torch.Tensor] = {}
    with run.progress.phase("maps without a fold", len(tasks), "pairs") as phase:
        for vectors in run.runtime.map(jackknife, tasks, needs):
            mapped |= vectors
            phase.advance()
    return mapped
