"""Small real tokenizers as a run loads them, and what their tokens spell, by rules of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from tiny_models import byte_level_tokenizer, metaspace_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from lrt_dist.config import ModelConfig
from lrt_dist.models.spelling import NO_END
from lrt_dist.models.tokens import Encoding, SiteTokenizer


def tokenizer_folder(folder: Path, backend: Tokenizer, **named: str) -> Path:
    """A model folder without weights: all that loading a tokenizer needs."""
    folder.mkdir(parents=True, exist_ok=True)
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def load_tokenizer(folder: Path, backend: Tokenizer) -> SiteTokenizer:
    """`backend` saved and loaded again, as a run does it."""
    return SiteTokenizer.load(ModelConfig(model=str(tokenizer_folder(folder, backend))))


def trimming_tokenizer() -> Tokenizer:
    """A byte-level tokenizer that trims blanks from its offsets in both places that can."""
    backend = byte_level_tokenizer()
    state: dict[str, Any] = json.loads(backend.to_str())
    state["pre_tokenizer"]["trim_offsets"] = True
    state["post_processor"] = state["pre_tokenizer"]
    return Tokenizer.from_str(json.dumps(state))


def closing_tokenizer() -> Tokenizer:
    """A tokenizer that adds a special token in front and another behind, as BERT's does."""
    backend = metaspace_tokenizer()
    ids = [(name, backend.token_to_id(name)) for name in ("<bos>", "<pad>")]
    backend.post_processor = TemplateProcessing(single="<bos> $A <pad>", special_tokens=ids)
    return backend


def one_word_tokenizer() -> Tokenizer:
    """A tokenizer to which every text is a single token."""
    return Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))


def position_of(encoding: Encoding) -> dict[int, int]:
    """Character end -> index of the token that ends there."""
    return {int(end): at for at, end in enumerate(encoding.ends) if end != NO_END}


def spelled(backend: Tokenizer, ids: Sequence[int]) -> bytes:
    """The bytes that tokens stand for: byte-level or metaspace with byte pieces."""
    pieces = [backend.id_to_token(i) or "" for i in ids]
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return bytes(_BYTE_OF[c] for piece in pieces for c in piece)
    return b"".join(map(_metaspace_bytes, pieces))


def brute_force_ends(backend: Tokenizer, ids: Sequence[int], text: str) -> dict[int, int]:
    """Character -> the first token with which the spelling is the text up to there."""
    prefixes = {text[:end].encode(): end for end in range(1, len(text) + 1)}
    ends: dict[int, int] = {}
    for position in range(len(ids)):
        end = prefixes.get(spelled(backend, ids[: position + 1]))
        if end is not None:
            ends.setdefault(end, position)
    return ends


def _metaspace_bytes(piece: str) -> bytes:
    if piece in ("<bos>", "<pad>"):
        return b""
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):
        return bytes.fromhex(piece[3:5])
    return piece.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: a byte that prints stands for itself, the others for 256…"""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in prints]
    return {chr(b): b for b in prints} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
