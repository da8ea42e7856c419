"""What the test items say of each concept: effects, retention, intervals and p-values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from lrt_dist.commands.evaluation.measurement import Measured
from lrt_dist.commands.evaluation.screening import Screen
from lrt_dist.commands.evaluation.spread import Spread
from lrt_dist.effects import ratio
from lrt_dist.intervals import mean_interval, ratio_interval
from lrt_dist.plan.conditions import DRAWN, Arm
from lrt_dist.significance import empirical_p, holm
from lrt_dist.store.tables import VerdictRow
from lrt_dist.workspace.run import Run


def conclude(
    run: Run,
    screens: Mapping[str, Screen],
    measured: Mapping[str, Measured],
    spread: Spread,
    overlap: Collection[str],
    *,
    screened: bool,
) -> list[VerdictRow]:
    """One row for each concept.

    Args:
        overlap: concepts whose texts occur in the corpus of the map.
        screened: whether controls were judged by predicted effects.
    """
    rows = [
        _verdict(run, name, screens[name], found, spread, name in overlap, screened=screened)
        for name, found in measured.items()
    ]
    adjusted = holm([row.p_adjusted for row in rows])
    return [replace(row, p_adjusted=p) for row, p in zip(rows, adjusted, strict=True)]


def _verdict(
    run: Run,
    name: str,
    screen: Screen,
    found: Measured,
    spread: Spread,
    overlap: bool,
    *,
    screened: bool,
) -> VerdictRow:
    covariance = spread.covariance(name, found)
    # As if the best native vector were made of other pairs: the wider interval of the two.
    apart = covariance.diagonal().diag()
    # Items of one question are drawn together.
    questions = [item.question for item in run.concepts[name].test]
    native, transferred, best = (
        float(effects.mean()) for effects in (found.native, found.transferred, found.best)
    )
    effect = screen.pairs[screen.chosen].test if screened else transferred
    p = {arm: empirical_p(effect, screen.draws[arm].effect) for arm in DRAWN}
    return VerdictRow(
        concept=name,
        source_layer=found.pair.source,
        target_layer=found.pair.target,
        strength=found.strength,
        items=len(found.native),
        questions=len(set(questions)),
        pairs=len(run.concepts[name].vector),
        overlap=overlap,
        native=native,
        native_interval=mean_interval(found.native, questions, further=float(covariance[1, 1])),
        transferred=transferred,
        transferred_interval=mean_interval(
            found.transferred, questions, further=float(covariance[0, 0])
        ),
        retention=ratio(transferred, native),
        retention_interval=ratio_interval(
            found.transferred, found.native, questions, further=covariance
        ),
        best_layer=found.best_layer,
        best_strength=found.best_strength,
        best_native=best,
        share_of_best=ratio(transferred, best),
        share_interval=ratio_interval(found.transferred, found.best, questions, further=apart),
        p_permuted=p[Arm.PERMUTED],
        p_random_source=p[Arm.RANDOM_SOURCE],
        p_covariance=p[Arm.COVARIANCE],
        p_random=p[Arm.RANDOM],
        p_adjusted=max(p.values()),  # of this concept alone; `conclude` adjusts it
        statistic=ratio(effect, best_effect(screen, found, screened=screened)),
        screened=screened,
        agreement=found.agreement.r,
        slope=found.agreement.slope,
        pairs_vary=spread.pairs_vary(name),
        documents_vary=spread.documents_vary,
        pairs_searched=len(run.pairs),
    )


def best_effect(screen: Screen, found: Measured, *, screened: bool) -> float:
    """The best native effect on the test items: predicted for strength 1, or measured, as those of
    the drawn controls are."""
    predicted = screen.concept.effects[screen.best_native].test
    return predicted if screened else float(found.best.mean())
