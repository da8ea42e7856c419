"""A run directory as the commands would leave it, with effects that are known beforehand."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt_dist.config import RunConfig
from lrt_dist.plan.conditions import NO_LAYER, Arm
from lrt_dist.report.results import Results
from lrt_dist.sites import Direction, LayerPair
from lrt_dist.store.tables import (
    FitRow,
    JointFitRow,
    MapRow,
    SampleRow,
    ScoreRow,
    Table,
    VectorRow,
)
from lrt_dist.workspace.folder import RunFolder

STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
SOURCE_ARMS = {Arm.TRANSFERRED, Arm.MISMATCHED}
"""Arms that depend on the source layer."""

CONFIG = RunConfig.model_validate(
    {
        "name": "smollm2-to-gemma3",
        "source": {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "layers": [10, 15, 20]},
        "target": {"model": "google/gemma-3-270m", "dtype": "float32"},
        "corpus": {"paths": ["/usr/lib/python3/documentation/a-rather-long-folder-name/*.txt"]},
    }
)


def save_run(
    out: Path,
    *,
    config: RunConfig = CONFIG,
    fits: Iterable[FitRow] | None = None,
    reverse: Iterable[FitRow] | None = None,
    joint: Iterable[JointFitRow] | None = None,
    scores: Iterable[ScoreRow] | None = None,
    vectors: Iterable[VectorRow] | None = None,
    samples: Iterable[SampleRow] | None = None,
) -> Results:
    """Write run.yaml and the tables that are given, over those of an earlier call; read it all."""
    folder = RunFolder.claim(out, config)
    tables: list[tuple[Path, type[Any], Iterable[Any] | None]] = [
        (folder.fits[Direction.FORWARD], FitRow, fits),
        (folder.fits[Direction.REVERSE], FitRow, reverse),
        (folder.fits[Direction.JOINT], JointFitRow, joint),
        (folder.scores, ScoreRow, scores),
        (folder.vectors, VectorRow, vectors),
        (folder.samples, SampleRow, samples),
    ]
    for path, row, rows in tables:
        if rows is not None:
            Table.of(row, rows).save(path, "synthetic")
    return Results.read(out)


def item_rows(
    concept: str,
    pair: LayerPair,
    *,
    split: str,
    gain: float,
    shares: Mapping[tuple[Arm, int], float],
    strengths: Sequence[float] = STRENGTHS,
    items: int = 24,
    noise: float = 0.3,
) -> list[ScoreRow]:
    """Propensity = item's own + share x gain x strength (+ noise), for each (arm, draw)."""
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
        rows_left_out=37,
        left_out_share_source=0.4,
        left_out_share_target=0.2,
        folds=5,
        seconds=1.7,
        n=12288,
        rank=576,
        condition=3.4e5,
        effective_rank=120.0,
        ridge_relative=0.0316,
        ridge=2.1,
        map_rank=192,
        r2=r2,
        r2_median=r2 - 0.09,
        r2_q10=r2 - 0.21,
        r2_q90=r2 + 0.06,
        r2_mismatched=-0.02,
        r2_identity=math.nan,
        cka=0.8 * r2,
        cka_unbiased=0.75 * r2,
        learning=((1000, 0.6 * r2), (2000, 0.8 * r2), (4000, r2)),
    )
    return dict(vars(row))


def vector_row(concept: str, pair: LayerPair, **changed: Any) -> VectorRow:
    usual: dict[str, Any] = {
        "cosine": 0.7,
        "cosine_mismatched": 0.01,
        "chosen": False,
        "strength": 0.05,
        "pairs": 96,
        "overlap": False,
    }
    return VectorRow(
        concept=concept, source_layer=pair.source, target_layer=pair.target, **(usual | changed)
    )


def realistic_run(out: Path, *, hostile: str = "formality") -> Results:
    """Four concepts over 3 x 18 layer pairs: two that transfer, one that fails, one undefined."""
    pairs = [LayerPair(source, target) for source in (10, 15, 20) for target in range(18)]
    fits = [
        fit_row(pair, 0.75 - 0.02 * pair.target - 0.01 * abs(pair.source - 10 - pair.target / 2))
        for pair in pairs
    ]
    concepts = {
        "sentiment": (80.0, 0.86, LayerPair(15, 9)),
        "certainty": (35.0, 0.55, LayerPair(20, 8)),
        hostile: (30.0, 0.04, LayerPair(15, 11)),
        "past against present": (0.2, 0.9, LayerPair(10, 5)),
    }
    scores: list[ScoreRow] = []
    vectors: list[VectorRow] = []
    samples: list[SampleRow] = []
    for concept, (gain, share, chosen) in concepts.items():
        for pair in pairs:
            away = 0.12 * abs(pair.target - chosen.target) + 0.02 * abs(pair.source - chosen.source)
            fade = max(-0.2, 1 - away)
            scores += item_rows(
                concept,
                pair,
                split="dev",
                gain=gain,
                shares={(Arm.NATIVE, 0): 1.0, (Arm.TRANSFERRED, 0): share * fade},
                strengths=(-0.05, 0.05),
                items=8,
            )
            vectors.append(
                vector_row(concept, pair, cosine=0.78 * fade * share, chosen=pair == chosen)
            )
        rng = random.Random(concept)
        shares = {(Arm.NATIVE, 0): 1.0, (Arm.TRANSFERRED, 0): share, (Arm.MISMATCHED, 0): 0.03}
        shares |= {(Arm.RANDOM, draw): rng.gauss(0, 0.06) for draw in range(8)}
        scores += item_rows(concept, chosen, split="test", gain=gain, shares=shares)
        scores += price_rows(concept, chosen)
        samples += [
            SampleRow(concept=concept, prompt="The film was", arm=arm, strength=alpha, text=text)
            for arm, alpha, text in CONTINUATIONS
        ]
    return save_run(out, fits=fits, scores=scores, vectors=vectors, samples=samples)


CONTINUATIONS = (
    (Arm.NONE, 0.0, " released in 1996 and was directed by the same man as the first one."),
    (Arm.NATIVE, -0.05, " a disaster from its first minute, and I left before the end of it."),
    (Arm.TRANSFERRED, -0.05, " terrible, and the worst of it was that nobody seemed to care."),
    (Arm.NATIVE, 0.05, " a joy: warm, funny, beautifully made, and I will see it again."),
    (Arm.TRANSFERRED, 0.05, " wonderful, with a great cast and\na story that I loved."),
)
