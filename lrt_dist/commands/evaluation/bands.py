"""Several target layers steered at once, each with the vector of that layer.

Each target layer of a band gets the vector that the search found best for it. Controls are steered,
not predicted: vectors of permuted labels, each from one permutation at all layers, and random
directions, each the same at all layers, since what adds up over layers in the claim must add up in
a control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from lrt_dist.commands.evaluation.screening import Screen
from lrt_dist.commands.evaluation.steered import Request, SteeredTarget, effects_of
from lrt_dist.effects import ratio
from lrt_dist.intervals import mean_interval, ratio_interval
from lrt_dist.plan.conditions import (
    NO_LAYER,
    Arm,
    Condition,
    band_conditions,
    conditions_of,
    gentlest,
)
from lrt_dist.sites import Band
from lrt_dist.store.tables import BandRow
from lrt_dist.workspace.run import Run


def measure_bands(run: Run, steered: SteeredTarget, screens: Mapping[str, Screen]) -> list[BandRow]:
    """Steer every concept's test items at every band of `evaluate.bands`, at all strengths; the
    controls at the strength that development items decide."""
    config, metric = run.config.evaluate, run.config.evaluate.score.title
    bands = [(name, band) for name in screens for band in _bands(run, screens[name])]

    def requests(split: str, conditions: Sequence[Sequence[Condition]]) -> list[Request]:
        items = {name: getattr(run.concepts[name], split) for name in screens}
        return [
            Request(name, split, metric, band[0].target, tuple(some), items[name], band)
            for (name, band), some in zip(bands, conditions, strict=True)
        ]

    natives = conditions_of(Arm.NATIVE, config.strengths)
    on_dev = requests("dev", [natives] * len(bands))
    chosen = [
        gentlest([(c.strength, float(e.mean())) for c, e in effects_of(request, values).items()])
        for request, values in zip(on_dev, steered.scores("bands (dev)", on_dev), strict=True)
    ]
    on_test = requests(
        "test", [band_conditions(config.strengths, s, config.exact_draws) for s in chosen]
    )
    measured = steered.scores("bands (test)", on_test)
    return [
        row
        for request, strength, values in zip(on_test, chosen, measured, strict=True)
        for row in _rows(request, strength, effects_of(request, values))
    ]


def _bands(run: Run, screen: Screen) -> Iterator[Band]:
    for layers in run.bands:
        yield tuple(screen.best_to(layer) for layer in layers)


def _rows(
    request: Request, chosen: float, effects: Mapping[Condition, torch.Tensor]
) -> Iterator[BandRow]:
    questions = [item.question for item in request.items]
    for condition, effect in effects.items():
        native = effects[Condition(Arm.NATIVE, NO_LAYER, 0, condition.strength)]
        yield BandRow(
            concept=request.concept,
            source_layers=tuple(pair.source for pair in request.band),
            target_layers=tuple(pair.target for pair in request.band),
            arm=condition.arm,
            draw=condition.draw,
            strength=condition.strength,
            chosen=condition.strength == chosen,
            items=len(request.items),
            effect=float(effect.mean()),
            effect_interval=mean_interval(effect, questions),
            retention=ratio(float(effect.mean()), float(native.mean())),
            retention_interval=ratio_interval(effect, native, questions),
        )
