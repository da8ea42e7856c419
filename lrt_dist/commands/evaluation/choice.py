"""What development items decide, under steering: strengths, and whether predictions hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lrt_dist.commands.evaluation.displacements import Displacements
from lrt_dist.commands.evaluation.gradients import GradientFiles
from lrt_dist.commands.evaluation.screening import Screen
from lrt_dist.commands.evaluation.steered import Request, SteeredTarget, effects_of
from lrt_dist.effects import Agreement
from lrt_dist.plan.conditions import Arm, Condition, conditions_of, dev_conditions, gentlest
from lrt_dist.store.tables import AgreementRow, ScoreRow
from lrt_dist.workspace.run import Run

AGREEMENT = 0.9
"""Least correlation of predicted and measured effects at which predictions judge the controls."""

ITEMS = 12
"""Development items that are steered."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for one concept.

    Attributes:
        strength: at the chosen pair, the gentlest with at least half of the largest native effect.
        best_strength: the same at the layer where the native vector does most.
        compared: predicted beside measured effects at every strength; none without predictions.
    """

    strength: float
    best_strength: float
    compared: tuple[AgreementRow, ...]

    @property
    def agreement(self) -> Agreement:
        """At the chosen strength."""
        rows = [row for row in self.compared if row.strength == self.strength]
        return Agreement.of([r.predicted for r in rows], [r.measured for r in rows])


def choose(
    run: Run,
    steered: SteeredTarget,
    displacements: Displacements,
    screens: Mapping[str, Screen],
    gradients: GradientFiles | None,
) -> tuple[dict[str, Choice], list[ScoreRow]]:
    """Steer some development items of every concept at its chosen pair of layers.

    Their scores come along.

    Args:
        gradients: of all items; None where effects cannot be predicted.
    """
    strengths, metric = run.config.evaluate.strengths, run.config.evaluate.score.title
    requests = []
    for name, screen in screens.items():
        pair, items = screen.chosen, run.concepts[name].dev[:ITEMS]
        conditions = dev_conditions(strengths, pair.source, predicted=gradients is not None)
        requests.append(Request(name, "dev", metric, pair.target, tuple(conditions), items))
        if screen.best_native != pair.target:
            native = tuple(conditions_of(Arm.NATIVE, strengths))
            requests.append(Request(name, "dev", metric, screen.best_native, native, items))
    values = steered.scores("evaluate (dev)", requests)
    effects = {
        (request.concept, request.target): effects_of(request, v)
        for request, v in zip(requests, values, strict=True)
    }
    choices = {}
    for name, screen in screens.items():
        target, items = screen.chosen.target, run.concepts[name].dev[:ITEMS]
        at_pair, at_best = effects[name, target], effects[name, screen.best_native]
        rows = []
        if gradients is not None:
            known = gradients.of(name, "dev", target)[: len(items)].double()
            steering = displacements.of(name, target, list(at_pair)).by_layer[target]
            added = steering.displacements.double()
            predicted = (added @ known.mean(0)).tolist()
            rows = [
                AgreementRow(
                    concept=name,
                    arm=condition.arm,
                    source_layer=condition.source_layer,
                    target_layer=target,
                    draw=condition.draw,
                    strength=condition.strength,
                    predicted=expected,
                    measured=float(effect.mean()),
                )
                for (condition, effect), expected in zip(at_pair.items(), predicted, strict=True)
            ]
        choices[name] = Choice(_gentlest(at_pair), _gentlest(at_best), tuple(rows))
    return choices, list(steered.rows(requests, values))


def _gentlest(effects: Mapping[Condition, torch.Tensor]) -> float:
    return gentlest(
        [(c.strength, float(e.mean())) for c, e in effects.items() if c.arm is Arm.NATIVE]
    )


def predictions_hold(run: Run, choices: Mapping[str, Choice]) -> bool:
    """Whether predicted effects may judge the controls of all concepts."""
    poor = {n: c.agreement.r for n, c in choices.items() if not c.agreement.r >= AGREEMENT}
    if poor:
        names = ", ".join(f"{name} {r:.2f}" for name, r in poor.items())
        run.progress.note(
            "evaluate",
            f"predicted and measured effects correlate by less than {AGREEMENT} ({names}), so "
            f"{run.config.evaluate.exact_draws} draws of each control are steered in place of "
            f"{run.config.evaluate.control_draws:,} predicted ones; lower evaluate.strengths to "
            "come where predictions hold",
        )
    return not poor
