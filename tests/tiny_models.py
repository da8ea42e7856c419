"""Tiny random models of real classes, with tokenizers trained on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing


def documentation(count: int = 12, length: int = 900) -> list[str]:
    """Real text that every Python carries."""
    from pydoc_data.topics import topics

    long = [text for _, text in sorted(topics.items()) if len(text) > length]
    return [text[:length] for text in long[:count]]


def byte_level_tokenizer() -> Tokenizer:
    """Like GPT-2's and SmolLM2's: no special tokens, offsets that trim blanks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(documentation(), trainer)
    return tokenizer


def metaspace_tokenizer() -> Tokenizer:
    """Like Gemma's: blanks become ▁, unknown characters become bytes, a <bos> in front."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
        max_token_length=8,
    )
    tokenizer.train_from_iterator(documentation(), trainer)
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", bos)]
    )
    return tokenizer


def save_model(folder: Path, config: Any, tokenizer: Tokenizer | None, seed: int = 0) -> Path:
    """A random model whose weights are large enough that every block matters."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    if tokenizer is not None:
        wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        wrapped.save_pretrained(folder)
    return folder
