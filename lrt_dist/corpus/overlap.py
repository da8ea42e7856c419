"""Do the texts that define a concept occur in the corpus that the map is fitted on?

With n ≤ d rows a minimum-norm map fitted on a concept's own texts returns the native vector by
algebra, whatever the two models are; so an overlap makes every later score meaningless.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lrt_dist.sites import Segment

_BLANKS = re.compile(r"\s+")
SHORTEST = 20
"""Shorter texts (characters, blanks collapsed) say nothing by occurring somewhere."""


def find_overlap(segments: Iterable[Segment], texts: dict[str, list[str]]) -> dict[str, list[str]]:
    """`{concept: its texts that occur in the corpus}`; blanks and case do not matter.

    Segments must be in document order: a text across a cut between two is found as well.
    """
    missing = {
        concept: {n: text for text in group if len(n := _normal(text)) >= SHORTEST}
        for concept, group in texts.items()
    }
    longest = max((len(n) for group in missing.values() for n in group), default=0)
    if not longest:
        return {}
    overlap: dict[str, list[str]] = {}
    document, end, tail = "", 0, ""
    for segment in segments:
        if (segment.document, segment.start) != (document, end):
            document, tail = segment.document, ""
        end = segment.start + len(segment.text)
        # Blanks at a segment's borders are kept (as one): they part words across the cut.
        normal = _BLANKS.sub(" ", tail + segment.text.casefold())
        for concept, group in missing.items():
            for needle in [n for n in group if n in normal]:
                overlap.setdefault(concept, []).append(group.pop(needle))
        tail = normal[-longest:]
    return overlap


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
