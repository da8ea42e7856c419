"""Words of a text, in scripts with and without blanks between them."""

from __future__ import annotations

import re

# Thai and Lao, Burmese, Khmer, kana, Han: a character is the smallest thing that can be a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_SPACED = re.compile(f"[^\\W{_UNSPACED}]")


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return _WORD.findall(text.casefold())


def normal(text: str) -> str:
    """The text without case, its blanks collapsed."""
    return " ".join(text.casefold().split())


def in_word(character: str) -> bool:
    """Whether a character is part of a word that may go on with the next character."""
    return bool(_SPACED.match(character))


def glues(before: str, after: str) -> bool:
    """Whether the last word of one text and the first of the next become one."""
    return bool(before and after) and in_word(before[-1]) and in_word(after[0])
