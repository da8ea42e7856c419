"""The page of an atlas: what stands on it, and how it behaves in a real browser."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from browser import needs_browser, seen_in_browser
from rich.console import Console
from synthetic_rows import verdict_row

from lrt_dist.report.atlas import atlas_table, write_atlas
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import AtlasRow, Table
from lrt_dist.verdicts import Word

MODELS = ("small", "large", "other")


def atlas_row(source: str, target: str, concept: str = "mood", **changed: Any) -> AtlasRow:
    values = {
        "source": source,
        "target": target,
        "source_depth": 0.5,
        "target_depth": 0.75,
        "word": Word.TRANSFERS,
        "run": f"runs/{source}-to-{target}",
    }
    return AtlasRow(**(vars(verdict_row(concept, LayerPair(3, 5))) | values | changed))


def page_of(rows: list[AtlasRow], folder: Path, models: tuple[str, ...] = MODELS) -> str:
    path = folder / "atlas.html"
    write_atlas(path, "three", models, list(itertools.permutations(models, 2)), _table(rows))
    return path.read_text("utf-8")


def _table(rows: list[AtlasRow]) -> Table[AtlasRow]:
    return Table.of(AtlasRow, rows)


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_it_says_what_crosses_between_which_and_links_to_each_run(tmp_path: Path) -> None:
    nothing = dataclasses.replace(
        atlas_row("large", "small"), word=Word.NO_EFFECT, retention=9.87, p_adjusted=1.0
    )
    page = page_of([atlas_row("small", "large"), nothing], tmp_path)
    text = text_of(page)
    assert "Transfer is shown in 1 of 2 cases" in text
    assert "Not finished small → other, large → other, other → small, other → large" in text
    assert 'href="runs/small-to-large/report.html"' in page
    assert 'title="from small to large: 70% (62 to 78%), transfers"' in page
    assert "3 → 5 50% → 75%" in text
    assert "987%" not in page, "a share of no effect says nothing"
    assert "At a glance" not in text, "with one concept its own map shows as much"


def test_several_concepts_are_seen_at_a_glance(tmp_path: Path) -> None:
    concepts = ("mood", "tense<&>")
    rows = [atlas_row("small", "large", concept) for concept in concepts]
    page = page_of(rows, tmp_path)
    assert "At a glance" in page
    assert '<a href="#tense&lt;&amp;&gt;">' in page
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(atlas_table(_table(rows)))
    assert "tense<&>" in console.export_text()


def test_without_a_finished_run_it_says_so(tmp_path: Path) -> None:
    assert "No run is finished" in page_of([], tmp_path)


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_a_phone_and_is_reached_by_keyboard(tmp_path: Path, width: int) -> None:
    models = (*MODELS, "a_name_without_any_place_to_break_" * 3, "b", "c", "d")
    rows = [
        atlas_row(source, target, concept)
        for source, target in itertools.permutations(models, 2)
        for concept in ("mood", "tense")
    ]
    seen = seen_in_browser(page_of(rows, tmp_path, models), width, tmp_path)
    assert seen.inner == width
    assert seen.page_width <= width
    assert seen.tallest_row <= 36
    assert seen.unreachable == 0
    if width == 400:
        assert seen.widest_box > width, "the control: something scrolls inside its own box"
