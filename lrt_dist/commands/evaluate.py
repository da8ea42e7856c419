"""The command `evaluate`: does the transferred vector steer as the native one does?

Contrast states and vectors of both models; gradients of all items; every vector and control at
every pair of layers, as predicted by gradients; then the choice of pair and strength on the
development items, and everything that is reported on the test items, under steering.

Whatever takes a model is kept by content: an evaluation that was interrupted, or to which something
was added, computes what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lrt_dist.commands._items import check_items, write_items
from lrt_dist.commands._moments import fitted_units
from lrt_dist.commands._overlap import check_overlap
from lrt_dist.commands._rows import median_norms
from lrt_dist.commands.evaluation.bands import measure_bands
from lrt_dist.commands.evaluation.carriers import Carriers
from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.commands.evaluation.choice import choose, predictions_hold
from lrt_dist.commands.evaluation.conclusions import best_effect, conclude
from lrt_dist.commands.evaluation.detours import detours
from lrt_dist.commands.evaluation.displacements import Displacements
from lrt_dist.commands.evaluation.generated import generated
from lrt_dist.commands.evaluation.generation import Writer
from lrt_dist.commands.evaluation.given import given_content
from lrt_dist.commands.evaluation.gradients import item_gradients
from lrt_dist.commands.evaluation.measurement import Measured, measure
from lrt_dist.commands.evaluation.scales import layer_scales
from lrt_dist.commands.evaluation.screening import Screen, sample_rows, screen
from lrt_dist.commands.evaluation.search import search, steered_controls
from lrt_dist.commands.evaluation.spread import Spread, without_folds
from lrt_dist.commands.evaluation.steered import SteeredTarget
from lrt_dist.commands.evaluation.vectors import contrast_states, save_native_vectors
from lrt_dist.commands.fit import current_fits
from lrt_dist.config import fingerprint_of
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.maps.vectors import VECTOR_METHODS
from lrt_dist.models.injection import OPERATORS, POSITIONS
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import DRAWN
from lrt_dist.sites import Side, Sided
from lrt_dist.store.tables import (
    AgreementRow,
    BandRow,
    ControlRow,
    GeneratedRow,
    ScoreRow,
    Table,
    VectorRow,
    VerdictRow,
    is_current,
)
from lrt_dist.tasks.score_choice import score_identity
from lrt_dist.workspace.run import Run


def evaluate(run: Run) -> Table[ScoreRow]:
    """Score every concept, unless it is done.

    Returns:
        One row for each item under each condition that was steered; none where the run has no
        concepts (what an earlier evaluation of this run left stays where it is).

    Raises:
        UserError: unusable contrast data, or concept texts inside the corpus.
        IncompleteError: extraction or fit are not done.
    """
    if not run.config.concepts:
        return Table.of(ScoreRow, [])
    fingerprint = evaluation_fingerprint(run, current_fits(run))
    write_items(run, fingerprint)
    if not all(is_current(path, fingerprint) for path in run.folder.evaluation):
        run.check_scores()
        check_items(run)
        _evaluate(run, fingerprint)
    return Table.read(run.folder.scores, ScoreRow)


def evaluation_fingerprint(run: Run, fits: str) -> str:
    """Of everything that scores depend on; `fits` is that of the maps."""
    return fingerprint_of(
        {
            "fits": fits,
            "on": run.config.fit.on,
            "concepts": _concept_identity(run),
            "evaluate": _settings(run),
        }
    )


def _evaluate(run: Run, fingerprint: str) -> None:
    """Write all tables."""
    config, tokenizers = run.config, Sided.of(lambda s: SiteTokenizer.load(run.model(s)))
    overlap = check_overlap(run, RowIndex.open(run.folder.rows))
    records = fitted_units(run.folder)
    norms = Sided.of(lambda side: median_norms(run, side, records))
    extract_tokens, tokens = config.extract.batch_tokens, config.evaluate.batch_tokens
    with OnDemandChains(run, Side.SOURCE, head=False, batch_tokens=extract_tokens) as chains:
        source_states = contrast_states(run, Side.SOURCE, chains, tokenizers.source)
    with OnDemandChains(run, Side.TARGET, head=True, batch_tokens=tokens) as chains:
        target_states = contrast_states(run, Side.TARGET, chains, tokenizers.target)
        gradients = item_gradients(run, chains, tokenizers.target)
    states = Sided(source_states, target_states)
    for side in Side:
        save_native_vectors(run, side, states[side], norms[side])
    carriers, ways_round = Carriers(run, states, norms), detours(run)
    carriers.fit_claimed()
    rows = sample_rows(run, records)
    scales = layer_scales(run, norms.target)
    screens = screen(run, carriers, states.source, gradients, scales, rows)
    displacements = Displacements(run, carriers, ways_round, screens, scales, rows)
    with OnDemandChains(run, Side.TARGET, head=True, batch_tokens=tokens) as chains:
        writer = Writer(run, chains, displacements, tokenizers.target)
        steered = SteeredTarget(run, chains, displacements, tokenizers.target, writer)
        if gradients is None:
            screens = search(run, steered, screens)
        choices, dev_scores = choose(run, steered, displacements, screens, gradients)
        screened = gradients is not None and predictions_hold(run, choices)
        carriers.fit_each(found.chosen for found in screens.values())
        measured, scores = measure(run, steered, screens, choices)
        if not screened:
            strengths = {name: choice.strength for name, choice in choices.items()}
            screens = steered_controls(run, steered, screens, strengths)
        banded = measure_bands(run, steered, screens)
        chosen = {name: (m.pair, m.strength) for name, m in measured.items()}
        written = generated(run, writer, tokenizers.target, chosen)
    left_out = without_folds(run, records, measured)
    spread = Spread(run, carriers, states, gradients, scales, left_out)
    # What was fitted on a concept's own texts is as if these were in the corpus.
    shared = set(measured) if config.fit.on == "own" else set(overlap)
    verdicts = conclude(run, screens, measured, spread, shared, screened=screened)
    compared = [row for choice in choices.values() for row in choice.compared]
    tables: list[tuple[Path, Table[Any]]] = [
        (run.folder.vectors, Table.of(VectorRow, _vector_rows(run, screens, verdicts))),
        (run.folder.generated, Table.of(GeneratedRow, written)),
        (
            run.folder.controls,
            Table.of(ControlRow, _control_rows(screens, measured, screened=screened)),
        ),
        (run.folder.agreement, Table.of(AgreementRow, compared)),
        (run.folder.verdicts, Table.of(VerdictRow, verdicts)),
        (run.folder.bands, Table.of(BandRow, banded)),
        # Written last: its presence says that the evaluation is whole.
        (run.folder.scores, Table.of(ScoreRow, [*dev_scores, *scores])),
    ]
    for path, table in tables:
        table.save(path, fingerprint)


def _vector_rows(
    run: Run, screens: dict[str, Screen], verdicts: Sequence[VerdictRow]
) -> Iterator[VectorRow]:
    displaces = run.operator.displaces
    for verdict in verdicts:
        found = screens[verdict.concept]
        for pair, known in found.pairs.items():
            yield VectorRow(
                concept=verdict.concept,
                source_layer=pair.source,
                target_layer=pair.target,
                native_dev=found.concept.effects[pair.target].dev,
                transferred_dev=known.dev,
                cosine=known.cosine,
                cosine_mismatched=known.cosine_mismatched,
                norm_ratio=known.norm_ratio,
                projection=known.projection,
                heavy_share=known.heavy_share,
                chosen=pair == found.chosen,
                strength=verdict.strength,
                length=verdict.strength * known.length if displaces else math.nan,
                native_length=verdict.strength * known.native_length if displaces else math.nan,
                pairs=verdict.pairs,
                overlap=verdict.overlap,
            )


def _control_rows(
    screens: dict[str, Screen], measured: dict[str, Measured], *, screened: bool
) -> Iterator[ControlRow]:
    for name, found in screens.items():
        best = best_effect(found, measured[name], screened=screened)
        for arm in DRAWN:
            draws = found.draws[arm]
            columns = (draws.source.tolist(), draws.target.tolist(), draws.effect.tolist())
            for number, (source, target, effect) in enumerate(zip(*columns, strict=True)):
                yield ControlRow(
                    concept=name,
                    arm=arm,
                    draw=number,
                    source_layer=source,
                    target_layer=target,
                    effect=effect,
                    share=effect / best if best else math.nan,
                    steered=not screened,
                )


def _settings(run: Run) -> dict[str, Any]:
    settings = run.config.evaluate.model_dump(mode="json", exclude={"batch_tokens"})
    settings["positions"] = POSITIONS.identity(run.config.evaluate.positions)
    settings["operator"] = OPERATORS.identity(run.config.evaluate.operator)
    settings["detours"] = [detour.fingerprint for detour in detours(run)]
    settings["score"] = {**settings["score"], **score_identity(run.config.evaluate.score)}
    for known, score in zip(
        settings["generate"]["scores"], run.config.evaluate.generate.scores, strict=True
    ):
        known |= score_identity(score)
    return settings


def _concept_identity(run: Run) -> list[dict[str, Any]]:
    concepts = []
    for concept in run.config.concepts:
        # By content: the same data under another path is the same data.
        known = concept.model_dump(
            mode="json",
            exclude={"data": True, "items": True, "prompts": True, "vector": {"source", "target"}},
        )
        method = VECTOR_METHODS.identity(concept.vector.method)
        content = [run.concepts[concept.name].digest, given_content(concept)]
        concepts.append({**known, "method": method, "content": content})
    return concepts
