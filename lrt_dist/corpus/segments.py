"""Documents cut into segments, and the sites in them that both tokenizations share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from lrt_dist.config import SitesConfig
from lrt_dist.corpus.readers import Document
from lrt_dist.sites import ABSENT, Segment, Side, Sided, seed_of

CHARS_PER_TOKEN = 6
"""Characters looked at per token of room; text with longer tokens is cut a bit early."""


class Encoded(Protocol):
    """A text as one model sees it: see `models.tokens.Encoding`."""

    @property
    def ids(self) -> tuple[int, ...]: ...
    def position_of(self) -> dict[int, int]: ...


class Encoder(Protocol):
    """A tokenizer that knows where its tokens end: see `models.tokens.SiteTokenizer`."""

    @property
    def special_tokens(self) -> int: ...
    def encode(self, text: str) -> Encoded: ...


def min_context(sites: SitesConfig) -> int:
    """Tokens that stand before a site."""
    return 0 if sites.mode == "last" else sites.min_context


def cut_segments(
    document: Document, encoders: Sided[Encoder], max_tokens: int, sites: SitesConfig
) -> Iterator[Segment]:
    """Segments of one document that hold at least one site; rows are numbered later.

    In mode `tokens` a document gives all its segments; in mode `last` only its first, with one
    site at its end, so a text that does not fit is cut (`Segment.text` shows where).
    """
    start = 0
    while start < len(document.text):
        window = document.text[start : start + max_tokens * CHARS_PER_TOKEN]
        torn = start + len(window) < len(document.text)
        text = _longest_prefix(window, encoders, max_tokens, torn=torn)
        encoded = Sided(encoders.source.encode(text), encoders.target.encode(text))
        ends = _shared_ends(encoded, encoders, min_context(sites))
        if ends:
            chosen = ends[-1:] if sites.mode == "last" else _sample(ends, text, sites)
            position = Sided(encoded.source.position_of(), encoded.target.position_of())
            yield Segment(
                document=document.id,
                start=start,
                text=text,
                char_ends=tuple(chosen),
                first_row=0,
                ids=Sided(encoded.source.ids, encoded.target.ids),
                positions=Sided(
                    tuple(position.source[end] for end in chosen),
                    tuple(position.target[end] for end in chosen),
                ),
            )
        if sites.mode == "last":
            return
        start += len(text)


def seen_anew(
    segment: Segment, encoders: Sided[Encoder], max_tokens: int, sites: SitesConfig
) -> Segment:
    """A segment of another run as these models see it: the same text, the same sites.

    Where no token of a model ends at a site, or one with too little before it, or one beyond
    `max_tokens`, its position is `ABSENT`.
    """
    ids, positions = {}, {}
    for side in Side:
        encoded = encoders[side].encode(segment.text)
        first = encoders[side].special_tokens + min_context(sites)
        found = {
            end: position
            for end, position in encoded.position_of().items()
            if first <= position < max_tokens
        }
        ids[side] = encoded.ids[:max_tokens]
        positions[side] = tuple(found.get(end, ABSENT) for end in segment.char_ends)
    return replace(
        segment, ids=Sided.of(ids.__getitem__), positions=Sided.of(positions.__getitem__)
    )


def _longest_prefix(window: str, encoders: Sided[Encoder], max_tokens: int, *, torn: bool) -> str:
    """The longest beginning of `window` that fits both models, cut before a blank if possible.

    At least one character, so that a text always gets shorter. `torn`: the document goes on after
    the window, so its last word may be half a word.
    """
    while True:
        cut = len(window)
        for encoder in encoders:
            encoded = encoder.encode(window)
            excess = len(encoded.ids) - max_tokens
            if excess > 0:
                # Special tokens behind the text stay, so room is counted from the text's end.
                positions = encoded.position_of()
                last = max(positions.values(), default=0)
                room = [c for c, position in positions.items() if position <= last - excess]
                cut = min(cut, max(room, default=1))
        if cut == len(window) and not torn:
            return window
        # Encoded alone, a prefix may need another token: hence the loop.
        window, torn = window[: _before_blank(window[:cut])], False


def _before_blank(text: str) -> int:
    """Length of `text` without its last, probably torn word; the whole if that is most of it."""
    blank = max(text.rfind(" "), text.rfind("\n"))
    return blank if blank > len(text) // 2 else len(text)


def _shared_ends(encoded: Sided[Encoded], encoders: Sided[Encoder], context: int) -> list[int]:
    """Characters at which a token of both models ends, `context` tokens in."""
    allowed = [
        {
            end
            for end, position in encoding.position_of().items()
            if position >= encoder.special_tokens + context
        }
        for encoding, encoder in zip(encoded, encoders, strict=True)
    ]
    return sorted(allowed[0] & allowed[1])


def _sample(ends: list[int], text: str, sites: SitesConfig) -> list[int]:
    """`per_segment` sites, chosen by the seed and the text alone, never by order."""
    if len(ends) <= sites.per_segment:
        return ends
    rng = np.random.Generator(np.random.PCG64(seed_of(f"{sites.seed}\n{text}", bits=128)))
    picked = rng.choice(len(ends), size=sites.per_segment, replace=False)
    return [ends[i] for i in sorted(picked.tolist())]
