"""Documents cut into segments, and the sites in them that both tokenizations share.

A text is encoded once, in long pieces. Segments are cut where a token of both models ends, so a
segment's tokens are some of its piece's, and need no encoding of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lrt_dist.config import SitesConfig
from lrt_dist.corpus.readers import Document
from lrt_dist.sites import ABSENT, Segment, Side, Sided, seed_of

CHARS_PER_TOKEN = 6
"""Characters looked at per token of room; text with longer tokens is cut a bit early."""
SEGMENTS_OF_PIECE = 16
"""At least so many segments are cut from a piece of a long document; the last one, which may go on
behind the piece, is encoded again with the next."""
SHORTEST_PIECE = 1 << 16
"""Characters of a piece of a long document, at least."""
SPACE, LINE_END = ord(" "), ord("\n")


class Encoded(Protocol):
    """A text as one model sees it: see `models.tokens.Encoding`."""

    @property
    def numbers(self) -> NDArray[np.int32]: ...
    def positions(self, length: int) -> NDArray[np.int32]: ...


class Encoder(Protocol):
    """A tokenizer that knows where its tokens end: see `models.tokens.SiteTokenizer`."""

    @property
    def special_tokens(self) -> int: ...
    def encode_all(self, texts: Sequence[str]) -> Sequence[Encoded]: ...


@dataclass(frozen=True, eq=False)
class Cut:
    """A segment as it is cut, its numbers in arrays: no object for each of millions.

    Attributes: those of `sites.Segment`; rows are numbered later.
    """

    document: str
    start: int
    text: str
    char_ends: NDArray[np.integer]
    ids: Sided[NDArray[np.int32]]
    positions: Sided[NDArray[np.integer]]
    first_row: int = 0


def min_context(sites: SitesConfig) -> int:
    """Tokens that stand before a site."""
    return 0 if sites.mode == "last" else sites.min_context


def cut_segments(
    documents: Sequence[Document], encoders: Sided[Encoder], max_tokens: int, sites: SitesConfig
) -> Iterator[Cut]:
    """Segments of documents that hold at least one site.

    A segment is as long as fits both models and ends before a blank if possible. In mode `tokens`
    a document gives all its segments; in mode `last` only its first, with one site at its end, so
    a text that does not fit is cut (`Segment.text` shows where). Text in which no token of both
    models ends within `max_tokens` has no site, and is in no segment.
    """
    size = max_tokens * CHARS_PER_TOKEN
    if sites.mode == "tokens":
        size = max(SHORTEST_PIECE, SEGMENTS_OF_PIECE * size)
    first = [document.text[:size] for document in documents]
    for document, encoded in zip(documents, _encoded(first, encoders), strict=True):
        start = 0
        while True:
            text = document.text[start : start + size]
            torn = start + len(text) < len(document.text)
            piece = _Piece(text, encoded, encoders, max_tokens)
            cuts = list(piece.cuts(torn=torn))
            for begin, end in cuts[:1] if sites.mode == "last" else cuts:
                segment = piece.segment(document.id, start, begin, end, sites)
                if len(segment.char_ends):
                    yield segment
            if not torn or sites.mode == "last":
                break
            start += int(piece.ends[cuts[-1][1]]) if cuts else len(text)
            encoded = _encoded([document.text[start : start + size]], encoders)[0]


def _encoded(texts: Sequence[str], encoders: Sided[Encoder]) -> list[Sided[Encoded]]:
    """Texts as both models see them; once, if both have one tokenizer."""
    source = encoders.source.encode_all(texts)
    shared = encoders.source is encoders.target
    target = source if shared else encoders.target.encode_all(texts)
    return [Sided(one, other) for one, other in zip(source, target, strict=True)]


class _Piece:
    """A text that both models have encoded.

    Attributes:
        ends: characters at which a token of both ends, ascending; 0 comes before them all.
    """

    def __init__(
        self, text: str, encoded: Sided[Encoded], encoders: Sided[Encoder], max_tokens: int
    ) -> None:
        self._text, self._encoded = text, encoded
        self._special = Sided(*(encoder.special_tokens for encoder in encoders))
        self._room = [max_tokens - special for special in self._special]
        source, target = (one.positions(len(text)) for one in encoded)
        shared = np.flatnonzero((source >= 0) & (target >= 0))
        self.ends = np.append(0, shared)
        # For each of the ends: how many tokens come before it.
        self._tokens = Sided(
            np.append(self._special.source, source[shared] + 1),
            np.append(self._special.target, target[shared] + 1),
        )
        characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        following = characters[shared[shared < len(text)]]
        before_blank = np.flatnonzero((following == SPACE) | (following == LINE_END)) + 1
        # For each of the ends: the last one up to it that stands before a blank; 0 for none.
        self._last_blank = np.zeros(len(self.ends), dtype=np.int64)
        self._last_blank[before_blank] = before_blank
        np.maximum.accumulate(self._last_blank, out=self._last_blank)

    def cuts(self, *, torn: bool) -> Iterator[tuple[int, int]]:
        """Where segments begin and end, as numbers of ends.

        Args:
            torn: the document goes on behind the piece. What is left then, and could be longer
                there, is no segment, unless it is the only one.
        """
        begin, last = 0, len(self.ends) - 1
        some = False
        while begin < last:
            fits = min(
                int(np.searchsorted(tokens, tokens[begin] + room, side="right")) - 1
                for tokens, room in zip(self._tokens, self._room, strict=True)
            )
            if fits == last and torn and some:
                return
            if fits <= begin:  # no token of both ends so soon
                begin += 1
                continue
            whole = fits == last and not torn
            end = last if whole else self._before_blank(begin, fits)
            yield begin, end
            begin, some = end, True

    def _before_blank(self, begin: int, fits: int) -> int:
        """The last end before a blank up to `fits`; `fits` itself if that is less than half."""
        blank = int(self._last_blank[fits])
        half = (self.ends[fits] - self.ends[begin]) // 2
        return blank if self.ends[blank] - self.ends[begin] > half else fits

    def segment(self, document: str, start: int, begin: int, end: int, sites: SitesConfig) -> Cut:
        """The segment from one end to another; `start`: of the piece in its document."""
        first = int(self.ends[begin])
        text = self._text[first : self.ends[end]]
        # Number of the segment's tokens up to each of its ends.
        source, target = (tokens[begin + 1 : end + 1] - tokens[begin] for tokens in self._tokens)
        allowed = np.flatnonzero(np.minimum(source, target) > min_context(sites))
        chosen = allowed[-1:] if sites.mode == "last" else _sample(allowed, text, sites)
        return Cut(
            document=document,
            start=start + first,
            text=text,
            char_ends=self.ends[chosen + (begin + 1)] - first,
            ids=Sided(self._ids(Side.SOURCE, begin, end), self._ids(Side.TARGET, begin, end)),
            positions=Sided(
                source[chosen] + (self._special.source - 1),
                target[chosen] + (self._special.target - 1),
            ),
        )

    def _ids(self, side: Side, begin: int, end: int) -> NDArray[np.int32]:
        ids, tokens, special = self._encoded[side].numbers, self._tokens[side], self._special[side]
        own = ids[tokens[begin] : tokens[end]]
        return np.concatenate([ids[:special], own]) if special else own


def seen_anew(
    segments: Sequence[Segment], encoder: Encoder, max_tokens: int, sites: SitesConfig
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Segments of another run as a model sees them that the run did not have: for each its token
    ids, and the positions of the tokens that end at its sites.

    Where no token ends at a site, or one with too little before it, or one beyond `max_tokens`, it
    is `ABSENT`.
    """
    first = encoder.special_tokens + min_context(sites)
    encoded = encoder.encode_all([segment.text for segment in segments])
    for segment, seen in zip(segments, encoded, strict=True):
        at = seen.positions(len(segment.text))[list(segment.char_ends)]
        found = np.where((first <= at) & (at < max_tokens), at, ABSENT)
        yield tuple(seen.numbers[:max_tokens].tolist()), tuple(found.tolist())


def _sample(allowed: NDArray[np.int64], text: str, sites: SitesConfig) -> NDArray[np.int64]:
    """`per_segment` sites, chosen by the seed and the text alone, never by order."""
    if len(allowed) <= sites.per_segment:
        return allowed
    rng = np.random.Generator(np.random.PCG64(seed_of(f"{sites.seed}\n{text}", bits=128)))
    picked = rng.choice(len(allowed), size=sites.per_segment, replace=False)
    return allowed[np.sort(picked)]
