"""Sites, segments and layers: the vocabulary that every room shares."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class LayerPair:
    """A source layer and a target layer (block indices)."""

    source: int
    target: int

    def __str__(self) -> str:
        return f"{self.source}→{self.target}"


@dataclass(frozen=True)
class Segment:
    """A piece of a document that goes through a model at once, and the sites in it.

    Attributes:
        document: id of the document.
        start: first character of the segment within its document.
        text: the segment's text; what a model sees, beside its own special tokens.
        char_ends: sites, as ascending offsets into `text`; each is the end of a token in both
            models.
        first_row: row number of the first site; the others follow densely.
        tokens: tokens of the segment in (source, target) model, special tokens included.
    """

    document: str
    start: int
    text: str
    char_ends: tuple[int, ...]
    first_row: int
    tokens: tuple[int, int]


def fold_of(document: str, folds: int) -> int:
    """The cross-validation fold of a document: a hash of its id, the same in every run."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds
