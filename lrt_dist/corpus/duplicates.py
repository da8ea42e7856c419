"""Which documents are near duplicates of each other, so that one fold can hold them all.

Two documents are near duplicates if the sets of their runs of five words overlap by a given share
(the Jaccard index), as a MinHash estimates it (Broder 1997). Only documents that agree in one of
32 bands of their signatures are compared, each with the first document of that band, so the cost
grows with the text and not with the pairs of documents.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import numpy as np
from rensa import RMinHash

WORDS = 5
"""Words of a run, as blanks part them."""
BANDS, BAND_HASHES = 32, 4
"""Bands of a signature, and hashes in a band: of documents that share half of their runs, seven in
eight agree in a band, and of those that share 0.7 all but two in ten thousand."""
SEED = 0
PAIRS_AT_ONCE = 1 << 16


def signature(text: str) -> bytes:
    """The signature of a text: the lower halves of 128 hashes, uint16, little-endian.

    Two hashes that differ have the same half once in 65,536 times.
    """
    words = text.casefold().split()
    runs = map(" ".join, zip(*(words[first:] for first in range(WORDS)), strict=False))
    minhash = RMinHash(num_perm=BANDS * BAND_HASHES, seed=SEED)
    minhash.update(list(runs) or [" ".join(words)])
    return np.array(minhash.digest(), dtype=np.uint32).astype("<u2").tobytes()


class NearDuplicates:
    """Signatures go in, groups come out; memory holds a quarter of a KiB of each document."""

    def __init__(self, share: float) -> None:
        """`share`: of their runs of words that near duplicates have in common, above 0."""
        self._share = share
        self._ids: list[str] = []
        self._signatures = bytearray()

    def add(self, document: str, signature: bytes) -> None:
        """Take in one document, by its id."""
        self._ids.append(document)
        self._signatures += signature

    def groups(self, on_band: Callable[[], object] = lambda: None) -> dict[str, str]:
        """`{id of a document: id of its group}`, for documents that have a near duplicate.

        A group is named by the smallest of its ids. It holds near duplicates of near duplicates.
        `on_band` is called after each of `BANDS`.
        """
        if not self._ids:
            return {}
        parents = array("q", range(len(self._ids)))

        def root(number: int) -> int:
            while parents[number] != number:
                parents[number] = number = parents[parents[number]]
            return number

        for band in range(BANDS):
            for a, b in self._pairs(band):
                parents[root(a)] = root(b)
            on_band()
        roots = np.fromiter(map(root, range(len(parents))), np.int64, len(parents))
        members: dict[int, list[str]] = {}
        for number in np.flatnonzero(np.bincount(roots)[roots] > 1).tolist():
            members.setdefault(root(number), []).append(self._ids[number])
        return {document: min(group) for group in members.values() for document in group}

    def _pairs(self, number: int) -> Iterator[tuple[int, int]]:
        """Pairs of near duplicates that join all of those that agree in a band."""
        signatures = np.frombuffer(self._signatures, dtype="<u2")
        signatures = signatures.reshape(len(self._ids), BANDS * BAND_HASHES)
        begin = number * BAND_HASHES
        band = np.ascontiguousarray(signatures[:, begin : begin + BAND_HASHES]).view(np.uint64)
        _, first, inverse = np.unique(band[:, 0], return_index=True, return_inverse=True)
        others = np.flatnonzero(first[inverse] != np.arange(len(band)))
        for start in range(0, len(others), PAIRS_AT_ONCE):
            a = others[start : start + PAIRS_AT_ONCE]
            b = first[inverse[a]]
            near = (signatures[a] == signatures[b]).mean(1) >= self._share
            yield from zip(a[near].tolist(), b[near].tolist(), strict=True)
