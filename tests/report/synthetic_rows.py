"""Rows of a run's tables, with numbers that are known beforehand."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from lrt_dist.plan.conditions import DRAWN, NO_LAYER, Arm
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import (
    AgreementRow,
    ControlRow,
    FitRow,
    GeneratedRow,
    ItemRow,
    JointFitRow,
    MapRow,
    ScoreRow,
    VectorRow,
    VerdictRow,
)

STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
SOURCE_ARMS = {
    *(Arm.TRANSFERRED, Arm.MISMATCHED, Arm.FOREIGN, Arm.CONCEPT_MAP, Arm.DETOUR, Arm.IDENTITY),
    *DRAWN,
}
"""Arms that depend on the source layer."""


OTHERS = (Arm.FOREIGN, Arm.CONCEPT_MAP, Arm.DETOUR)


def score_rows(
    concept: str,
    pair: LayerPair,
    *,
    split: str,
    gain: float,
    shares: Mapping[tuple[Arm, int], float],
    strengths: Sequence[float] = STRENGTHS,
    items: int = 24,
    noise: float = 0.3,
    others: Sequence[str] = (),
) -> list[ScoreRow]:
    """Propensity = item's own + share x gain x strength (+ noise), for each (arm, draw).

    `others` names the concepts whose vectors the draws of the foreign arm inject, and on whose
    texts maps were fitted.
    """
    rng = random.Random(f"{concept} {pair} {split}")
    rows = []
    for item in range(items):
        base, slope = rng.gauss(0, 2), gain * (1 + noise * rng.gauss(0, 1))

        def row(
            arm: Arm,
            value: float,
            draw: int = 0,
            strength: float = 0.0,
            item: int = item,
        ) -> ScoreRow:
            return ScoreRow(
                concept=concept,
                split=split,
                item=item,
                target_layer=pair.target,
                arm=arm,
                source_layer=pair.source if arm in SOURCE_ARMS else NO_LAYER,
                draw=draw,
                vector=others[draw] if arm in OTHERS else concept,
                strength=strength,
                metric="propensity",
                value=value,
            )

        rows.append(row(Arm.NONE, base))
        for (arm, draw), share in shares.items():
            for strength in strengths:
                effect = share * slope * strength + noise * rng.gauss(0, 1)
                rows.append(row(arm, base + effect, draw, strength))
    return rows


def price_rows(concept: str, pair: LayerPair) -> list[ScoreRow]:
    """Cross-entropy of neutral text, dearer by a fixed price under each arm, both signs alike."""
    prices = {Arm.NONE: 0.0, Arm.NATIVE: 0.21, Arm.TRANSFERRED: 0.18, Arm.RANDOM: 0.05}
    return [
        ScoreRow(
            concept=concept,
            split="neutral",
            item=item,
            target_layer=pair.target,
            arm=arm,
            source_layer=pair.source if arm in SOURCE_ARMS else NO_LAYER,
            draw=0,
            vector="",
            strength=strength,
            metric="cross_entropy",
            value=3 + item / 10 + price,
        )
        for item in range(8)
        for arm, price in prices.items()
        for strength in ((0.0,) if arm is Arm.NONE else (-0.05, 0.05))
    ]


def fit_row(pair: LayerPair, r2: float, **changed: Any) -> FitRow:
    return FitRow(source_layer=pair.source, **(_map_fields(pair.target, r2) | changed))


def joint_row(sources: tuple[int, ...], target: int, r2: float, **changed: Any) -> JointFitRow:
    return JointFitRow(source_layers=sources, **(_map_fields(target, r2) | changed))


def _map_fields(target: int, r2: float) -> dict[str, Any]:
    """The fields of `MapRow`, for a map of this R²."""
    row = MapRow(
        source_model="HuggingFaceTB/SmolLM2-135M-Instruct",
        target_model="google/gemma-3-270m",
        target_layer=target,
        method="affine",
        documents=61,
        d_source=576,
        d_target=640,
        rows_shrunk_source=37,
        rows_shrunk_target=12,
        shrunk_share_source=0.4,
        shrunk_share_target=0.2,
        folds=5,
        seconds=1.7,
        n=12288,
        rank=576,
        condition=3.4e5,
        effective_rank=120.0,
        ridge_relative=0.0316,
        ridge=2.1,
        ridge_at_edge=False,
        map_rank=192,
        r2=r2,
        r2_median=r2 - 0.09,
        r2_q10=r2 - 0.21,
        r2_q90=r2 + 0.06,
        r2_mismatched=-0.02,
        r2_mismatched_low=-0.03,
        r2_mismatched_high=-0.01,
        r2_identity=math.nan,
        cka=0.8 * r2,
        cka_unbiased=0.75 * r2,
        learning=((1000, 0.6 * r2), (2000, 0.8 * r2), (4000, r2)),
    )
    return dict(vars(row))


def vector_row(concept: str, pair: LayerPair, **changed: Any) -> VectorRow:
    usual: dict[str, Any] = {
        "native_dev": 40.0,
        "transferred_dev": 28.0,
        "cosine": 0.7,
        "cosine_mismatched": 0.01,
        "norm_ratio": 0.83,
        "projection": 0.58,
        "heavy_share": 0.31,
        "chosen": False,
        "strength": 0.05,
        "length": 3.1,
        "native_length": 3.1,
        "pairs": 96,
        "overlap": False,
    }
    return VectorRow(
        concept=concept, source_layer=pair.source, target_layer=pair.target, **(usual | changed)
    )


def verdict_row(concept: str, pair: LayerPair, **changed: Any) -> VerdictRow:
    """A vector that keeps 70 % of a native effect of 2, beside controls that reach nothing."""
    usual: dict[str, Any] = {
        "strength": 0.05,
        "items": 30,
        "questions": 30,
        "pairs": 96,
        "overlap": False,
        "native": 2.0,
        "native_interval": (1.8, 2.2),
        "transferred": 1.4,
        "transferred_interval": (1.25, 1.55),
        "retention": 0.7,
        "retention_interval": (0.62, 0.78),
        "best_layer": pair.target,
        "best_strength": 0.05,
        "best_native": 2.0,
        "share_of_best": 0.7,
        "share_interval": (0.6, 0.8),
        "p_permuted": 0.002,
        "p_random_source": 0.001,
        "p_covariance": 0.003,
        "p_random": 0.004,
        "p_adjusted": 0.004,
        "statistic": 0.71,
        "screened": True,
        "agreement": 0.98,
        "slope": 0.9,
        "pairs_vary": True,
        "documents_vary": True,
        "pairs_searched": 9,
    }
    return VerdictRow(
        concept=concept, source_layer=pair.source, target_layer=pair.target, **(usual | changed)
    )


def control_rows(
    concept: str, pair: LayerPair, *, draws: int = 101, reach: float = 0.3, steered: bool = False
) -> list[ControlRow]:
    """Draws of every drawn control, evenly from -reach to reach."""
    return [
        ControlRow(
            concept=concept,
            arm=arm,
            draw=draw,
            source_layer=pair.source,
            target_layer=pair.target,
            effect=2 * reach * (2 * draw / (draws - 1) - 1),
            share=reach * (2 * draw / (draws - 1) - 1),
            steered=steered,
        )
        for arm in DRAWN
        for draw in range(draws)
    ]


def agreement_rows(concept: str, pair: LayerPair, *, slope: float = 0.9) -> list[AgreementRow]:
    """Measured effects are `slope` times the predicted ones, at two strengths."""
    predicted = {Arm.NATIVE: 40.0, Arm.TRANSFERRED: 28.0, Arm.RANDOM: -3.0, Arm.PERMUTED: 2.0}
    return [
        AgreementRow(
            concept=concept,
            arm=arm,
            source_layer=pair.source if arm in SOURCE_ARMS else NO_LAYER,
            target_layer=pair.target,
            draw=0,
            strength=strength,
            predicted=effect * strength,
            measured=slope * effect * strength,
        )
        for strength in (0.05, 0.1)
        for arm, effect in predicted.items()
    ]


def item_rows(concept: str, items: int = 24) -> list[ItemRow]:
    return [
        ItemRow(
            concept=concept,
            split="test",
            item=item,
            question=f"film {item} was",
            prompt=f"Film {item} was",
            negative_prompt=f"Film {item} was",
            positive=(" a joy", " fun"),
            negative=(" a bore",),
        )
        for item in range(items)
    ]


def generated_row(**columns: Any) -> GeneratedRow:
    """A text of the first prompt that no score judged, unless it is said otherwise."""
    usual: dict[str, Any] = {
        "item": 0, "question": "", "sample": 0, "source_layer": NO_LAYER, "target_layer": 9,
        "draw": 0, "scores": (), "values": (),
    }  # fmt: skip
    return GeneratedRow(**usual | columns)
