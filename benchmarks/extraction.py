"""Extraction beside what people write or use instead, on texts of natural lengths, models loaded.

A text is a paragraph of Python's documentation, from one sentence to as much as a segment holds.

Ours is the whole of it: Ray actors, capture, rounding, norms, checksums, files and ledger, as many
replicas as it takes by itself: on two cores two, of one thread each. The others are one process
with as many threads, and keep the same rows of the same layer, at half the model's depth, in
memory.

`extraction_bare`: a hook on the bare backbone, texts sorted by length, batches by tokens, nothing
run behind the layer: the best a loop can do. `extraction_whole`: the same, to the end of the model.
`extraction_hidden_states`, `extraction_nnsight`, `extraction_transformer_lens`: texts as they come,
so many at once as the same number of tokens holds at full length, with a mask, as the documentation
of each does it. These are slow: they get every fourth batch, and speeds are compared.

A machine's speed drifts. So a loop runs half of its batches before ours, and half after it. Ray
gives its workers a low priority, so whatever else runs on the machine would slow ours alone: here
they have the priority of the loops.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
import transformers
from torch import nn

from benchmarks.harness import Result, result, versions
from lrt_dist.commands.extract import extract_side
from lrt_dist.commands.index import index
from lrt_dist.config import ClusterConfig, RunConfig
from lrt_dist.demo.run import smollm2
from lrt_dist.demo.text import python_documentation
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.hooks import StopForward, capture, stop_after
from lrt_dist.models.sources import open_source
from lrt_dist.runtime.log import read_log
from lrt_dist.sites import Segment, Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.tasks.model_stage import pad
from lrt_dist.workspace.run import open_run

TARGETS = {
    "extraction_bare": 0.97,
    "extraction_whole": 1.8,
    "extraction_hidden_states": 2.0,
    "extraction_nnsight": 3.0,
    "extraction_transformer_lens": 3.0,
}
SLOW = ("extraction_hidden_states", "extraction_nnsight", "extraction_transformer_lens")
LAYER = 15
BATCH_TOKENS = 2048
CHARACTERS = 480_000
UNIT_ROWS = 11_500
"""Rows of a unit: 13 MB of this narrow model's states. Batches do not span units, so in small units
of short texts many are not full. Two replicas get two units each: what they wait for each other at
the end of a run is nothing where units are thousands."""
SHORTEST = 80
"""Characters of a paragraph that is a text: shorter ones are headings."""
MAX_TOKENS = 256
AT_ONCE = BATCH_TOKENS // MAX_TOKENS
SHARE = 4
"""Slow loops get one batch of so many."""


@dataclass(frozen=True)
class Text:
    """One segment as the model sees it, and the positions that are kept."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]


Batch = Sequence[Text]


@dataclass(frozen=True)
class Loop:
    """How texts are cut into batches, and the rows `[n, d]` of one batch."""

    cut: Callable[[Sequence[Text]], list[Batch]]
    rows: Callable[[Batch], torch.Tensor]

    def run(self, batches: Sequence[Batch]) -> tuple[float, list[torch.Tensor]]:
        """Seconds, and all rows."""
        began = time.perf_counter()
        rows = [self.rows(batch) for batch in batches]
        return time.perf_counter() - began, rows


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """Each against ours, in rounds."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_worker_niceness": "0"}
    with TemporaryDirectory() as folder:
        config = run_config(Path(folder), characters=20_000 if quick else CHARACTERS)
        texts = _texts(Path(folder), config)
        tokens = _tokens(texts)
        loops = _loops(config, wanted)
        batches = {
            name: loop.cut(texts)[:: SHARE if name in SLOW else 1] for name, loop in loops.items()
        }
        for name, loop in loops.items():
            loop.run(batches[name][:1])  # what a library does once
        rounds: list[Mapping[str, float]] = []
        for number in range(1 if quick else 3):
            out = Path(folder) / f"out{number}"
            before = {name: loop.run(batches[name][::2]) for name, loop in loops.items()}
            paces = {"ours": _ours(out, config) / tokens}
            for name, loop in loops.items():
                seconds, kept = loop.run(batches[name][1::2])
                done = [text for batch in batches[name] for text in batch]
                paces[name] = (before[name][0] + seconds) / _tokens(done)
                if number == 0:
                    _check_right(name, [*before[name][1], *kept], done, out)
            rounds.append(paces)
    setting = (
        f"{tokens:,} tokens in {len(texts)} texts, SmolLM2-135M to layer {LAYER}; "
        + versions("torch", "transformers", "ray", "nnsight", "transformer-lens")
    )
    return [
        result(
            name,
            [
                {
                    "ours_tokens_a_second": 1 / paces["ours"],
                    "other_tokens_a_second": 1 / paces[name],
                    "ratio": paces[name] / paces["ours"],
                    "setting": setting,
                }
                for paces in rounds
            ],
            TARGETS[name],
            higher_is_better=True,
        )
        for name in wanted
    ]


def _tokens(texts: Sequence[Text]) -> int:
    return sum(len(text.ids) for text in texts)


def _loops(config: RunConfig, wanted: Sequence[str]) -> dict[str, Loop]:
    source = open_source(config.source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    loops: dict[str, Loop] = {
        "extraction_bare": Loop(_by_length, hooked(model, early=True)),
        "extraction_whole": Loop(_by_length, hooked(model, early=False)),
        "extraction_hidden_states": Loop(_as_they_come, _masked(_hidden_states(model))),
    }
    if "extraction_nnsight" in wanted:
        from nnsight import TransformersModel

        traced = TransformersModel(model, tokenizer=tokenizer, task="text-generation")

        def nnsight(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            with traced.trace({"input_ids": ids, "attention_mask": mask}):
                states = traced.model.layers[LAYER].output.save()
            kept: torch.Tensor = states[0] if isinstance(states, tuple) else states
            return kept

        loops["extraction_nnsight"] = Loop(_as_they_come, _masked(nnsight))
    if "extraction_transformer_lens" in wanted:
        from transformer_lens.model_bridge import TransformerBridge

        bridge = TransformerBridge.boot_transformers(
            str(source), hf_model=model, tokenizer=tokenizer
        )
        name = f"blocks.{LAYER}.hook_out"

        def transformer_lens(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            _, cache = bridge.run_with_cache(ids, attention_mask=mask, names_filter=name)
            kept: torch.Tensor = cache[name]
            return kept

        loops["extraction_transformer_lens"] = Loop(_as_they_come, _masked(transformer_lens))
    return {name: loops[name] for name in wanted}


def run_config(folder: Path, characters: int) -> RunConfig:
    corpus = folder / "corpus.jsonl"
    paragraphs = [
        paragraph
        for text in python_documentation(characters).values()
        for paragraph in text.split("\n\n")
        if len(paragraph) >= SHORTEST
    ]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in paragraphs))
    model = {"model": str(smollm2()), "layers": [LAYER]}
    return RunConfig.model_validate(
        {
            "source": model,
            "target": model,
            "corpus": {"paths": [str(corpus)], "max_tokens": MAX_TOKENS},
            "extract": {"batch_tokens": BATCH_TOKENS, "rows_per_unit": UNIT_ROWS},
            "fit": {"folds": 2},
            "cluster": {"address": "local"},
        }
    )


def _texts(folder: Path, config: RunConfig) -> list[Text]:
    here = config.model_copy(update={"cluster": ClusterConfig(address="serial")})
    with open_run(folder / "index", here) as run:
        segments: list[Segment] = list(index(run).all_segments())
    return [Text(s.ids.source, s.positions.source) for s in segments]


def _ours(out: Path, config: RunConfig) -> float:
    """Seconds from when the stages are built to when the last unit is committed."""
    ray.init(
        "local", num_cpus=torch.get_num_threads(), include_dashboard=False, log_to_driver=False
    )
    with open_run(out, config) as run:
        index(run)
        extract_side(run, Side.SOURCE)
    ray.shutdown()
    ends = [e for e in read_log(out / "log.jsonl") if e["event"] == "phase_end"]
    return float(next(e["seconds"] for e in ends if e["phase"].startswith("extract")))


def _check_right(name: str, kept: Sequence[torch.Tensor], texts: Sequence[Text], out: Path) -> None:
    """What is fast must be right: the same states, up to rounding to bfloat16, in any order."""
    store = ActivationStore.open(str(next((out / "activations").glob("*.zarr"))))
    ours = torch.cat([store.states(LAYER, unit) for unit in range(store.units)]).float()
    rows = torch.cat(list(kept)).float()
    assert len(rows) == sum(len(text.positions) for text in texts), name
    for row in rows[:: max(1, len(rows) // 20)]:
        nearest = (ours - row).norm(dim=1).min() / row.norm()
        assert nearest < 0.02, f"{name}: no such row was extracted"


def _by_length(texts: Sequence[Text]) -> list[Batch]:
    """As full as the budget allows, padding included."""
    ordered = sorted(texts, key=lambda text: len(text.ids))
    batches: list[Batch] = []
    begin = 0
    while begin < len(ordered):
        end = begin + 1
        while end < len(ordered) and (end - begin + 1) * len(ordered[end].ids) <= BATCH_TOKENS:
            end += 1
        batches.append(ordered[begin:end])
        begin = end
    return batches


def _as_they_come(texts: Sequence[Text]) -> list[Batch]:
    return [texts[begin : begin + AT_ONCE] for begin in range(0, len(texts), AT_ONCE)]


def hooked(model: nn.Module, *, early: bool) -> Callable[[Batch], torch.Tensor]:
    backbone = model.get_decoder()  # type: ignore[operator]
    block = find_blocks(model)[LAYER]

    def rows(batch: Batch) -> torch.Tensor:
        sequence = torch.tensor([n for n, text in enumerate(batch) for _ in text.positions])
        position = torch.tensor([p for text in batch for p in text.positions])
        ids = pad([text.ids for text in batch])
        with torch.inference_mode(), capture({0: block}, lambda h: h[sequence, position]) as found:
            if early:
                try:
                    with stop_after(block):
                        backbone(ids, use_cache=False)
                except StopForward:
                    pass
            else:
                backbone(ids, use_cache=False)
        return found[0].to(torch.bfloat16)

    return rows


def _masked(
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[Batch], torch.Tensor]:
    def rows(batch: Batch) -> torch.Tensor:
        ids = pad([text.ids for text in batch])
        mask = torch.zeros_like(ids)
        for row, text in enumerate(batch):
            mask[row, : len(text.ids)] = 1
        with torch.inference_mode():
            states = forward(ids, mask)
        kept = [states[row, list(text.positions)] for row, text in enumerate(batch)]
        return torch.cat(kept).to(torch.bfloat16)

    return rows


def _hidden_states(model: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output: Any = model(ids, attention_mask=mask, output_hidden_states=True)
        states: torch.Tensor = output.hidden_states[LAYER + 1]
        return states

    return forward
