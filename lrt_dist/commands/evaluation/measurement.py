"""Everything that is reported of the test items, under steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from lrt_dist.commands.evaluation.choice import Agreement, Choice
from lrt_dist.commands.evaluation.screening import Screen
from lrt_dist.commands.evaluation.steered import Request, SteeredTarget, effects_of
from lrt_dist.plan.conditions import (
    CROSS_ENTROPY,
    NONE,
    Arm,
    Condition,
    conditions_of,
    neutral_conditions,
)
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import ScoreRow
from lrt_dist.workspace.run import Run


@dataclass(frozen=True)
class Measured:
    """Effects of one concept's vectors on its test items.

    Attributes:
        pair, strength: chosen on the development items.
        native, transferred: float64 `[items]`, at that pair and strength.
        best_layer, best_strength: where the native vector does most, by the development items.
        best: float64 `[items]`, the native vector's effects there.
        agreement: of predicted and measured effects at the strength.
    """

    pair: LayerPair
    strength: float
    native: torch.Tensor
    transferred: torch.Tensor
    best_layer: int
    best_strength: float
    best: torch.Tensor
    agreement: Agreement


def measure(
    run: Run,
    steered: SteeredTarget,
    screens: Mapping[str, Screen],
    choices: Mapping[str, Choice],
) -> tuple[dict[str, Measured], list[ScoreRow]]:
    """Steer every concept's test items, and neutral text, at the chosen pair of layers."""
    names = list(screens)
    requests: list[Request] = []
    for name in names:
        requests += _requests(run, name, names, screens[name], choices[name])
    values = steered.scores("evaluate (test)", requests)
    rows = [
        row for request, v in zip(requests, values, strict=True) for row in steered.rows(request, v)
    ]
    effects = {
        (request.concept, request.target, *key): effect
        for request, v in zip(requests, values, strict=True)
        if request.split == "test"
        for key, effect in _by_arm(effects_of(request, v)).items()
    }
    measured = {}
    for name in names:
        screen, choice = screens[name], choices[name]
        pair, best = screen.chosen, screen.best_native
        measured[name] = Measured(
            pair,
            choice.strength,
            effects[name, pair.target, Arm.NATIVE, choice.strength],
            effects[name, pair.target, Arm.TRANSFERRED, choice.strength],
            best,
            choice.best_strength,
            effects[name, best, Arm.NATIVE, choice.best_strength],
            choice.agreement,
        )
    return measured, rows


def _requests(
    run: Run, name: str, names: Sequence[str], screen: Screen, choice: Choice
) -> list[Request]:
    config = run.config.evaluate
    pair, items = screen.chosen, run.concepts[name].test
    both = (-choice.strength, choice.strength)
    conditions = [
        NONE,
        *conditions_of(Arm.NATIVE, config.strengths),
        *conditions_of(Arm.TRANSFERRED, config.strengths, source=pair.source),
        *_fixed_controls(run, name, names, pair, both),
    ]
    requests = [Request(name, "test", config.score, pair.target, tuple(conditions), items)]
    if screen.best_native != pair.target:
        native = conditions_of(Arm.NATIVE, (-choice.best_strength, choice.best_strength))
        requests.append(
            Request(name, "test", config.score, screen.best_native, tuple(native), items)
        )
    if not run.positions.needs_prompt:  # else nothing of neutral text is steered
        neutral = tuple(neutral_conditions(pair.source, choice.strength))
        requests.append(Request(name, "neutral", CROSS_ENTROPY, pair.target, neutral))
    return requests


def _fixed_controls(
    run: Run, name: str, names: Sequence[str], pair: LayerPair, strengths: tuple[float, float]
) -> list[Condition]:
    """The controls of which there are few: each is steered."""
    mismatched = range(run.config.fit.mismatched_draws)
    others = [number for number, other in enumerate(names) if other != name]
    conditions = [
        *conditions_of(Arm.MISMATCHED, strengths, source=pair.source, draws=mismatched),
        *conditions_of(Arm.FOREIGN, strengths, source=pair.source, draws=others),
        *conditions_of(Arm.MEAN, strengths),
    ]
    if run.widths.source == run.widths.target:
        conditions += conditions_of(Arm.IDENTITY, strengths, source=pair.source)
    return conditions


def _by_arm(effects: Mapping[Condition, torch.Tensor]) -> dict[tuple[Arm, float], torch.Tensor]:
    """Effects of the two vectors that a verdict compares."""
    wanted = product((Arm.NATIVE, Arm.TRANSFERRED), effects.items())
    return {(arm, c.strength): effect for arm, (c, effect) in wanted if c.arm is arm}
