"""Sites, segments and layers: the vocabulary that every room shares.

A *side* is 0 for the source model and 1 for the target model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

Layers = int | tuple[int, ...]
"""One layer (a block index), or several whose states are put side by side."""


def layers_text(layers: Layers) -> str:
    """`9`, or `9+15+21`."""
    return "+".join(map(str, (layers,) if isinstance(layers, int) else layers))


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
        text: the segment's text.
        char_ends: sites, as ascending offsets into `text`; at each a token of both models ends.
        first_row: row number of the first site; the others follow densely.
        ids: token ids in (source, target) model, special tokens included.
        positions: for each site the index of the token that ends there, in (source, target) ids.
    """

    document: str
    start: int
    text: str
    char_ends: tuple[int, ...]
    first_row: int
    ids: tuple[tuple[int, ...], tuple[int, ...]]
    positions: tuple[tuple[int, ...], tuple[int, ...]]

    def cut_sites(self, count: int, first_row: int) -> Segment:
        """The same segment with only its first `count` sites, numbered from `first_row`."""
        return replace(
            self,
            char_ends=self.char_ends[:count],
            positions=(self.positions[0][:count], self.positions[1][:count]),
            first_row=first_row,
        )


def fold_of(document: str, folds: int) -> int:
    """The cross-validation fold of a document: a hash of its id, the same in every run."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds
