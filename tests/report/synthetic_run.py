"""A run directory as the commands would leave it, with effects that are known beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from synthetic_rows import (
    agreement_rows,
    control_rows,
    fit_row,
    generated_row,
    item_rows,
    price_rows,
    score_rows,
    vector_row,
    verdict_row,
)

from lrt_dist.config import RunConfig
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.results import Results
from lrt_dist.sites import Direction, LayerPair
from lrt_dist.store.tables import (
    AgreementRow,
    ControlRow,
    FitRow,
    GeneratedRow,
    ItemRow,
    JointFitRow,
    ScoreRow,
    Table,
    VectorRow,
    VerdictRow,
)
from lrt_dist.workspace.folder import RunFolder

PAIR = LayerPair(15, 9)

CONFIG = RunConfig.model_validate(
    {
        "name": "smollm2-to-gemma3",
        "source": {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "layers": [10, 15, 20]},
        "target": {"model": "google/gemma-3-270m", "dtype": "float32"},
        "corpus": {"paths": ["/usr/lib/python3/documentation/a-rather-long-folder-name/*.txt"]},
        "concepts": [{"name": "mood", "data": "concepts/mood.jsonl"}],
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
    generated: Iterable[GeneratedRow] | None = None,
    verdicts: Iterable[VerdictRow] | None = None,
    controls: Iterable[ControlRow] | None = None,
    agreement: Iterable[AgreementRow] | None = None,
    items: Iterable[ItemRow] | None = None,
) -> Results:
    """Write run.yaml and the tables that are given, over those of an earlier call; read it all."""
    folder = RunFolder.claim(out, config)
    tables: list[tuple[Path, type[Any], Iterable[Any] | None]] = [
        (folder.fits[Direction.FORWARD], FitRow, fits),
        (folder.fits[Direction.REVERSE], FitRow, reverse),
        (folder.fits[Direction.JOINT], JointFitRow, joint),
        (folder.scores, ScoreRow, scores),
        (folder.vectors, VectorRow, vectors),
        (folder.generated, GeneratedRow, generated),
        (folder.verdicts, VerdictRow, verdicts),
        (folder.controls, ControlRow, controls),
        (folder.agreement, AgreementRow, agreement),
        (folder.items, ItemRow, items),
    ]
    for path, row, rows in tables:
        if rows is not None:
            Table.of(row, rows).save(path, "synthetic")
    return Results.read(out)


SHARES = {
    (Arm.NATIVE, 0): 1.0,
    (Arm.TRANSFERRED, 0): 0.7,
    (Arm.FOREIGN, 0): 0.11,
    (Arm.FOREIGN, 2): -0.12,
    (Arm.MISMATCHED, 0): -0.02,
    (Arm.MISMATCHED, 1): 0.03,
    (Arm.CONCEPT_MAP, 0): 0.4,
    (Arm.DETOUR, 0): 0.55,
    (Arm.MEAN, 0): 0.08,
    (Arm.IDENTITY, 0): 0.17,
}
"""What the arms of `exact_run` keep of the native effect."""


def exact_run(
    out: Path, *, fit: dict[str, Any] | None = None, draws: int = 101, **verdict: Any
) -> Results:
    """One concept whose arms are exact shares of the native effect: 40 x strength, no noise.

    The verdict says what it is told to, whatever the scores are.
    """
    scores = score_rows(
        "mood",
        PAIR,
        split="test",
        gain=40.0,
        shares=SHARES,
        items=30,
        noise=0.0,
        others=("calm", "mood", "tense"),
    )
    row = verdict_row("mood", PAIR, **verdict)
    return save_run(
        out,
        fits=[fit_row(PAIR, **({"r2": 0.45} | (fit or {})))],
        scores=scores + price_rows("mood", PAIR),
        vectors=[vector_row("mood", PAIR, chosen=True)],
        verdicts=[row],
        controls=control_rows("mood", PAIR, draws=draws, steered=not row.screened),
        agreement=agreement_rows("mood", PAIR) if row.screened else [],
        items=item_rows("mood", 30),
    )


def realistic_run(out: Path, *, hostile: str = "formality") -> Results:
    """Four concepts over 3 x 18 layer pairs, with four verdicts."""
    pairs = [LayerPair(source, target) for source in (10, 15, 20) for target in range(18)]
    fits = [
        fit_row(pair, 0.75 - 0.02 * pair.target - 0.01 * abs(pair.source - 10 - pair.target / 2))
        for pair in pairs
    ]
    concepts: dict[str, tuple[float, float, float, LayerPair]] = {
        "sentiment": (80.0, 0.86, 0.08, LayerPair(15, 9)),
        "certainty": (35.0, 0.55, 0.1, LayerPair(20, 8)),
        hostile: (30.0, 0.04, 0.05, LayerPair(15, 11)),
        "past against present": (0.2, 0.9, 6.0, LayerPair(10, 5)),
    }
    tables: dict[str, list[Any]] = {
        name: []
        for name in ("scores", "vectors", "verdicts", "controls", "agreement", "items", "generated")
    }
    for concept, (gain, share, wide, chosen) in concepts.items():
        for pair in pairs:
            away = 0.12 * abs(pair.target - chosen.target) + 0.02 * abs(pair.source - chosen.source)
            fade = max(-0.2, 1 - away)
            tables["vectors"].append(
                vector_row(
                    concept,
                    pair,
                    native_dev=gain * fade,
                    transferred_dev=gain * share * fade * fade,
                    cosine=0.78 * fade * share,
                    chosen=pair == chosen,
                )
            )
        others = [name for name in concepts if name != concept]
        shares = {(Arm.NATIVE, 0): 1.0, (Arm.TRANSFERRED, 0): share, (Arm.MEAN, 0): -0.06}
        shares |= {(Arm.MISMATCHED, draw): 0.03 - 0.02 * draw for draw in range(3)}
        shares |= {(Arm.FOREIGN, draw): 0.1 - 0.08 * draw for draw in range(3)}
        tables["scores"] += score_rows(
            concept, chosen, split="test", gain=gain, shares=shares, others=others
        )
        tables["scores"] += price_rows(concept, chosen)
        effect = 0.05 * gain
        tables["verdicts"].append(
            verdict_row(
                concept,
                chosen,
                items=24,
                native=effect,
                native_interval=(effect - 0.1, effect + 0.1),
                transferred=share * effect,
                transferred_interval=(share * effect - 0.1, share * effect + 0.1),
                retention=share,
                retention_interval=(share - wide, share + wide),
                best_native=1.1 * effect,
                share_of_best=share / 1.1,
                share_interval=((share - wide) / 1.1, (share + wide) / 1.1),
                statistic=share,
            )
        )
        tables["controls"] += control_rows(concept, chosen, reach=wide + 0.2)
        tables["agreement"] += agreement_rows(concept, chosen)
        tables["items"] += item_rows(concept)
        tables["generated"] += [
            generated_row(
                concept=concept, prompt="The film was", arm=arm, strength=alpha, text=text
            )
            for arm, alpha, text in CONTINUATIONS
        ]
    return save_run(out, config=CONFIG, fits=fits, **tables)


CONTINUATIONS = (
    (Arm.NONE, 0.0, " released in 1996 and was directed by the same man as the first one."),
    (Arm.NATIVE, -0.05, " a disaster from its first minute, and I left before the end of it."),
    (Arm.TRANSFERRED, -0.05, " terrible, and the worst of it was that nobody seemed to care."),
    (Arm.NATIVE, 0.05, " a joy: warm, funny, beautifully made, and I will see it again."),
    (Arm.TRANSFERRED, 0.05, " wonderful, with a great cast and\na story that I loved."),
)
