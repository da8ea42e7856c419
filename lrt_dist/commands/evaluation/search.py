"""Where effects cannot be predicted: the same search and the same controls under steering.

Gradients say nothing about texts that the model writes itself or about operators that do not
displace, and too little where strengths are so large that predictions fail. Steering every control
costs forward passes, so draws are few.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from lrt_dist.commands.evaluation.screening import Screen
from lrt_dist.commands.evaluation.steered import Request, SteeredTarget, effects_of
from lrt_dist.plan.conditions import DRAWN, Arm, Condition, conditions_of, gentlest
from lrt_dist.sites import LayerPair
from lrt_dist.tasks.screen import Draws, Native, keep_better
from lrt_dist.workspace.run import Run


def search(run: Run, steered: SteeredTarget, screens: dict[str, Screen]) -> dict[str, Screen]:
    """Measure every vector and a few draws of every control on the development items, at every pair
    of layers; at each target layer at the gentlest strength with at least half of the largest
    native effect."""
    return {name: _searched(run, steered, screen) for name, screen in screens.items()}


def steered_controls(
    run: Run, steered: SteeredTarget, screens: dict[str, Screen], strengths: dict[str, float]
) -> dict[str, Screen]:
    """Measure a few draws of every control on the test items, each at the pair chosen for it.

    Args:
        strengths: the chosen positive strength of each concept.
    """
    draws = run.config.evaluate.exact_draws
    requests: dict[tuple[str, int], Request] = {}
    for name, screen in screens.items():
        both = (-strengths[name], strengths[name])
        for target in sorted({p.target for p in run.pairs}):
            conditions: list[Condition] = []
            for arm, found in screen.draws.items():
                for draw in range(min(draws, len(found.score))):
                    if int(found.target[draw]) == target:
                        source = int(found.source[draw])
                        conditions += conditions_of(arm, both, source=source, draws=[draw])
            if conditions:
                items = run.concepts[name].test
                requests[name, target] = Request(
                    name, "test", run.config.evaluate.score.title, target, tuple(conditions), items
                )
    values = steered.scores("evaluate (controls)", list(requests.values()))
    effects = {
        key: effects_of(request, v)
        for (key, request), v in zip(requests.items(), values, strict=True)
    }
    measured = {}
    for name, screen in screens.items():
        first = {arm: _head(screen.draws[arm], draws) for arm in DRAWN}
        judged = {
            arm: replace(d, effect=_judged(name, arm, d, effects, strengths[name]))
            for arm, d in first.items()
        }
        measured[name] = replace(screen, draws=judged)
    return measured


def _searched(run: Run, steered: SteeredTarget, screen: Screen) -> Screen:
    name, strengths = screen.concept.name, run.config.evaluate.strengths
    items, metric = run.concepts[name].dev, run.config.evaluate.score.title
    targets = sorted({pair.target for pair in run.pairs})

    def measure(target: int, conditions: Iterable[Condition]) -> dict[Condition, float]:
        request = Request(name, "dev", metric, target, tuple(conditions), items)
        (values,) = steered.scores(f"search ({name}, layer {target})", [request])
        return {c: float(e.mean()) for c, e in effects_of(request, values).items()}

    natives: dict[int, Native] = {}
    pairs = dict(screen.pairs)
    draws: dict[Arm, Draws] = {}
    for target in targets:
        by_strength = measure(target, conditions_of(Arm.NATIVE, strengths))
        strength = gentlest([(c.strength, e) for c, e in by_strength.items()])
        both = (-strength, strength)
        natives[target] = Native(
            by_strength[Condition(Arm.NATIVE, strength=strength)], float("nan")
        )
        for pair in (pair for pair in run.pairs if pair.target == target):
            conditions = conditions_of(Arm.TRANSFERRED, both, source=pair.source)
            numbers = range(run.config.evaluate.exact_draws)
            for arm in DRAWN:
                conditions += conditions_of(arm, both, source=pair.source, draws=numbers)
            effects = measure(target, conditions)
            transferred = effects[Condition(Arm.TRANSFERRED, pair.source, 0, strength)]
            pairs[pair] = replace(pairs[pair], dev=transferred)
            for arm in DRAWN:
                values = [effects[Condition(arm, pair.source, n, strength)] for n in numbers]
                keep_better(draws, arm, _unjudged(pair, natives[target], values))
    return Screen(replace(screen.concept, effects=natives), pairs, draws)


def _unjudged(pair: LayerPair, native: Native, dev: list[float]) -> Draws:
    """Draws that were chosen but not judged on test items yet."""
    effects = torch.tensor(dev, dtype=torch.float64)
    return Draws.at(pair, native, effects, torch.full_like(effects, torch.nan))


def _head(draws: Draws, count: int) -> Draws:
    return Draws(*(getattr(draws, n)[:count] for n in ("score", "effect", "source", "target")))


def _judged(
    name: str,
    arm: Arm,
    draws: Draws,
    effects: dict[tuple[str, int], dict[Condition, torch.Tensor]],
    strength: float,
) -> torch.Tensor:
    """Mean effects of the draws of one control, each at its own pair."""
    pairs = zip(draws.source.tolist(), draws.target.tolist(), strict=True)
    found = [
        effects[name, target][Condition(arm, source, number, strength)].mean()
        for number, (source, target) in enumerate(pairs)
    ]
    return torch.stack(found).to(torch.float64)
