"""The verb `plan`: what a run would do, before it does it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch

from lrt_dist.corpus.readers import corpus_files, read_documents
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.corpus.segments import cut_segments
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.pipelines.folder import SIDES
from lrt_dist.pipelines.moments import run_tiles, tile_needs
from lrt_dist.pipelines.run import Run
from lrt_dist.plan.cost import NUMBER_BYTES, forward_flops, moments_flops, store_bytes
from lrt_dist.plan.memory import StagePlan

SAMPLE_DOCUMENTS = 32
GPU_FLOPS = 2.0e14
"""Operations a second assumed of one GPU: about half of what an A100 does in bfloat16 GEMMs."""


@dataclass(frozen=True)
class ModelPlan:
    """Extraction of one model.

    Attributes:
        stages: blocks and bytes of every stage. replicas: of the whole chain.
        tokens, store_bytes, hours: of the whole extraction.
    """

    side: str
    model: str
    layers: tuple[int, ...]
    stages: list[StagePlan]
    replicas: int
    device: str
    tokens: int
    store_bytes: int
    hours: float


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        tiles: in which the moments of all pairs are accumulated. moments_bytes: of all of them, on
            disk. tile_memory: of the task of the largest. read_bytes: from both stores, for all
            tiles and the null; passes: the same over the bytes of the stores.
        exact: whether counts come from a finished row index, not from a sample of the corpus.
        flops_source: where the speed behind the hours comes from.
    """

    exact: bool
    documents: int
    rows: int
    units: int
    models: tuple[ModelPlan, ModelPlan]
    pairs: int
    tiles: int
    moments_bytes: int
    tile_memory: int
    read_bytes: int
    passes: float
    fit_hours: float
    flops_source: str

    @property
    def hours(self) -> float:
        return sum(model.hours for model in self.models) + self.fit_hours


def plan(run: Run) -> Plan:
    """Count, without starting anything.

    Raises:
        UserError: the run cannot be done as asked; the largest obstacle comes first.
    """
    run.check()
    exact = run.folder.rows.is_file()
    documents, rows, tokens = _counts(run) if exact else _estimate(run)
    speed, source = _speed(run)
    models = []
    for side in (0, 1):
        facts, layers = run.facts[side], run.layers[side]
        budget = run.config.extract.batch_tokens
        stages = run.stage_plans(side, head=False, batch_tokens=budget)
        chain = run.chain(side, head=False, batch_tokens=budget)
        flops = forward_flops(tokens[side], facts.block_parameters, max(layers))
        devices = chain.replicas * len(stages) if run.runtime.gpus else 1
        models.append(
            ModelPlan(
                side=SIDES[side],
                model=facts.name,
                layers=layers,
                stages=stages,
                replicas=chain.replicas,
                device="GPU" if run.runtime.gpus else "CPU",
                tokens=tokens[side],
                store_bytes=store_bytes(
                    rows, dict.fromkeys(layers, facts.width), run.config.extract.store_dtype
                ),
                hours=flops / (speed * devices) / 3600,
            )
        )
    fit_speed = _gemm_speed(torch.float64)
    tiles = run_tiles(run)
    number_bytes = NUMBER_BYTES[run.config.extract.store_dtype]
    read = rows * sum(tile.read_bytes(run.widths, number_bytes) for tile in tiles)
    folds = run.config.fit.folds
    return Plan(
        exact=exact,
        documents=documents,
        rows=rows,
        units=-(-rows // run.config.extract.rows_per_unit),
        models=(models[0], models[1]),
        pairs=len(run.pairs),
        tiles=len(tiles),
        moments_bytes=sum(tile.bytes(run.widths, folds) for tile in tiles),
        tile_memory=max(tile_needs(run, tile).memory for tile in tiles),
        read_bytes=read,
        passes=read / max(1, sum(model.store_bytes for model in models)),
        fit_hours=moments_flops(rows, sum(tile.entries(run.widths) for tile in tiles))
        / fit_speed
        / 3600,
        flops_source=source,
    )


def _counts(run: Run) -> tuple[int, int, tuple[int, int]]:
    index = RowIndex.open(run.folder.rows)
    tokens = (sum(index.token_counts(0)), sum(index.token_counts(1)))
    return index.documents, index.rows, tokens


def _estimate(run: Run) -> tuple[int, int, tuple[int, int]]:
    """Scale a sample of documents up to the size of the corpus."""
    config = run.config.corpus
    sample = list(itertools.islice(read_documents(config), SAMPLE_DOCUMENTS))
    encoders = (SiteTokenizer.load(run.config.source), SiteTokenizer.load(run.config.target))
    segments = [
        segment
        for document in sample
        for segment in cut_segments(document, encoders, config.max_tokens, run.config.sites)
    ]
    read = sum(len(document.text.encode()) for document in sample)
    if config.dataset:
        raise UserError(
            "the size of a dataset is only known once it was read: run `lrt-dist index` first"
        )
    size = sum(path.stat().st_size for path in corpus_files(config))
    scale = max(1.0, size / read)
    if config.max_documents:
        scale = min(scale, config.max_documents / len(sample))
    counts = [sum(len(segment.ids[side]) for segment in segments) for side in (0, 1)]
    rows = sum(len(segment.char_ends) for segment in segments)
    tokens = (int(counts[0] * scale), int(counts[1] * scale))
    return int(len(sample) * scale), int(rows * scale), tokens


def _speed(run: Run) -> tuple[float, str]:
    if run.runtime.gpus:
        return GPU_FLOPS, f"assumed {GPU_FLOPS / 1e12:.0f} TFLOP/s for each GPU"
    speed = _gemm_speed(torch.float32)
    return 0.6 * speed, f"60 % of a bare GEMM on this machine ({speed / 1e9:.0f} GFLOP/s)"


def _gemm_speed(dtype: torch.dtype) -> float:
    """Operations a second of a square GEMM here, the best of three."""
    n = 1024
    a = torch.randn(n, n, dtype=dtype)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best
