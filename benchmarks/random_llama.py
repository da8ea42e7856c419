"""Models with random weights and a text for them, for benchmarks in which only sizes matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from lrt_dist.config import ModelConfig, RunConfig
from lrt_dist.demo.run import smollm2
from lrt_dist.models.sources import open_source

TEXT = 8 * "the river runs past the old mill and on towards the sea where nobody waits for it . "


def save_llama(folder: Path, *, width: int, intermediate: int, layers: int, heads: int) -> int:
    """Save a Llama with SmolLM2's tokenizer.

    Returns:
        Tokens of `TEXT`.
    """
    source = open_source(ModelConfig(model=str(smollm2())))
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return len(tokenizer(TEXT)["input_ids"])


def write_corpus(path: Path, documents: int) -> None:
    """So many documents, each a number and `TEXT`."""
    lines = [json.dumps({"text": f"{n} {TEXT}"}) for n in range(documents)]
    path.write_text("\n".join(lines) + "\n")


def config_of(folder: Path, *, store: str, address: str, **sections: Any) -> RunConfig:
    """A run from `source` to `target` in a folder, over every token of its `corpus.jsonl` and all
    layers.

    Args:
        store: `extract.store`.
        address: of the cluster.
        sections: further ones.
    """
    return RunConfig.model_validate(
        {
            "source": {"model": str(folder / "source"), "layers": "all"},
            "target": {"model": str(folder / "target"), "layers": "all"},
            "corpus": {"paths": [str(folder / "corpus.jsonl")], "near_duplicates": None},
            "sites": {"per_segment": 512, "min_context": 0},
            "extract": {"store": store},
            "cluster": {"address": address},
            **sections,
        }
    )
