"""The bytes that the tokens of a tokenizer spell, and where each token ends by them.

If the tokens of a text spell the text, byte for byte, each one ends where its bytes end; nothing
else needs to be known. Offsets of the tokenizer's own say the same, but cost it up to a third of
its time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from types import NoneType

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models

NO_END = -1
BLANK = "▁"
"""Stands for a blank in the vocabulary of SentencePiece."""
UNKNOWN = b"\xff"
"""In no text: no byte of UTF-8."""
_SINGLE_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Spelling:
    """What each token of a vocabulary spells."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """`pieces`: the bytes of each token, by its id."""
        self._bytes = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        self._sizes = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        self._begins = self._sizes.cumsum() - self._sizes

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> Spelling | None:
        """That of a byte-level vocabulary of byte pairs, or of one of SentencePiece's kind; None of
        any other.

        A token that takes the blanks beside it spells nothing that is known.
        """
        known = isinstance(backend.model, models.BPE)
        # One that is written in Python cannot be described.
        if not known or type(backend.decoder) in (NoneType, decoders.Decoder):
            return None
        kinds = _kinds(json.loads(backend.decoder.__getstate__()))
        if "ByteLevel" in kinds:
            spell = _byte_level
        elif kinds & {"ByteFallback", "Metaspace"}:
            spell = _sentence_piece
        else:
            return None
        pieces = [UNKNOWN] * (max(backend.get_vocab().values(), default=-1) + 1)
        for piece, number in backend.get_vocab(with_added_tokens=False).items():
            pieces[number] = spell(piece)
        for number, added in backend.get_added_tokens_decoder().items():
            if added.lstrip or added.rstrip:
                pieces[number] = UNKNOWN
            elif pieces[number] == UNKNOWN:
                pieces[number] = added.content.encode()
        return cls(pieces)

    def ends(self, ids: NDArray[np.int32], text: str) -> NDArray[np.int32] | None:
        """For each token the character offset at which it ends, `[len(ids)]`; `NO_END` for those
        that end within a character, and that spell nothing.

        A blank that the tokenizer puts in front of the text counts as no part of it. None where
        the tokens do not spell the text.
        """
        sizes = self._sizes[ids]
        stops = sizes.cumsum()
        wanted = text.encode()
        in_front = int(sizes.sum()) - len(wanted)
        if in_front not in (0, 1):
            return None
        # The place of each byte in the vocabulary: its token's, and so far behind its beginning.
        places = np.repeat(self._begins[ids] - (stops - sizes), sizes)
        places += np.arange(len(places))
        if self._bytes[places].tobytes() != b" " * in_front + wanted:
            return None
        stops -= in_front
        if len(wanted) > len(text):
            # At each offset into the bytes, the offset into the text.
            begins = (np.frombuffer(wanted + b" ", dtype=np.uint8) & 0xC0) != 0x80
            stops = np.where(begins, begins.cumsum() - 1, NO_END)[stops]
        return np.where((sizes > 0) & (stops > 0), stops, NO_END).astype(np.int32)


def _kinds(node: object) -> set[str]:
    """All kinds of decoders in a description of one."""
    if isinstance(node, list):
        return set().union(*map(_kinds, node))
    if isinstance(node, dict):
        return {str(node.get("type"))} | _kinds(list(node.values()))
    return set()


def _byte_level(piece: str) -> bytes:
    try:
        return piece.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:  # no piece of this alphabet
        return UNKNOWN


def _sentence_piece(piece: str) -> bytes:
    single = _SINGLE_BYTE.fullmatch(piece)
    return bytes.fromhex(single[1]) if single else piece.replace(BLANK, " ").encode()


def _byte_alphabet() -> dict[int, int]:
    """The characters that stand for bytes in byte-level vocabularies, as GPT-2 introduced them: a
    byte that prints stands for itself, and the others, in order, are the characters from 256 on."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in prints]
    # What stands for no byte must not be taken for one.
    none = dict.fromkeys(others, 0x100)
    return none | {256 + number: byte for number, byte in enumerate(others)}


_BYTES = _byte_alphabet()
