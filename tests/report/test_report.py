"""The page: what stands on it, and how it behaves in a real browser."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import needs_browser, seen_in_browser
from synthetic_rows import fit_row, generated_row, joint_row
from synthetic_run import CONFIG, exact_run, realistic_run, save_run

from lrt_dist.config import ReportConfig
from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.controls import LABELS
from lrt_dist.report.page import write_report
from lrt_dist.report.results import Results
from lrt_dist.sites import LayerPair


def page_of(results: Results, warnings: tuple[str, ...] = (), **facts: str) -> str:
    """The page, written and read again."""
    path = write_report(
        results,
        change="change of log-odds",
        warnings=warnings,
        facts=facts,
        provenance={"Command": "lrt-dist run"},
    )
    return path.read_text("utf-8")


def text_of(page: str) -> str:
    """What is read."""
    return re.sub(r"<style.*?</style>|<[^>]+>|\s+", " ", page, flags=re.DOTALL)


def test_a_card_shows_every_control(tmp_path: Path) -> None:
    page = page_of(exact_run(tmp_path))
    card = text_of(page[page.index('<article class="card">') : page.index("</article>")])
    for arm in Arm:
        assert arm is Arm.NONE or LABELS[arm] in card
    for said in (
        "other concept: calm",
        "other concept: tense",
        "mismatched map 2",
        "of 101, predicted",
    ):
        assert said in card


def test_few_items_stand_beside_the_verdict(tmp_path: Path) -> None:
    page = page_of(exact_run(tmp_path, items=29))
    assert len(re.findall(r"transfers</span> <span class=.few.>only 29 test items", page)) == 2
    assert "only 30 test items" not in page_of(exact_run(tmp_path))


def test_without_concepts_older_tables_are_not_shown(tmp_path: Path) -> None:
    exact_run(tmp_path)
    page = page_of(save_run(tmp_path, config=CONFIG.model_copy(update={"concepts": ()})))
    assert "Transfer was not tested" in page
    assert "mood" not in text_of(page)
    assert "retention" not in page.lower()


def test_numbers_of_a_wide_map_are_in_a_table_too(tmp_path: Path) -> None:
    pairs = [LayerPair(0, target) for target in range(50)]
    page = page_of(save_run(tmp_path, fits=[fit_row(p, p.target / 100) for p in pairs]))
    below = page[page.index("The same in numbers") :]
    assert re.search(r">0\.49</td>", below[: below.index("</details>")])


def test_every_head_of_a_table_has_a_scope(tmp_path: Path) -> None:
    for head in re.findall(r"<th\b[^>]*>", page_of(realistic_run(tmp_path))):
        assert "scope=" in head


class Strict(HTMLParser):
    """Collects tags, and text that only a script or an escaped name could hold."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]


HOSTILE = "<script>alert(1)</script> \"'& $x_1$"


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    realistic_run(tmp_path, hostile=HOSTILE)
    generated = [
        generated_row(concept=HOSTILE, prompt=HOSTILE, arm=arm, strength=0.1, text=HOSTILE)
        for arm in (Arm.NONE, Arm.NATIVE, Arm.TRANSFERRED)
    ]
    page = page_of(save_run(tmp_path, generated=generated), (HOSTILE,), **{HOSTILE: HOSTILE})
    seen = Strict()
    seen.feed(page)
    assert "script" not in seen.tags
    assert {address for address in seen.addresses if address} <= {
        *("report.csv", "report.tex", "scores.parquet", "items.parquet")
    }
    assert page.count(html.escape("<script>alert(1)</script>", quote=False)) > 10


def test_the_page_needs_no_network_and_is_the_same_every_time(tmp_path: Path) -> None:
    """To the byte: a function of the tables alone, on the same machine and library versions."""
    page = page_of(realistic_run(tmp_path))
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "@import" not in page
    assert "url(#" in page
    assert re.findall(r"url\((?!#)", page) == []
    assert page_of(Results.read(tmp_path)) == page
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_fits_alone_give_a_report_of_the_fits(tmp_path: Path) -> None:
    pairs = [LayerPair(s, t) for s in (3, 5) for t in (1, 2)]
    page = page_of(
        save_run(tmp_path, fits=[fit_row(p, 0.1 * p.source + 0.01 * p.target) for p in pairs])
    )
    assert "Transfer was not tested" in page
    assert "explain up to 52% of the variance" in page
    assert "retention" not in page.lower()


def test_no_tables_at_all_is_the_users_matter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        save_run(tmp_path)


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    exact_run(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(CorruptionError, match=r"scores\.parquet cannot be read"):
        Results.read(tmp_path)
    pq.write_table(pa.table({"concept": ["mood"]}), tmp_path / "scores.parquet")
    with pytest.raises(CorruptionError, match=r"scores\.parquet has no column split, item"):
        Results.read(tmp_path)


def test_joint_and_reverse_maps_are_on_the_page(tmp_path: Path) -> None:
    results = save_run(
        tmp_path,
        fits=[fit_row(LayerPair(15, 9), 0.41), fit_row(LayerPair(20, 9), 0.43)],
        joint=[joint_row((15, 20), 9, 0.52)],
        reverse=[fit_row(LayerPair(9, 15), 0.37)],
    )
    text = text_of(page_of(results))
    assert re.search(r"15 \+ 20 → 9 +joint: from several source layers +\+0\.520 +\+0\.430", text)
    assert re.search(r"9 → 15 +reverse: from the target model [a-z ]+ \+0\.370 +–", text)


def test_a_figure_of_the_users_own_is_on_the_page_with_its_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figures_of_mine.py").write_text(
        """
from matplotlib.figure import Figure


def rows_by_layer(results):
    '''Rows behind each map, counted & drawn.

    This paragraph is for programmers.
    '''
    figure = Figure(figsize=(5, 2))
    axes = figure.subplots()
    axes.bar(range(len(results.fits)), results.fits.column("n"))
    axes.set_ylabel("rows of mine")
    return figure
""",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    exact_run(tmp_path / "out")
    own = ReportConfig(figures=("figures_of_mine:rows_by_layer",))
    page = page_of(save_run(tmp_path / "out", config=CONFIG.model_copy(update={"report": own})))
    assert 'aria-label="Rows behind each map, counted &amp; drawn."' in page
    assert "Rows behind each map, counted &amp; drawn.</figcaption>" in page
    assert ">rows of mine</text>" in page
    assert "for programmers" not in page


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_never_scrolls_sideways_in_a_browser(tmp_path: Path, width: int) -> None:
    page = page_of(
        realistic_run(tmp_path, hostile="a_name_without_any_place_to_break_" * 4),
        ("word" * 60,),
        Versions="lrt_dist " * 30,
        Digest="0123456789abcdef" * 16,
    )
    seen = seen_in_browser(page, width, tmp_path)
    assert seen.inner == width
    assert seen.page_width <= width
    assert seen.outside == 0
    assert seen.smallest_text >= 9
    # A number broken over two lines would make its row taller.
    assert seen.tallest_row <= 36
    if width == 400:
        # The control: something was too wide for the page, and scrolled inside its own box.
        assert seen.widest_box > width
