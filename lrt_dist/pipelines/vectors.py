"""Native and transferred vectors of every concept, as evaluation needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lrt_dist.config import ConceptConfig
from lrt_dist.corpus.contrast import ConceptData
from lrt_dist.errors import LrtError
from lrt_dist.linear.affine import AffineMap
from lrt_dist.linear.vectors import SteeringVector, make_vector
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.pipelines.run import Run
from lrt_dist.runtime.tasks import Chains, Failed
from lrt_dist.sites import LayerPair
from lrt_dist.stages.contrast import ContrastTask
from lrt_dist.stages.sequences import contrast_texts
from lrt_dist.store.artifacts import save_vector


@dataclass(frozen=True)
class ConceptVectors:
    """Vectors of one concept.

    Attributes:
        source, native: `{layer: vector}` of the source and the target model.
    """

    source: dict[int, SteeringVector]
    native: dict[int, SteeringVector]

    def transferred(self, run: Run, pair: LayerPair, *, shuffled: bool = False) -> torch.Tensor:
        """The source vector mapped by `weight` alone, float64 `[d_target]`."""
        mapping = AffineMap.load(run.folder.map_path(pair.source, pair.target, shuffled=shuffled))
        return mapping.map_directions(self.source[pair.source].values)


def native_vectors(
    run: Run,
    side: int,
    chains: Chains,
    tokenizer: SiteTokenizer,
    concepts: dict[str, ConceptData],
) -> Iterator[tuple[str, dict[int, SteeringVector]]]:
    """Vectors of every concept at every wanted layer of one model; saved, and yielded as made.

    Raises:
        LrtError: a concept's texts could not be run.
    """
    configs = {concept.name: concept for concept in run.config.concepts}
    members = {}
    tasks = []
    for name, data in concepts.items():
        ids, positions, members[name] = contrast_texts(data.vector, tokenizer, configs[name].at)
        tasks.append(
            ContrastTask(
                name,
                tuple(ids),
                tuple(positions),
                run.layers[side],
                run.config.extract.batch_tokens,
            )
        )
    for outcome in chains.run(tasks):
        if isinstance(outcome, Failed):
            raise LrtError(f"{outcome.task.key}: {outcome.reason}")
        name = outcome.task.concept
        states = {layer: s for receipt in outcome.receipts for layer, s in receipt.items()}
        yield (
            name,
            {
                layer: _vector(run, side, configs[name], layer, states[layer], members[name])
                for layer in run.layers[side]
            },
        )


def _vector(
    run: Run,
    side: int,
    concept: ConceptConfig,
    layer: int,
    states: torch.Tensor,
    members: list[tuple[list[int], list[int]]],
) -> SteeringVector:
    # Alternatives of one item count as one: the mean of their states.
    positive = torch.stack([states[up].to(torch.float64).mean(0) for up, _ in members])
    negative = torch.stack([states[down].to(torch.float64).mean(0) for _, down in members])
    vector = SteeringVector(
        concept.name,
        run.folder.model(side).model,
        layer,
        make_vector(concept.vector, positive, negative),
        concept.vector,
        len(members),
    )
    save_vector(run.folder.vector_path(concept.name, side, layer), vector)
    return vector
