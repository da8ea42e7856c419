"""Contrast states and native vectors of every concept in one model."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.commands.evaluation.given import given_vector
from lrt_dist.errors import LrtError, UserError
from lrt_dist.maps.vectors import SteeringVector, make_vector
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.runtime.contract import Failed, receipts_of
from lrt_dist.sites import Side
from lrt_dist.store.cells import address
from lrt_dist.store.states import ContrastStates
from lrt_dist.tasks.chat import rendered
from lrt_dist.tasks.contrast import contrast_tasks
from lrt_dist.tasks.sequences import ContrastTexts, contrast_texts
from lrt_dist.version import __version__
from lrt_dist.workspace.placement import compute_dtype
from lrt_dist.workspace.run import Run

LayerStates = dict[int, torch.Tensor]
"""States of some texts, float32 `[texts, d]`, by layer."""


def contrast_states(
    run: Run, side: Side, chains: OnDemandChains, tokenizer: SiteTokenizer
) -> dict[str, Path]:
    """The file of every concept's contrast states in one model; those that are there are kept.

    Raises:
        LrtError: a concept's texts could not be run.
    """
    texts = {
        concept.name: contrast_texts(
            rendered(run.concepts[concept.name].vector, concept.template, tokenizer),
            tokenizer,
            concept.at,
        )
        for concept in run.config.concepts
    }
    paths = {
        name: run.folder.contrast_states(name, side, _address(run, side, texts[name]))
        for name in texts
    }
    # The target's chain is planned for the batches of the evaluation.
    section = run.config.extract if side is Side.SOURCE else run.config.evaluate
    tasks = [
        task
        for name, path in paths.items()
        if not path.exists()
        for task in contrast_tasks(name, texts[name], run.layers[side], section.batch_tokens)
    ]
    unfinished = Counter(task.concept for task in tasks)
    pieces: dict[str, dict[int, LayerStates]] = {name: {} for name in unfinished}
    total = sum(len(of_concept.ids) for of_concept in texts.values())
    with run.progress.phase(f"vectors ({side})", total, "texts") as phase:
        phase.resume(total - sum(len(task.ids) for task in tasks))
        for outcome in chains.run(tasks):
            task = outcome.task
            if isinstance(outcome, Failed):
                raise LrtError(f"{task.key}: {outcome.reason}")
            pieces[task.concept][task.first] = {
                layer: s for receipt in receipts_of(outcome) for layer, s in receipt.items()
            }
            phase.advance(len(task.ids))
            unfinished[task.concept] -= 1
            if not unfinished[task.concept]:
                ordered = [piece for _, piece in sorted(pieces.pop(task.concept).items())]
                states = {
                    layer: torch.cat([piece[layer] for piece in ordered])
                    for layer in run.layers[side]
                }
                _pairs(states, texts[task.concept]).save(paths[task.concept])
    return paths


def save_native_vectors(
    run: Run, side: Side, states: dict[str, Path], norms: dict[int, float]
) -> None:
    """Make every concept's vector at every wanted layer of one model; those that are given are
    taken as they are.

    Args:
        states: files of contrast states, by concept.
        norms: median norm of each layer's hidden states.

    Raises:
        UserError: a vector is zero.
    """
    for concept in run.config.concepts:
        kept = ContrastStates.load(states[concept.name], run.layers[side])
        for layer in run.layers[side]:
            path = run.folder.native_vector(concept.name, side, layer)
            given = given_vector(run, concept, side, layer)
            if given is not None:
                replace(given, norm=norms[layer]).save(path)
                continue
            values = make_vector(concept.vector.method, *kept.of(layer), concept.vector.parameters)
            if not bool(values.any()):
                raise UserError(
                    f"concept {concept.name}: its vector at layer {layer} of the {side} model is "
                    "zero, so it has no direction; its positive and negative texts must differ "
                    f"before or at the token that is read (at: {concept.at})"
                )
            vector = SteeringVector(
                concept.name,
                run.folder.model(side).model,
                layer,
                values,
                concept.vector.method,
                len(kept.positive[layer]),
                norms[layer],
            )
            vector.save(path)


def _address(run: Run, side: Side, texts: ContrastTexts) -> str:
    """Of everything that decides the states."""
    made_from = {
        "model": run.facts[side].digest,
        "dtype": compute_dtype(run, side),
        "layers": run.layers[side],
        "ids": texts.ids,
        "positions": texts.positions,
        "pairs": (texts.positive, texts.negative),
        "lrt_dist": __version__,
    }
    return address(json.dumps(made_from).encode()).hex()


def _pairs(states: dict[int, torch.Tensor], texts: ContrastTexts) -> ContrastStates:
    def item_means(layer: int, members: tuple[tuple[int, ...], ...]) -> torch.Tensor:
        # Alternatives of one item count as one: the mean of their states.
        return torch.stack([states[layer][list(item)].double().mean(0) for item in members])

    return ContrastStates(
        {layer: item_means(layer, texts.positive).float() for layer in states},
        {layer: item_means(layer, texts.negative).float() for layer in states},
    )
