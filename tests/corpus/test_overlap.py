"""A concept's text in the corpus is found wherever the segments are cut."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.corpus.overlap import SHORTEST, find_overlap
from lrt_dist.sites import Segment, Sided

NEEDLE = "The mayor is loved for her honest leadership."
BLANKS = st.sampled_from([" ", "\n", "  ", "\t", " \n\n ", "\u3000", "\xa0"])
WORD = st.text("abé😀", min_size=1, max_size=3)


def segment(text: str, document: str = "d", start: int = 0) -> Segment:
    return Segment(document, start, text, (len(text),), 0, Sided((1,), (1,)), Sided((0,), (0,)))


def cut(text: str, cuts: list[int], document: str = "d") -> list[Segment]:
    ends = sorted({0, len(text), *(p for p in cuts if p < len(text))})
    return [segment(text[a:b], document, a) for a, b in pairwise(ends)]


def normal(text: str) -> str:
    return " ".join(text.casefold().split())


@given(st.data())
def test_a_text_is_found_wherever_its_document_is_cut(data: st.DataObject) -> None:
    words = data.draw(st.lists(WORD, min_size=25, max_size=40))
    text = "".join(word + data.draw(BLANKS) for word in words)
    begin = data.draw(st.integers(0, 5))
    needle = " ".join(words[begin : begin + 18]).upper()
    assert len(normal(needle)) >= SHORTEST
    places = data.draw(st.lists(st.integers(1, len(text)), max_size=8))
    found = find_overlap(cut(text, places), {"c": [needle]})
    assert found == {"c": [needle]}


@given(st.data())
def test_nothing_is_found_that_the_document_does_not_hold(data: st.DataObject) -> None:
    """Few letters, so that what nearly occurs is common."""
    text = data.draw(st.text("ab ", min_size=1, max_size=120))
    needles = data.draw(st.lists(st.text("ab ", min_size=18, max_size=24), max_size=4))
    places = data.draw(st.lists(st.integers(1, len(text)), max_size=6))
    found = find_overlap(cut(text, places), {"c": needles}).get("c", [])
    held = {normal(n) for n in needles if len(normal(n)) >= SHORTEST and normal(n) in normal(text)}
    assert {normal(n) for n in found} <= held


def test_blanks_and_case_do_not_matter() -> None:
    text = "x. the MAYOR\n is   loved for\ther honest\r\nleadership. y"
    assert find_overlap([segment(text)], {"c": [f"  {NEEDLE}\n"]}) == {"c": [f"  {NEEDLE}\n"]}


def test_a_text_cut_between_two_documents_is_not_in_the_corpus() -> None:
    halves = [segment(NEEDLE[:20], "a"), segment(NEEDLE[20:], "b")]
    assert find_overlap(halves, {"c": [NEEDLE]}) == {}
    joined = [segment(NEEDLE[:20], "a"), segment(NEEDLE[20:], "a", 20)]
    assert find_overlap(joined, {"c": [NEEDLE]}) == {"c": [NEEDLE]}


def test_a_text_across_many_small_segments_is_found() -> None:
    text = f"before {NEEDLE} after"
    assert find_overlap(cut(text, list(range(len(text)))), {"c": [NEEDLE]}) == {"c": [NEEDLE]}


def test_a_left_out_piece_does_not_make_a_text_of_its_neighbours() -> None:
    """Pieces without a site are not in the corpus; what stands around them was never adjacent."""
    around = [segment(NEEDLE[:20]), segment(NEEDLE[20:], start=500)]
    assert find_overlap(around, {"c": [NEEDLE]}) == {}


def test_short_texts_say_nothing() -> None:
    short, enough = "x" * (SHORTEST - 1), "y" * SHORTEST
    padded = f" {short[:9]}   {short[:8]} "
    corpus = [segment(f"{short} {padded} {enough}")]
    assert find_overlap(corpus, {"c": [short, padded, enough]}) == {"c": [enough]}


def test_each_text_is_told_once_for_each_of_its_concepts() -> None:
    other = "A sentence that is nowhere to be found."
    corpus = [segment(f"{NEEDLE} {NEEDLE}"), segment(NEEDLE, "e")]
    found = find_overlap(corpus, {"a": [NEEDLE, other], "b": [NEEDLE], "c": [other]})
    assert found == {"a": [NEEDLE], "b": [NEEDLE]}


def test_a_long_document_is_not_kept_when_there_is_nothing_to_find() -> None:
    count, size = 400, 2000
    tracemalloc.start()
    try:
        assert find_overlap((segment("x" * size, start=n * size) for n in range(count)), {}) == {}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < count * size / 4
