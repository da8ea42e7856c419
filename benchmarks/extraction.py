"""Extraction beside what people write or use instead, on texts of natural lengths, models loaded.

A text is a paragraph of Python's documentation, from one sentence to as much as a segment holds.

Ours is the whole of it: Ray actor, capture, rounding, norms, checksums, files and ledger. The
others keep the same rows of the same layer, at half the model's depth, in memory.

`extraction_bare`: a hook on the bare backbone, texts sorted by length, batches by tokens, nothing
run behind the layer: the best a loop can do. `extraction_whole`: the same, to the end of the model.
`extraction_hidden_states`, `extraction_nnsight`, `extraction_transformer_lens`: texts as they come,
so many at once as the same number of tokens holds at full length, with a mask, as the documentation
of each does it. These are slow: they get every fourth batch, and speeds are compared.
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
from lrt_dist.config import RunConfig
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


Loop = Callable[[Sequence[Text]], list[torch.Tensor]]


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """Each against ours, in rounds."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with TemporaryDirectory() as folder:
        config = _config(Path(folder), characters=20_000 if quick else 240_000)
        texts = _texts(Path(folder), config)
        tokens = _tokens(texts)
        loops = _loops(config, wanted)
        for loop in loops.values():
            loop(texts[:AT_ONCE])  # what a library does once
        parts = {name: _every(texts, SHARE) if name in SLOW else texts for name in loops}
        rounds: list[Mapping[str, float]] = []
        for number in range(1 if quick else 3):
            out = Path(folder) / f"out{number}"
            paces = {"ours": _ours(out, config) / tokens}
            for name, loop in loops.items():
                began = time.perf_counter()
                kept = loop(parts[name])
                paces[name] = (time.perf_counter() - began) / _tokens(parts[name])
                if number == 0:
                    _check_right(name, kept, parts[name], out)
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


def _every(texts: Sequence[Text], share: int) -> Sequence[Text]:
    """One batch of so many."""
    return [text for n, text in enumerate(texts) if n // AT_ONCE % share == 0]


def _tokens(texts: Sequence[Text]) -> int:
    return sum(len(text.ids) for text in texts)


def _loops(config: RunConfig, wanted: Sequence[str]) -> dict[str, Loop]:
    source = open_source(config.source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    loops: dict[str, Loop] = {
        "extraction_bare": lambda texts: _sorted(model, texts, early=True),
        "extraction_whole": lambda texts: _sorted(model, texts, early=False),
        "extraction_hidden_states": lambda texts: _as_they_come(texts, _hidden_states(model)),
    }
    if "extraction_nnsight" in wanted:
        from nnsight import TransformersModel

        traced = TransformersModel(model, tokenizer=tokenizer, task="text-generation")

        def nnsight(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            with traced.trace({"input_ids": ids, "attention_mask": mask}):
                states = traced.model.layers[LAYER].output.save()
            kept: torch.Tensor = states[0] if isinstance(states, tuple) else states
            return kept

        loops["extraction_nnsight"] = lambda texts: _as_they_come(texts, nnsight)
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

        loops["extraction_transformer_lens"] = lambda texts: _as_they_come(texts, transformer_lens)
    return {name: loops[name] for name in wanted}


def _config(folder: Path, characters: int) -> RunConfig:
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
            "extract": {"batch_tokens": BATCH_TOKENS},
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


def _sorted(model: nn.Module, texts: Sequence[Text], *, early: bool) -> list[torch.Tensor]:
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


def _as_they_come(
    texts: Sequence[Text], forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    kept = []
    for begin in range(0, len(texts), AT_ONCE):
        batch = texts[begin : begin + AT_ONCE]
        ids = pad([text.ids for text in batch])
        mask = torch.zeros_like(ids)
        for row, text in enumerate(batch):
            mask[row, : len(text.ids)] = 1
        with torch.inference_mode():
            states = forward(ids, mask)
        for row, text in enumerate(batch):
            kept.append(states[row, list(text.positions)].to(torch.bfloat16))
    return kept


def _hidden_states(model: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output: Any = model(ids, attention_mask=mask, output_hidden_states=True)
        states: torch.Tensor = output.hidden_states[LAYER + 1]
        return states

    return forward
