"""Everything that is reported of the test items, under steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lrt_dist.commands.evaluation.choice import Choice
from lrt_dist.commands.evaluation.screening import Screen
from lrt_dist.commands.evaluation.steered import Request, SteeredTarget, effects_of
from lrt_dist.effects import Agreement
from lrt_dist.plan.conditions import (
    CROSS_ENTROPY,
    Arm,
    Condition,
    compared_conditions,
    conditions_of,
    test_conditions,
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
    return measured, list(steered.rows(requests, values))


def _requests(
    run: Run, name: str, names: Sequence[str], screen: Screen, choice: Choice
) -> list[Request]:
    config = run.config.evaluate
    pair, items = screen.chosen, run.concepts[name].test
    conditions = test_conditions(
        config.strengths,
        choice.strength,
        pair.source,
        mismatched=run.config.fit.mismatched_draws,
        foreign=[number for number, other in enumerate(names) if other != name],
        concept_maps=() if run.config.fit.on == "corpus" else range(len(names)),
        detours=len(config.detours),
        identity=run.widths.source == run.widths.target,
    )
    requests = [Request(name, "test", config.score.title, pair.target, tuple(conditions), items)]
    if screen.best_native != pair.target:
        native = conditions_of(Arm.NATIVE, (-choice.best_strength, choice.best_strength))
        requests.append(
            Request(name, "test", config.score.title, screen.best_native, tuple(native), items)
        )
    if not run.positions.needs_prompt:  # else nothing of neutral text is steered
        neutral = tuple(compared_conditions(pair.source, choice.strength))
        requests.append(Request(name, "neutral", CROSS_ENTROPY, pair.target, neutral))
    return requests


def _by_arm(effects: Mapping[Condition, torch.Tensor]) -> dict[tuple[Arm, float], torch.Tensor]:
    """Effects of the two vectors that a verdict compares."""
    vectors = (Arm.NATIVE, Arm.TRANSFERRED)
    return {(c.arm, c.strength): effect for c, effect in effects.items() if c.arm in vectors}
