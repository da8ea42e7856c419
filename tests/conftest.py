"""Two tiny models, a corpus and a concept: everything a run needs, in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from tiny_models import byte_level_tokenizer, documentation, metaspace_tokenizer, save_model

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 4 blocks, width 32, byte-level tokenizer."""
    tokenizer = byte_level_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama", config, tokenizer)


@pytest.fixture(scope="session")
def tiny_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma-3 of 3 blocks, width 24, metaspace tokenizer with <bos>."""
    tokenizer = metaspace_tokenizer()
    config = transformers.Gemma3TextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
        max_position_embeddings=256,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("models") / "tiny-gemma", config, tokenizer, seed=1)


@pytest.fixture
def write_run(tmp_path: Path, tiny_source: Path, tiny_target: Path) -> Callable[..., Path]:
    """Writes a small, complete RUN.yaml; keyword arguments replace whole sections."""

    def write(**sections: Any) -> Path:
        corpus = tmp_path / "corpus.jsonl"
        if not corpus.exists():
            lines = [json.dumps({"text": text}) for text in documentation()]
            corpus.write_text("\n".join(lines) + "\n")
        concept = tmp_path / "mood.jsonl"
        if not concept.exists():
            items = [
                {
                    "prompt": f"Number {n} of the visitors said that the whole evening was",
                    "positive": [" good", " fine"],
                    "negative": [" bad", " poor"],
                }
                for n in range(12)
            ]
            concept.write_text("\n".join(map(json.dumps, items)) + "\n")
        values: dict[str, Any] = {
            "name": "tiny",
            "source": {"model": str(tiny_source), "layers": [1, 2]},
            "target": {"model": str(tiny_target), "layers": [0, 1]},
            "corpus": {"paths": [str(corpus)], "max_tokens": 48},
            "sites": {"per_segment": 16, "min_context": 2},
            "extract": {"rows_per_unit": 64, "batch_tokens": 256},
            "fit": {"folds": 3},
            "concepts": [{"name": "mood", "data": str(concept)}],
            "evaluate": {
                "strengths": [-0.5, 0.5],
                "random_draws": 2,
                "neutral_segments": 2,
                "sample_tokens": 2,
            },
            "cluster": {"address": "serial"},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(values | sections))
        return path

    return write
