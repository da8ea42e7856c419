"""Do the texts of a concept occur in the corpus that the map is fitted on?

With n ≤ d rows a minimum-norm map fitted on a concept's own texts returns the native vector by
algebra, whatever the two models are; so an overlap makes every later score meaningless.

Texts are compared by *shingles*, runs of 8 words without case and punctuation. A text overlaps
with the corpus if at least 70 % of its shingles occur there (PaLM's measure of contamination,
Chowdhery et al., arXiv 2204.02311, §8); and if a whole document of the corpus, by the same measure,
occurs in the text. Texts and documents shorter than a shingle are looked for whole. The time grows
with the words of the corpus plus the words of the texts, not with their product.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.words import in_word, normal, words
from lrt_dist.sites import Segment

SHINGLE = 8
"""Words of a shingle."""
SHARE = 0.7
"""Share of the shingles from which on a text overlaps."""
SHORTEST = 20
"""Shorter texts (characters, blanks collapsed) say nothing by occurring somewhere."""
LONGEST_WORD = 1000
"""Characters after which a word is cut, so that a text without blanks costs no more than others."""


@dataclass(frozen=True)
class Overlap:
    """A concept's text and a corpus that hold the same.

    Attributes:
        concept: whose text it is.
        text: the text.
        share: share of the text's shingles that occur in the corpus; or, where the text holds a
            whole document, of the document's shingles that occur in the text.
        document: id of the document that the text holds; empty where the corpus holds the text.
    """

    concept: str
    text: str
    share: float
    document: str


def texts_to_find(items: Iterable[Item], prefix: str = "") -> list[str]:
    """What of some items must not be in the corpus: whole texts, and prompts of a shingle or more.

    Args:
        prefix: that of the concept's template, which is not looked for.
    """
    found: dict[str, None] = {}
    for item in items:
        prompts = [p for p in item.prompts if len(words(p.removeprefix(prefix))) >= SHINGLE]
        found |= dict.fromkeys(text.removeprefix(prefix) for text in (*prompts, *item.texts()))
    return list(found)


@dataclass(frozen=True)
class Found:
    """What some documents have in common with one text.

    Attributes:
        shingles: numbers of the text's shingles that occur in a document.
        share: the largest share of a document's shingles that occur in the text; 0 where no
            document shares enough of them.
        document: whose share that is.
    """

    shingles: frozenset[int]
    share: float = 0.0
    document: str = ""


def find_overlap(
    segments: Iterable[Segment],
    texts: Mapping[str, Sequence[str]],
) -> list[Overlap]:
    """Texts of concepts that the corpus holds, or that hold a document of the corpus.

    Args:
        segments: in document order. A text across a cut between two is found as well.
        texts: those of each concept.
    """
    return overlaps([look_for(segments, list(itertools.chain(*texts.values())))], texts)


def look_for(segments: Iterable[Segment], texts: Sequence[str]) -> dict[int, Found]:
    """What whole documents have of some texts, by the number of each text that they have any of.

    Other documents may be looked through elsewhere: see `overlaps`.
    """
    sought = {
        number: found
        for number, text in enumerate(texts)
        if (found := words(text)) and len(normal(text)) >= SHORTEST
    }
    if not sought:
        return {}
    corpus = _Corpus(sought.values())
    for segment in segments:
        corpus.read(segment)
    corpus.end()
    found_of = {number: corpus.found(its_words) for number, its_words in sought.items()}
    return {number: found for number, found in found_of.items() if found.shingles or found.document}


def overlaps(
    parts: Iterable[Mapping[int, Found]], texts: Mapping[str, Sequence[str]]
) -> list[Overlap]:
    """What all parts of a corpus have of the texts of concepts, from what each has: `look_for`.

    Args:
        texts: those of each concept; their numbers go on from one to the next.
    """
    shingles: dict[int, set[int]] = {}
    held: dict[int, tuple[float, str]] = {}
    for part in parts:
        for number, found in part.items():
            shingles.setdefault(number, set()).update(found.shingles)
            one = (found.share, found.document)
            held[number] = max(one, held.get(number, one))
    named = [(concept, text) for concept, group in texts.items() for text in group]
    overlapping = []
    for number in sorted(shingles):
        concept, text = named[number]
        inside = len(shingles[number]) / len(_shingles(words(text)))
        share, document = (inside, "") if inside >= SHARE else max(held[number], (inside, ""))
        if share >= SHARE:
            overlapping.append(Overlap(concept, text, share, document))
    return overlapping


@dataclass
class _Document:
    """What is known of the document that is being read.

    Attributes:
        name: its id.
        end: where the last segment ended.
        pending: characters that may be the beginning of a word.
        window: the last words, fewer than a shingle.
        total: shingles.
        hits: those that texts have, as often as they occur.
        first: its words, as long as they are fewer than a shingle.
        whole: whether no segment is missing so far.
    """

    name: str
    end: int = 0
    pending: str = ""
    window: list[str] = field(default_factory=list)
    total: int = 0
    hits: Counter[int] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    whole: bool = True


class _Corpus:
    """Reads a corpus once, and keeps what it shares with the texts."""

    def __init__(self, texts: Iterable[list[str]]) -> None:
        self._known: set[int] = set()
        self._sizes = {SHINGLE}
        for text in texts:
            self._known.update(_shingles(text))
            self._sizes.add(min(SHINGLE, len(text)))
        self._found: set[int] = set()
        self._document = _Document("")
        # Documents that texts may hold: their names and numbers of shingles, and where to find
        # them by a shingle; short ones by all of their words.
        self._held: list[tuple[str, int]] = []
        self._holding: dict[int, list[tuple[int, int]]] = {}
        self._short: dict[int, str] = {}
        self._short_sizes: set[int] = set()

    def read(self, segment: Segment) -> None:
        """The next segment."""
        document = self._document
        if segment.document != document.name:
            self.end()
            document = self._document = _Document(segment.document)
        if segment.start != document.end:
            self._read_words(words(document.pending))
            document.pending, document.window, document.whole = "", [], False
        document.end = segment.start + len(segment.text)
        text = document.pending + segment.text
        cut = len(text)
        while cut > 0 and len(text) - cut < LONGEST_WORD and in_word(text[cut - 1]):
            cut -= 1
        if len(text) - cut == LONGEST_WORD:
            cut = len(text)
        document.pending = text[cut:]
        self._read_words(words(text[:cut]))

    def end(self) -> None:
        """The document is over."""
        document = self._document
        self._read_words(words(document.pending))
        document.pending = ""
        if document.total:
            if document.hits.total() >= SHARE * document.total:
                for shingle, count in document.hits.items():
                    self._holding.setdefault(shingle, []).append((len(self._held), count))
                self._held.append((document.name, document.total))
        elif document.whole and len(" ".join(document.first)) >= SHORTEST:
            self._short[hash(tuple(document.first))] = document.name
            self._short_sizes.add(len(document.first))

    def _read_words(self, new: list[str]) -> None:
        document = self._document
        if len(document.first) < SHINGLE:
            document.first += new[:SHINGLE]
        window = document.window + new
        for size in self._sizes:
            for begin in range(max(0, len(document.window) - size + 1), len(window) - size + 1):
                shingle = hash(tuple(window[begin : begin + size]))
                if shingle in self._known:
                    self._found.add(shingle)
                    if size == SHINGLE:
                        document.hits[shingle] += 1
        document.total += max(0, len(window) - SHINGLE + 1)
        document.window = window[-(SHINGLE - 1) :]

    def found(self, text: list[str]) -> Found:
        """What is known of a text."""
        shingles = _shingles(text)
        inside = frozenset(n for n, shingle in enumerate(shingles) if shingle in self._found)
        if len(text) < SHINGLE:
            return Found(inside)
        held: Counter[int] = Counter()
        for shingle in set(shingles):
            for document, count in self._holding.get(shingle, ()):
                held[document] += count
        shares = [
            (count / total, name)
            for number, count in held.items()
            for name, total in [self._held[number]]
        ]
        for size in self._short_sizes:
            for begin in range(len(text) - size + 1):
                name = self._short.get(hash(tuple(text[begin : begin + size])))
                shares += [(1.0, name)] if name is not None else []
        return Found(inside, *max(shares, default=(0.0, "")))


def _shingles(text: list[str]) -> list[int]:
    """Hashes of all runs of `SHINGLE` words; of all words of a shorter text."""
    size = min(SHINGLE, len(text))
    return [hash(tuple(text[begin : begin + size])) for begin in range(len(text) - size + 1)]
