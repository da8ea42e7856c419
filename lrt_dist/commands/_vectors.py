"""Native vectors of every concept, made from contrast texts and saved."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lrt_dist.config import ConceptConfig
from lrt_dist.errors import LrtError
from lrt_dist.maps.vectors import SteeringVector, make_vector
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.runtime.contract import Chains, Failed, receipts_of
from lrt_dist.sites import Side
from lrt_dist.tasks.contrast import ContrastTask
from lrt_dist.tasks.sequences import ContrastTexts, contrast_texts
from lrt_dist.workspace.run import Run

LayerVectors = dict[int, SteeringVector]
"""One concept's vectors in one model, by layer."""


def native_vectors(
    run: Run, side: Side, chains: Chains, tokenizer: SiteTokenizer, norms: dict[int, float]
) -> Iterator[tuple[str, LayerVectors]]:
    """Vectors of every concept at every wanted layer of one model; saved, and yielded as made.

    Args:
        norms: median norm of each layer's hidden states.

    Raises:
        LrtError: a concept's texts could not be run.
    """
    concepts = {concept.name: concept for concept in run.config.concepts}
    tasks = [
        ContrastTask(
            name,
            contrast_texts(data.vector, tokenizer, concepts[name].at),
            run.layers[side],
            run.config.extract.batch_tokens,
        )
        for name, data in run.concepts.items()
    ]
    for outcome in chains.run(tasks):
        if isinstance(outcome, Failed):
            raise LrtError(f"{outcome.task.key}: {outcome.reason}")
        concept = concepts[outcome.task.concept]
        states = {layer: s for receipt in receipts_of(outcome) for layer, s in receipt.items()}
        vectors = {
            layer: SteeringVector(
                concept.name,
                run.folder.model(side).model,
                layer,
                _values(concept, states[layer], outcome.task.texts),
                concept.vector.method,
                len(outcome.task.texts.positive),
                norms[layer],
            )
            for layer in run.layers[side]
        }
        for layer, vector in vectors.items():
            vector.save(run.folder.native_vector(concept.name, side, layer))
        yield concept.name, vectors


def _values(concept: ConceptConfig, states: torch.Tensor, texts: ContrastTexts) -> torch.Tensor:
    def item_means(members: tuple[tuple[int, ...], ...]) -> torch.Tensor:
        # Alternatives of one item count as one: the mean of their states.
        return torch.stack([states[list(item)].to(torch.float64).mean(0) for item in members])

    return make_vector(
        concept.vector.method,
        item_means(texts.positive),
        item_means(texts.negative),
        concept.vector.parameters,
    )
