"""The words that every package shares: sides, layers, sites, segments, folds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ABSENT = -1
"""Stands for the position of a token that is not there."""

Layers = int | tuple[int, ...]
"""One layer (a block index), or several whose states are put side by side."""


class Side(StrEnum):
    """Which of the two models: maps go from the source model to the target model."""

    SOURCE = "source"
    TARGET = "target"

    @property
    def other(self) -> Side:
        """The side across."""
        return Side.TARGET if self is Side.SOURCE else Side.SOURCE


class Direction(StrEnum):
    """Which way a map goes, and from how many layers."""

    FORWARD = "forward"
    """From one layer of the source model to one of the target model."""
    JOINT = "joint"
    """From several layers of the source model, side by side, to one of the target model."""
    REVERSE = "reverse"
    """From one layer of the target model to one of the source model."""

    @property
    def begin(self) -> Side:
        """The model where the map begins."""
        return Side.TARGET if self is Direction.REVERSE else Side.SOURCE

    @property
    def end(self) -> Side:
        """The model where the map ends."""
        return self.begin.other


@dataclass(frozen=True)
class Sided(Generic[T_co]):
    """The same thing of both models; `pair[side]` takes one of them."""

    source: T_co
    target: T_co

    @classmethod
    def of(cls, make: Callable[[Side], T]) -> Sided[T]:
        """`make(side)` of each side, the source first."""
        return Sided(make(Side.SOURCE), make(Side.TARGET))

    def __getitem__(self, side: Side) -> T_co:
        return self.source if side is Side.SOURCE else self.target

    def __iter__(self) -> Iterator[T_co]:
        return iter((self.source, self.target))

    @property
    def swapped(self) -> Sided[T_co]:
        """Source and target exchanged."""
        return Sided(self.target, self.source)


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


Band = tuple[LayerPair, ...]
"""Pairs of layers whose target layers are steered at once, in ascending order of these."""


@dataclass(frozen=True)
class Segment:
    """A piece of a document that goes through a model at once, and the sites in it.

    Attributes:
        document: id of the document.
        start: first character of the segment within its document.
        text: the segment's text.
        char_ends: sites, as ascending offsets into `text`; at each a token of both models ends.
        first_row: row number of the first site; the others follow densely.
        ids: each model's token ids, special tokens included.
        positions: for each site the index of the token that ends there, in each model's ids;
            `ABSENT` where none does, which happens in rows of another run alone.
    """

    document: str
    start: int
    text: str
    char_ends: tuple[int, ...]
    first_row: int
    ids: Sided[tuple[int, ...]]
    positions: Sided[tuple[int, ...]]


def fold_of(document: str, folds: int) -> int:
    """The cross-validation fold of a document: a hash of its id, the same in every run."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def seed_of(text: str, bits: int) -> int:
    """A random seed of up to 256 bits that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: bits // 8], "big")
