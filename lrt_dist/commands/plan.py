"""The command `plan`: what a run would do, before it does it."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass

import torch

from lrt_dist.commands._items import check_items
from lrt_dist.commands._shares import run_tokenizers
from lrt_dist.commands._sizes import Work, better_sizes
from lrt_dist.commands._solving import Solving, plan_solving
from lrt_dist.commands._ways import Extraction, Way, Ways
from lrt_dist.commands.evaluation.cost import EvaluationPlan, plan_evaluation
from lrt_dist.corpus.readers import read_documents, text_bytes
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.corpus.segments import cut_segments
from lrt_dist.errors import UserError
from lrt_dist.plan.cost import GPU_FLOPS, forward_flops
from lrt_dist.plan.filling import batch_cost
from lrt_dist.plan.memory import StagePlan
from lrt_dist.runtime.preflight import product_speed
from lrt_dist.sites import Side, Sided
from lrt_dist.workspace.placement import extraction_chain, stage_plans
from lrt_dist.workspace.run import Run

SAMPLE_DOCUMENTS = 32
SAMPLE_UNITS = 16
"""Units in which batches are cut to see how full they are."""
CHARACTERS_A_SECOND = 8e6
"""Of a corpus, that the driver reads, hands out and puts together (`benchmarks tokenising`)."""
REACHED = 0.4
"""Share of a described GPU's operations a second that a forward pass is assumed to reach."""


@dataclass(frozen=True)
class ModelPlan:
    """Extraction of one model.

    Attributes:
        side: source or target.
        model: its name.
        layers: wanted ones.
        stages: blocks and bytes of every stage.
        replicas: of the whole chain; 0 where it is run for the other side.
        device: GPU or CPU.
        tokens: of the whole extraction.
        host_bytes: memory of its node that the largest stage needs.
        store_bytes: of the whole extraction.
        batch_cost: tokens that its batches cost for each token of the texts; see `plan.filling`.
        hours: see `Way.extraction_hours`.
    """

    side: Side
    model: str
    layers: tuple[int, ...]
    stages: list[StagePlan]
    replicas: int
    device: str
    tokens: int
    host_bytes: int
    store_bytes: int
    batch_cost: float
    hours: float


@dataclass(frozen=True)
class _Texts:
    """Segments of the corpus, or of a sample of it.

    Attributes:
        documents, rows, tokens: of the whole corpus.
        sites: of each segment.
        lengths: tokens of each segment in each model.
        core_seconds: of one core, in which the whole corpus is cut; 0 if it was.
        driver_seconds: in which the driver reads it, and puts it together; 0 if it did.
    """

    documents: int
    rows: int
    tokens: Sided[int]
    sites: list[int]
    lengths: Sided[list[int]]
    core_seconds: float = 0.0
    driver_seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        exact: whether counts come from a finished row index, not from a sample of the corpus.
        documents: of the corpus.
        rows: sites.
        units: of work.
        index_hours: in which the row index is made; 0 with a finished one.
        better: settings that are worth to be changed, and their values.
        models: extraction of each model.
        pairs: of layers.
        way: from the models to moments.
        other: the other way, or why it cannot be gone.
        solving: of all maps from the moments.
        evaluation: of all concepts; None without any.
        evaluate_hours: of it.
        flops_source: where the speed behind the hours comes from.
    """

    exact: bool
    documents: int
    rows: int
    units: int
    index_hours: float
    better: dict[str, int]
    models: Sided[ModelPlan]
    pairs: int
    way: Way
    other: Way | str
    solving: Solving
    evaluation: EvaluationPlan | None
    evaluate_hours: float
    flops_source: str

    @property
    def hours(self) -> float:
        """Of everything."""
        return self.index_hours + self.way.hours + self.solving.hours + self.evaluate_hours


def plan(run: Run) -> Plan:
    """Count, without starting anything.

    Raises:
        UserError: the run cannot be done as asked; the largest obstacle comes first.
    """
    run.check()
    check_items(run)
    exact = RowIndex.is_at(run.folder.rows)
    texts = _counts(run) if exact else _estimate(run)
    rows, extract = texts.rows, run.config.extract
    speed, source = _speed(run)
    stages = Sided.of(
        lambda side: stage_plans(run, side, head=False, batch_tokens=extract.batch_tokens)
    )
    for side in Side:
        _check_gpus(run, run.facts[side].name, len(stages[side]))
    costs = Sided.of(
        lambda side: batch_cost(
            texts.lengths[side], texts.sites, extract.rows_per_unit, extract.batch_tokens
        )
    )
    flops = Sided.of(
        lambda side: (
            costs[side]
            * forward_flops(
                texts.tokens[side], run.facts[side].active_parameters, max(run.layers[side])
            )
        )
    )
    float64 = _float64_speed(run)
    ways = Ways(run, Extraction(rows, texts.tokens, flops, speed), float64)
    way = ways.way(extract.store)
    try:
        other: Way | str = ways.way("none" if extract.store == "zarr" else "zarr")
    except UserError as error:
        other = str(error)

    def model_plan(side: Side) -> ModelPlan:
        spec = extraction_chain(run, side)
        return ModelPlan(
            side=side,
            model=run.facts[side].name,
            layers=run.layers[side],
            stages=stages[side],
            replicas=way.replicas[side],
            device="GPU" if run.machines.gpus else "CPU",
            tokens=texts.tokens[side],
            host_bytes=max(stage.memory for stage in spec.stages),
            store_bytes=way.stored_bytes[side],
            batch_cost=costs[side],
            hours=way.extraction_hours[side],
        )

    models = Sided.of(model_plan)
    replicas = max(model.replicas for model in models)
    evaluation = plan_evaluation(run)
    return Plan(
        exact=exact,
        documents=texts.documents,
        rows=rows,
        units=-(-rows // extract.rows_per_unit),
        # Cores and driver are at work at once.
        index_hours=max(texts.core_seconds / sum(run.machines.node_cpus), texts.driver_seconds)
        / 3600,
        better=better_sizes(run, Work(rows, texts.sites, texts.lengths, flops, replicas)),
        models=models,
        pairs=len(run.pairs),
        way=way,
        other=other,
        solving=plan_solving(run, float64),
        evaluation=evaluation,
        evaluate_hours=(
            (evaluation.model_flops / speed + evaluation.search_flops / float64) / 3600
            if evaluation
            else 0.0
        ),
        flops_source=source,
    )


def _check_gpus(run: Run, model: str, stages: int) -> None:
    """Whether described machines have a GPU for each stage; a real cluster may grow.

    Raises:
        UserError: they have not.
    """
    there = run.described.gpus if run.described else 0
    if 0 < there < stages:
        raise UserError(
            f"{model} is cut into {stages} stages, which take a GPU each, and {there:g} GPUs are "
            "described: describe more nodes or larger GPUs, or lower cluster.stages or "
            "extract.batch_tokens"
        )


def _counts(run: Run) -> _Texts:
    index = RowIndex.open(run.folder.rows)
    some = range(min(index.units, SAMPLE_UNITS))
    return _Texts(
        index.documents,
        index.rows,
        Sided.of(index.tokens),
        [count for unit in some for _, count in index.groups_of(unit)],
        Sided.of(lambda side: [n for unit in some for n in index.lengths(unit, side)]),
    )


def _estimate(run: Run) -> _Texts:
    """Scale a sample of documents up to the size of the corpus."""
    config = run.config.corpus
    if any(part.dataset for part in config.parts):
        raise UserError(
            "the size of a dataset is only known once it was read: run `lrt-dist index` first"
        )
    sample = list(itertools.islice(read_documents(config), SAMPLE_DOCUMENTS))
    encoders = run_tokenizers(run).load()
    for encoder in encoders:
        encoder.encode_all([])  # which makes it ready, once a process
    began = time.process_time()
    segments = list(cut_segments(sample, encoders, config.max_tokens, run.config.sites))
    core_seconds = time.process_time() - began
    if not segments:
        raise UserError(
            f"no token of both models ends at the same character in the first {len(sample)} "
            "documents of the corpus, so nothing can be estimated; use longer documents or a "
            "smaller sites.min_context, or run `lrt-dist index` to see whether others have sites"
        )
    read = sum(len(document.text.encode()) for document in sample)
    characters = sum(len(document.text) for document in sample)
    scale = max(1.0, text_bytes(config) / read)
    if config.max_documents:
        scale = min(scale, config.max_documents / len(sample))
    rows = sum(len(segment.char_ends) for segment in segments)
    tokens = Sided.of(lambda side: int(sum(len(segment.ids[side]) for segment in segments) * scale))
    # As often as units of any size want; a short sample says little of long units.
    times = max(1, min(int(scale), SAMPLE_UNITS * run.config.extract.rows_per_unit // max(1, rows)))
    return _Texts(
        int(len(sample) * scale),
        int(rows * scale),
        tokens,
        [len(segment.char_ends) for segment in segments] * times,
        Sided.of(lambda side: [len(segment.ids[side]) for segment in segments] * times),
        core_seconds * scale,
        characters * scale / CHARACTERS_A_SECOND,
    )


def _speed(run: Run) -> tuple[float, str]:
    """Operations a second in a forward pass, of a GPU or of all cores."""
    described = run.described
    if described and described.gpus:
        flops = described.flops_of_gpu
        return REACHED * flops, f"{REACHED:.0%} of {flops / 1e12:.0f} TFLOP/s for each GPU"
    if run.machines.gpus:
        return GPU_FLOPS, f"assumed {GPU_FLOPS / 1e12:.0f} TFLOP/s for each GPU"
    speed = product_speed(torch.randn(1024, 1024))
    cores = sum(run.machines.node_cpus) / (os.cpu_count() or 1)
    return 0.6 * speed * cores, f"60 % of a bare GEMM on this machine ({speed / 1e9:.0f} GFLOP/s)"


def _float64_speed(run: Run) -> float:
    """Operations a second of float64 products on all cores, if they are like those here."""
    cores = sum(run.machines.node_cpus) / (os.cpu_count() or 1)
    return cores * product_speed(torch.randn(1024, 1024, dtype=torch.float64))
