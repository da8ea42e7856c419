"""The row index: dense rows, exact units, and a hash that sees every change."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import documentation

from lrt_dist.config import SitesConfig
from lrt_dist.corpus.readers import Document
from lrt_dist.corpus.rows import RowIndex, write_units
from lrt_dist.corpus.rows import write_index as write_rest
from lrt_dist.corpus.segment_tables import fill_units, segments_of, table_of
from lrt_dist.corpus.segments import Cut, cut_segments
from lrt_dist.errors import UserError
from lrt_dist.models.spelling import NO_END
from lrt_dist.models.tokens import Encoding, SiteTokenizer
from lrt_dist.sites import Segment, Side, Sided


def write_index(
    path: Path, segments: Iterable[Segment | Cut], rows_per_unit: int, fingerprint: str
) -> RowIndex:
    """An index whose segments come one in each table."""
    tables = (table_of([segment]) for segment in segments)
    return write_rest(path, write_units(path, tables, rows_per_unit), fingerprint)


few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    count = draw(st.integers(1, 6))
    ends = st.lists(st.integers(0, 40), min_size=count, max_size=count, unique=True).map(sorted)
    ids = st.lists(st.integers(0, 300_000), min_size=1, max_size=5).map(tuple)
    return Segment(
        document=draw(st.sampled_from(["a.txt#0", "a.txt#1", "ü.jsonl#7"])),
        start=draw(st.integers(0, 10**10)),
        text=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        char_ends=tuple(draw(ends)),
        first_row=draw(st.integers(0, 99)),
        ids=Sided(draw(ids), draw(ids)),
        positions=Sided(tuple(draw(ends)), tuple(draw(ends))),
    )


CORPUS = st.lists(segments(), min_size=1, max_size=12)


@few
@given(corpus=CORPUS, rows_per_unit=st.integers(1, 9))
def test_the_index_gives_back_exactly_the_filled_units(
    tmp_path: Path, corpus: list[Segment], rows_per_unit: int
) -> None:
    index = write_index(tmp_path / "rows", corpus, rows_per_unit, "f")
    units = [segments_of(u) for u in fill_units([table_of(corpus)], rows_per_unit)]
    assert [index.unit(n) for n in range(index.units)] == units
    assert list(index.all_segments()) == list(itertools.chain.from_iterable(units))
    assert index.segments == len(corpus)
    assert index.documents == len({s.document for s in corpus})
    sites = [sum(len(s.char_ends) for s in unit) for unit in units]
    assert sites == [len(index.unit_rows(n)) for n in range(index.units)]
    for side in Side:
        lengths = [len(s.ids[side]) for s in corpus]
        by_unit = [index.lengths(n, side) for n in range(index.units)]
        assert [len(unit) for unit in by_unit] == [len(unit) for unit in units]
        assert index.tokens(side) == sum(itertools.chain.from_iterable(by_unit))
        if index.units == 1:
            assert by_unit == [tuple(lengths)]
    assert [index.groups_of(n) for n in range(index.units)] == [
        [(s.document, len(s.char_ends)) for s in unit] for unit in units
    ]


@few
@given(corpus=CORPUS, rows_per_unit=st.integers(1, 9))
def test_rows_are_dense_and_only_the_last_unit_may_be_short(
    tmp_path: Path, corpus: list[Segment], rows_per_unit: int
) -> None:
    index = write_index(tmp_path / "rows", corpus, rows_per_unit, "f")
    seen: list[int] = []
    for number in range(index.units):
        rows = [
            row
            for s in index.unit(number)
            for row in range(s.first_row, s.first_row + len(s.char_ends))
        ]
        assert rows == list(index.unit_rows(number))
        assert len(rows) == rows_per_unit or number == index.units - 1
        seen += rows
    assert seen == list(range(index.rows))


@few
@given(corpus=CORPUS, rows_per_unit=st.integers(1, 9))
def test_an_index_read_again_is_the_one_that_was_written(
    tmp_path: Path, corpus: list[Segment], rows_per_unit: int
) -> None:
    path = tmp_path / "rows"
    written = write_index(path, corpus, rows_per_unit, "fingerprint")
    assert RowIndex.open(path) == written
    assert (written.fingerprint, written.rows_per_unit) == ("fingerprint", rows_per_unit)
    assert write_index(path, corpus, rows_per_unit, "fingerprint") == written


@few
@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    rows_per_unit=st.integers(1, 9),
    at_once=st.integers(1, 4),
)
def test_ranges_of_units_part_the_documents(
    tmp_path: Path, counts: list[int], rows_per_unit: int, at_once: int
) -> None:
    """Every document whole, and once, wherever units cut it."""
    corpus = [
        dataclasses.replace(ONE, document=f"d{n}", start=place)
        for n, count in enumerate(counts)
        for place in range(count)
    ]
    index = write_index(tmp_path / "rows", corpus, rows_per_unit, "f")
    parts = [
        list(index.documents_from(range(first, min(first + at_once, index.units))))
        for first in range(0, index.units, at_once)
    ]
    assert [s for part in parts for s in part] == list(index.all_segments())
    of_documents = [{s.document for s in part} for part in parts]
    assert sum(map(len, of_documents)) == len(counts)


ONE = Segment("d", 3, "some text", (4, 9), 0, Sided((5, 6), (7, 8, 9)), Sided((0, 1), (1, 2)))


@pytest.mark.parametrize(
    "change",
    [
        {"document": "e"},
        {"start": 4},
        {"text": "some test"},
        {"char_ends": (4, 8)},
        {"ids": Sided((5, 7), (7, 8, 9))},
        {"ids": Sided((5, 6), (7, 8, 10))},
        {"positions": Sided((0, 1), (0, 2))},
    ],
    ids=str,
)
def test_the_digest_sees_every_change(tmp_path: Path, change: dict[str, object]) -> None:
    last = dataclasses.replace(ONE, document="z")
    digests = {
        write_index(tmp_path / "rows", [s, last], 8, "f").digest
        for s in (ONE, dataclasses.replace(ONE, **change))  # type: ignore[arg-type]
    }
    assert len(digests) == 2


def test_the_digest_sees_order_and_cut_but_not_the_input_numbering(tmp_path: Path) -> None:
    path, other = tmp_path / "rows", dataclasses.replace(ONE, document="z")

    def digest(*corpus: Segment, rows_per_unit: int = 8) -> str:
        return write_index(path, corpus, rows_per_unit, "f").digest

    assert digest(ONE, other) != digest(other, ONE)
    assert digest(ONE, other, rows_per_unit=1) != digest(ONE, other)
    assert digest(ONE, other) == digest(dataclasses.replace(ONE, first_row=70), other)


def test_an_index_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows"
    old = write_index(path, [ONE], 8, "old")

    def broken() -> Iterator[Segment]:
        yield ONE
        yield ONE
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_index(path, broken(), 2, "new")
    assert RowIndex.open(path) == old
    assert sorted(p.name for p in path.iterdir()) == ["index.json", "segments.arrow", "units.arrow"]


def test_without_one_site_there_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="share no site"):
        write_index(tmp_path / "rows", [], 8, "f")
    assert list((tmp_path / "rows").iterdir()) == []


def documents(count: int) -> list[Document]:
    return [Document(f"d{n}", text) for n, text in enumerate(documentation(count))]


class EveryOther:
    """A tokenizer of two-character pieces; the second one starts a character later."""

    special_tokens = 0

    def __init__(self, begin: int) -> None:
        self.begin = begin

    def encode_all(self, texts: Sequence[str]) -> list[Encoding]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Encoding:
        # The last piece is left open, as a character of several pieces leaves it.
        ends = [*range(self.begin, len(text), 2), NO_END]
        return Encoding(np.arange(len(ends), dtype=np.int32), np.array(ends, dtype=np.int32))


def test_tokenizers_that_share_no_site_are_refused(
    tmp_path: Path, byte_level: SiteTokenizer, one_word: SiteTokenizer
) -> None:
    sites = SitesConfig(min_context=1)
    for pair in (Sided(EveryOther(1), EveryOther(2)), Sided(byte_level, one_word)):
        corpus = cut_segments(documents(3), pair, 4096, sites)
        with pytest.raises(UserError, match=r"share no site .* sites\.min_context"):
            write_index(tmp_path / "rows", corpus, 8, "f")


def test_a_real_corpus_makes_an_index_that_needs_no_tokenizer_to_be_read(
    tmp_path: Path, byte_level: SiteTokenizer, metaspace: SiteTokenizer
) -> None:
    sites = SitesConfig(per_segment=8, min_context=2)
    corpus = list(cut_segments(documents(4), Sided(byte_level, metaspace), 48, sites))
    index = write_index(tmp_path / "rows", corpus, 16, "f")
    assert index.rows == sum(len(s.char_ends) for s in index.all_segments())
    read = list(index.all_segments())
    assert [s.text for s in read] == [s.text for s in corpus]
    for side in Side:
        assert [s.ids[side] for s in read] == [tuple(s.ids[side].tolist()) for s in corpus]


def test_a_missing_index_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `lrt-dist index` first"):
        RowIndex.open(tmp_path / "rows")


@pytest.mark.parametrize("content", ["", "no JSON", "[]", "{}", '{"digests": ["a", "b"]}'])
def test_another_file_is_not_taken_for_an_index(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows"
    path.mkdir()
    (path / "index.json").write_text(content)
    with pytest.raises(UserError, match="is not a row index"):
        RowIndex.open(path)


def test_an_index_that_replaces_another_is_read_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "rows", dataclasses.replace(ONE, text="some test")
    assert write_index(path, [ONE], 8, "f").unit(0) == [ONE]
    assert write_index(path, [other], 8, "f").unit(0) == [other]
