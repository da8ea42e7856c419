"""Models with random weights and a text for them, for benchmarks in which only sizes matter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from lrt_dist.config import ModelConfig, RunConfig
from lrt_dist.demo.run import smollm2
from lrt_dist.models.sources import open_source

TEXT = 8 * "the river runs past the old mill and on towards the sea where nobody waits for it . "


def smollm2_tokenizer() -> Any:
    """SmolLM2's, as transformers has it."""
    source = open_source(ModelConfig(model=str(smollm2())))
    return transformers.AutoTokenizer.from_pretrained(source)


def save_llama(folder: Path, *, width: int, intermediate: int, layers: int, heads: int) -> int:
    """Save a Llama with SmolLM2's tokenizer.

    Returns:
        Tokens of `TEXT`.
    """
    tokenizer = smollm2_tokenizer()
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


def save_pair(folder: Path, widths: Mapping[str, int], *, layers: int, rows: int) -> None:
    """Two models, `source` and `target`, and a `corpus.jsonl` of about so many tokens."""
    for name, width in widths.items():
        tokens = save_llama(
            folder / name, width=width, intermediate=4 * width, layers=layers, heads=8
        )
    write_corpus(folder / "corpus.jsonl", rows // tokens)


def config_of(folder: Path, *, address: str, **sections: Any) -> RunConfig:
    """A run between the two models of a folder, over every token of its corpus and all layers.

    Args:
        folder: see `save_pair`.
        address: of the cluster.
        sections: further ones.
    """
    return RunConfig.model_validate(
        {
            "source": {"model": str(folder / "source"), "layers": "all"},
            "target": {"model": str(folder / "target"), "layers": "all"},
            "corpus": {"paths": [str(folder / "corpus.jsonl")], "near_duplicates": None},
            "sites": {"per_segment": 512, "min_context": 0},
            "cluster": {"address": address},
            **sections,
        }
    )


def begin_again(indexed: Path, out: Path) -> None:
    """Make an OUT that has the row index of another one, and nothing else."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(indexed / "rows", out / "rows")
    shutil.copy(indexed / "run.yaml", out / "run.yaml")
