"""The row index beside the tokenizers alone, on the same cores.

`tokenising`: characters a second that the command `index` takes in, on Ray with a worker for each
core, over those that both tokenizers' own `encode_batch` does on all cores. Reading, signatures of
near duplicates, sites, files and the putting together are in it; the start of Ray and the loading
of tokenizers are not.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
import tokenizers
import transformers
from rich.console import Console

from benchmarks.harness import Result, result, versions
from lrt_dist.commands.index import index
from lrt_dist.config import ModelConfig, RunConfig
from lrt_dist.demo.run import gemma, smollm2
from lrt_dist.demo.text import python_documentation
from lrt_dist.models.sources import open_source
from lrt_dist.runfile import resolve_run
from lrt_dist.sites import Sided
from lrt_dist.workspace.run import open_run

TARGET = 0.8
CHARACTERS = 20_000_000


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """In turns: the tokenizers, the command, the tokenizers."""
    with TemporaryDirectory() as folder:
        texts = _texts(CHARACTERS // 50 if quick else CHARACTERS)
        config = _config(Path(folder), texts)
        both = Sided(_tokenizer(config.source), _tokenizer(config.target))
        _indexed(config, Path(folder) / "first")  # starts Ray, and loads what workers load once
        runs = []
        for number in range(1 if quick else 3):
            before = _bare(both, texts)
            ours = _indexed(config, Path(folder) / f"out{number}")
            bare = (before + _bare(both, texts)) / 2
            size = sum(map(len, texts))
            runs.append(
                {
                    "ours_characters_a_second": size / ours,
                    "other_characters_a_second": size / bare,
                    "ratio": bare / ours,
                    "setting": f"{size:,} characters in {len(texts)} documents, SmolLM2's and "
                    f"Gemma 3's tokenizers; {versions('tokenizers', 'ray', 'pyarrow')}",
                }
            )
        ray.shutdown()
    return [result(wanted[0], runs, TARGET, higher_is_better=True)]


def _texts(characters: int) -> list[str]:
    """Python's documentation, again and again, its paragraphs in another order each time."""
    random.seed(0)
    texts: list[str] = []
    while sum(map(len, texts)) < characters:
        for text in python_documentation(characters).values():
            paragraphs = text.split("\n\n")
            random.shuffle(paragraphs)
            texts.append("\n\n".join(paragraphs))
    return texts


def _config(folder: Path, texts: Sequence[str]) -> RunConfig:
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    console = Console(stderr=True)
    return resolve_run(
        {
            "name": "benchmark",
            "source": {"model": str(smollm2()), "layers": [15]},
            "target": {"model": str(gemma(console)), "layers": [9]},
            "corpus": {"paths": ["corpus.jsonl"], "max_tokens": 256},
            "sites": {"per_segment": 96},
            "cluster": {"address": "local"},
        },
        base=folder,
        overrides=[],
        origin="the benchmark",
    )


def _tokenizer(config: ModelConfig) -> tokenizers.Tokenizer:
    loaded = transformers.AutoTokenizer.from_pretrained(open_source(config))
    backend: tokenizers.Tokenizer = loaded.backend_tokenizer
    return backend


def _bare(both: Sided[tokenizers.Tokenizer], texts: Sequence[str]) -> float:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    began = time.perf_counter()
    for tokenizer in both:
        tokenizer.encode_batch(list(texts), add_special_tokens=True)
    return time.perf_counter() - began


def _indexed(config: RunConfig, out: Path) -> float:
    with open_run(out, config) as run:
        _ = run.facts  # describes the models
        began = time.perf_counter()
        index(run)
        return time.perf_counter() - began
