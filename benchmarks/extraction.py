"""Extraction beside the loops that people write, on texts of natural lengths, models loaded.

Ours is the whole of it: Ray actor, capture, rounding, norms, checksums, files and ledger. The loops
keep the same rows of the same layer, at half the model's depth, in memory.

`extraction_bare`: a hook on the bare backbone, texts sorted by length, batches by tokens, nothing
run behind the layer: the best a loop can do. `extraction_whole`: the same, to the end of the model.
`extraction_hidden_states`: `output_hidden_states=True`, texts as they come, four at once.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

import ray
import torch
import transformers
from torch import nn

from benchmarks.harness import Result, result, versions
from lrt_dist.commands.extract import extract_side
from lrt_dist.commands.index import index
from lrt_dist.config import RunConfig
from lrt_dist.demo.run import smollm2
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.hooks import StopForward, capture, stop_after
from lrt_dist.models.sources import open_source
from lrt_dist.sites import Segment, Side
from lrt_dist.tasks.model_stage import pad
from lrt_dist.workspace.run import open_run

TARGETS = {
    "extraction_bare": 0.97,
    "extraction_whole": 1.8,
    "extraction_hidden_states": 2.0,
}
LAYER = 15
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Text:
    """One segment as the model sees it, and the positions that are kept."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    with TemporaryDirectory() as folder:
        config = _config(Path(folder), characters=20_000 if quick else 200_000)
        texts = _texts(Path(folder), config)
        tokens = sum(len(text.ids) for text in texts)
        model = transformers.AutoModelForCausalLM.from_pretrained(open_source(config.source))
        loops: dict[str, Callable[[], object]] = {
            "extraction_bare": lambda: _loop(model, texts, early=True),
            "extraction_whole": lambda: _loop(model, texts, early=False),
            "extraction_hidden_states": lambda: _hidden_states(model, texts),
        }
        rounds: list[Mapping[str, float]] = []
        for number in range(1 if quick else 3):
            times = {"ours": _ours(Path(folder) / f"out{number}", config)}
            for name in wanted:
                began = time.perf_counter()
                loops[name]()
                times[name] = time.perf_counter() - began
            rounds.append(times)
    setting = f"{tokens:,} tokens, SmolLM2-135M to layer {LAYER}; {versions('torch', 'ray')}"
    return [
        result(
            name,
            [
                {
                    "ours": times["ours"],
                    "loop": times[name],
                    "ratio": times[name] / times["ours"],
                    "tokens_a_second": tokens / statistics.median(t["ours"] for t in rounds),
                    "setting": setting,
                }
                for times in rounds
            ],
            TARGETS[name],
            higher_is_better=True,
        )
        for name in wanted
    ]


def _config(folder: Path, characters: int) -> RunConfig:
    corpus = folder / "corpus.jsonl"
    documents = [text for _, text in sorted(topics.items())]
    kept, total = [], 0
    for text in documents:
        if total >= characters:
            break
        kept.append(json.dumps({"text": text}))
        total += len(text)
    corpus.write_text("\n".join(kept) + "\n")
    model = {"model": str(smollm2()), "layers": [LAYER]}
    return RunConfig.model_validate(
        {
            "source": model,
            "target": model,
            "corpus": {"paths": [str(corpus)]},
            "extract": {"rows_per_unit": 1024, "batch_tokens": BATCH_TOKENS},
            "fit": {"folds": 2},
            "cluster": {"address": "local", "replicas": 1},
        }
    )


def _texts(folder: Path, config: RunConfig) -> list[Text]:
    with open_run(folder / "index", config) as run:
        segments: list[Segment] = list(index(run).all_segments())
    return [Text(s.ids.source, s.positions.source) for s in segments]


def _ours(out: Path, config: RunConfig) -> float:
    """Seconds from when the stages are built to when the last unit is committed."""
    with open_run(out, config) as run:
        index(run)
        extract_side(run, Side.SOURCE)
    ray.shutdown()
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [
        event["time"]
        for event in events
        if event["event"] == "progress" and event["phase"].startswith("extract")
    ]
    return float(steps[-1] - steps[0])


def _loop(model: nn.Module, texts: Sequence[Text], *, early: bool) -> list[torch.Tensor]:
    backbone = model.get_decoder()  # type: ignore[operator]
    block = find_blocks(model)[LAYER]
    ordered = sorted(texts, key=lambda text: len(text.ids))
    kept, begin = [], 0
    while begin < len(ordered):
        end = begin + 1
        while end < len(ordered) and (end - begin + 1) * len(ordered[end].ids) <= BATCH_TOKENS:
            end += 1
        batch = ordered[begin:end]
        kept.append(_rows(backbone, block, batch, early=early))
        begin = end
    return kept


def _rows(
    backbone: nn.Module, block: nn.Module, batch: Sequence[Text], *, early: bool
) -> torch.Tensor:
    sequence = torch.tensor([n for n, text in enumerate(batch) for _ in text.positions])
    position = torch.tensor([p for text in batch for p in text.positions])
    with torch.inference_mode(), capture({0: block}, lambda h: h[sequence, position]) as found:
        if early:
            try:
                with stop_after(block):
                    backbone(pad([text.ids for text in batch]), use_cache=False)
            except StopForward:
                pass
        else:
            backbone(pad([text.ids for text in batch]), use_cache=False)
    return found[0].to(torch.bfloat16)


def _hidden_states(model: nn.Module, texts: Sequence[Text]) -> list[torch.Tensor]:
    kept = []
    for begin in range(0, len(texts), 4):
        batch = texts[begin : begin + 4]
        ids = pad([text.ids for text in batch])
        mask = torch.zeros_like(ids)
        for row, text in enumerate(batch):
            mask[row, : len(text.ids)] = 1
        with torch.inference_mode():
            states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        for row, text in enumerate(batch):
            kept.append(states[LAYER + 1][row, list(text.positions)].to(torch.bfloat16))
    return kept
