"""The report's numbers against known answers, and its page in a real browser."""

from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from synthetic_run import (
    CONFIG,
    fit_row,
    item_rows,
    joint_row,
    price_rows,
    realistic_run,
    save_run,
    vector_row,
)

from lrt_dist.config import ReportConfig
from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.formatting import percent
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.answer import answer, data_warnings, verdict
from lrt_dist.report.curves import strength_curves
from lrt_dist.report.grids import Grid, mean_grid, retention_grids
from lrt_dist.report.heatmap import heat_map
from lrt_dist.report.items import item_scores
from lrt_dist.report.page import write_report
from lrt_dist.report.results import Results
from lrt_dist.report.samples import samples_of
from lrt_dist.report.summary import summarise, terminal_table
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import SampleRow, Table

PAIR = LayerPair(15, 9)
SHARES = {
    (Arm.NATIVE, 0): 1.0,
    (Arm.TRANSFERRED, 0): 0.7,
    (Arm.MISMATCHED, 0): -0.02,
    (Arm.RANDOM, 0): 0.05,
    (Arm.RANDOM, 1): -0.03,
}


def exact_run(out: Path, **changed: Any) -> Results:
    """One concept whose arms are exact shares of the native effect: 40 x strength, no noise.

    `changed` goes to the vector (overlap), to the fit (n, r2), or else to `item_rows`.
    """
    vector = {key: changed.pop(key) for key in ("overlap",) if key in changed}
    fit = {"r2": 0.45, **{key: changed.pop(key) for key in ("n", "r2") if key in changed}}
    scored = {"noise": 0.0, "gain": 40.0, "items": 12, "shares": SHARES, **changed}
    items = [
        row for split in ("dev", "test") for row in item_rows("mood", PAIR, split=split, **scored)
    ]
    return save_run(
        out,
        fits=[fit_row(PAIR, **fit)],
        scores=items + price_rows("mood", PAIR),
        vectors=[vector_row("mood", PAIR, chosen=True, **vector)],
    )


def page_of(results: Results, warnings: tuple[str, ...] = (), **facts: str) -> str:
    """The page, written and read again."""
    path = write_report(results, change="change of log-odds", warnings=warnings, facts=facts)
    return path.read_text("utf-8")


def test_the_summary_of_exact_shares_is_exact(tmp_path: Path) -> None:
    (summary,) = summarise(exact_run(tmp_path))
    assert (summary.concept, summary.pair) == ("mood", PAIR)
    assert (summary.strength, summary.items, summary.pairs) == (0.05, 12, 96)
    assert (summary.native_up, summary.native_down) == pytest.approx((2.0, -2.0))
    assert (summary.transferred_up, summary.transferred_down) == pytest.approx((1.4, -1.4))
    assert summary.native_effect == pytest.approx(2.0)
    assert summary.retention.value == pytest.approx(0.7)
    assert summary.retention.low == pytest.approx(0.7)
    assert summary.mismatched.value == pytest.approx(-0.02)
    assert summary.random is not None
    assert (summary.random.mean, summary.random.low) == pytest.approx((0.01, -0.03))
    assert summary.random.high == pytest.approx(0.05)
    assert summary.random.draws == 2
    assert summary.pearson == pytest.approx(1)
    # Changes differ by 0.3 x 40 x strength: the mean over ±0.05 and ±0.1 of its square.
    assert summary.mean_squared_error == pytest.approx((0.6**2 + 1.2**2) / 2)
    assert summary.steerability_native == pytest.approx(40)
    assert summary.steerability_transferred == pytest.approx(28)
    assert summary.cost_native == pytest.approx(0.21)
    assert summary.cost_transferred == pytest.approx(0.18)
    assert summary.cost_random == pytest.approx(0.05)


def test_arms_are_compared_over_the_items_they_share(tmp_path: Path) -> None:
    rows = list(exact_run(tmp_path).scores)
    broken = next(n for n, r in enumerate(rows) if (r.split, r.arm) == ("test", Arm.TRANSFERRED))
    rows[broken] = replace(rows[broken], value=math.nan)
    (summary,) = summarise(save_run(tmp_path, scores=rows))
    assert summary.items == 11
    assert summary.retention.value == pytest.approx(0.7)


def test_dev_retention_by_pair_and_its_mean(tmp_path: Path) -> None:
    scores, vectors = [], []
    shares = {("a", 2): 0.5, ("a", 4): 0.25, ("b", 2): 0.1, ("b", 4): 0.0}
    for (concept, target), share in shares.items():
        # The native vector of b does nothing at layer 4: no ratio there, and none in the mean.
        gain = 0.0 if (concept, target) == ("b", 4) else 20.0
        scores += item_rows(
            concept,
            LayerPair(1, target),
            split="dev",
            gain=gain,
            noise=0.0,
            shares={(Arm.NATIVE, 0): 1.0, (Arm.TRANSFERRED, 0): share},
        )
        vectors.append(vector_row(concept, LayerPair(1, target)))
    results = save_run(tmp_path, scores=scores, vectors=vectors)
    grids = retention_grids(results.scores, results.vectors, "propensity")
    two, four = LayerPair(1, 2), LayerPair(1, 4)
    assert grids["a"].values == pytest.approx({two: 0.5, four: 0.25})
    assert grids["b"].values[two] == pytest.approx(0.1)
    assert math.isnan(grids["b"].values[four])
    assert mean_grid(grids.values()).values == pytest.approx({two: 0.3, four: 0.25})


def test_curves_go_through_zero_and_the_random_arm_shows_its_range(tmp_path: Path) -> None:
    test = item_scores(exact_run(tmp_path).scores, "mood", "test", "propensity", PAIR)
    curves = {curve.arm: curve.points for curve in strength_curves(test)}
    assert list(curves) == [Arm.NATIVE, Arm.TRANSFERRED, Arm.MISMATCHED, Arm.RANDOM]
    assert [p.strength for p in curves[Arm.NATIVE]] == [-0.1, -0.05, 0.0, 0.05, 0.1]
    assert [p.mean for p in curves[Arm.NATIVE]] == pytest.approx([-4, -2, 0, 2, 4])
    top = curves[Arm.RANDOM][-1]
    assert (top.mean, top.low, top.high) == pytest.approx((0.04, -0.12, 0.2))


@pytest.mark.parametrize(
    ("changed", "kind", "headline"),
    [
        ({}, "transfers", "Yes: "),
        ({"overlap": True}, "overlap", "No: "),
        ({"gain": 0.0}, "undefined", "Not answered"),
        ({"shares": {**SHARES, (Arm.TRANSFERRED, 0): 0.04}}, "fails", "No: "),
        ({"shares": {**SHARES, (Arm.TRANSFERRED, 0): -0.5}}, "reverses", "No: "),
        ({"shares": {**SHARES, (Arm.RANDOM, 0): -0.8}}, "fails", "No: "),
        ({"shares": {(Arm.NATIVE, 0): 1.0, (Arm.TRANSFERRED, 0): 0.9}}, "unclear", "No: "),
    ],
)
def test_the_answer_is_yes_only_above_every_control(
    tmp_path: Path, changed: dict[str, object], kind: str, headline: str
) -> None:
    results = exact_run(tmp_path, **changed)
    summaries = summarise(results)
    assert verdict(summaries[0]).kind == kind
    assert answer(results, summaries).headline.startswith(headline)


def test_sound_data_give_no_warning(tmp_path: Path) -> None:
    results = exact_run(tmp_path)
    assert data_warnings(results, summarise(results)) == []


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({"n": 1000}, "1 000 rows for 576 dimensions"),
        ({"r2": 0.01}, "within 0.05 of that on mismatched documents"),
        ({"items": 9}, "Fewer than 10 test items (mood 9)"),
        ({"gain": 0.0}, "the native arm does not steer at layer 9"),
        ({"overlap": True}, "returns the native vector by algebra"),
    ],
)
def test_the_numbers_call_for_their_warnings(
    tmp_path: Path, changed: dict[str, object], warning: str
) -> None:
    results = exact_run(tmp_path, **changed)
    (text,) = data_warnings(results, summarise(results))
    assert warning in text.replace(",", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_a_concept_without_test_scores_is_named(tmp_path: Path) -> None:
    vectors = list(exact_run(tmp_path).vectors)
    results = save_run(tmp_path, vectors=[*vectors, vector_row("lost", PAIR, chosen=True)])
    assert data_warnings(results, summarise(results)) == [
        "No test scores, so not in the tables: lost."
    ]


def test_the_terminal_table_fits_eighty_columns(tmp_path: Path) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(summarise(exact_run(tmp_path))))
    row = next(text for text in capture.get().splitlines() if "mood" in text)
    assert row.split("  ")[0].strip() == "mood"
    assert "15 → 9" in row
    assert "70% (70 to 70%)" in row
    assert row.rstrip().endswith("1%")
    assert "−2%" in row


def test_heat_map_cells() -> None:
    grid = Grid.of({LayerPair(0, 0): 0.5, LayerPair(0, 1): -0.25, LayerPair(1, 0): math.nan})
    shown = heat_map(grid, title="", note="", in_percent=True, chosen={LayerPair(0, 0): ["mood"]})
    (_, (half, below)), (_, (undefined, absent)) = shown.rows
    assert (half.text, half.heat, half.chosen, half.negative) == ("50", 50, True, False)
    assert half.hint == "layer 0 → 0: 50%; chosen for mood"
    assert (below.text, below.heat, below.negative) == ("−25", 25, True)
    assert undefined.text == "·"
    assert (absent.text, absent.defined) == ("", False)


def test_samples_are_arranged_by_strength_with_native_first(tmp_path: Path) -> None:
    texts = [(Arm.TRANSFERRED, 0.1, "b"), (Arm.NONE, 0.0, " so."), (Arm.NATIVE, 0.1, "a")]
    rows = [
        SampleRow(concept="mood", prompt="It is", arm=arm, strength=strength, text=text)
        for arm, strength, text in texts
    ]
    samples = samples_of(Table.of(SampleRow, rows), "mood")
    assert samples is not None
    assert (samples.prompt, samples.unsteered) == ("It is", "so.")
    ((strength, steered),) = samples.steered
    assert (strength, [sample.text for sample in steered]) == (0.1, ["a", "b"])
    assert samples_of(Table.of(SampleRow, rows), "calm") is None


def test_percent_has_a_real_minus_sign_and_no_negative_zero() -> None:
    assert percent(-0.034) == "\N{MINUS SIGN}3%"
    assert percent(-0.001) == "0%"
    assert percent(math.nan) == "–"


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
    samples = [
        SampleRow(concept=HOSTILE, prompt=HOSTILE, arm=arm, strength=0.1, text=HOSTILE)
        for arm in (Arm.NONE, Arm.NATIVE, Arm.TRANSFERRED)
    ]
    page = page_of(save_run(tmp_path, samples=samples), (HOSTILE,), **{HOSTILE: HOSTILE})
    seen = Strict()
    seen.feed(page)
    assert "script" not in seen.tags
    assert seen.addresses == []
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
    text = re.sub(r"<[^>]+>|\s+", " ", page_of(results))
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


CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        if (path := shutil.which(name))
    ),
    None,
)
CHROMIUM_OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    "--virtual-time-budget=2000",
]

# A frame has exactly the width it is given; a browser's window has its own idea of a minimum.
HARNESS = """<!doctype html><body>
<iframe id="frame" style="border:0;width:{width}px;height:2000px" srcdoc="{page}"></iframe>
<pre id="seen"></pre><script>
document.getElementById("frame").addEventListener("load", (event) => {{
  const inside = event.target.contentDocument, root = inside.documentElement;
  inside.querySelectorAll("details").forEach((one) => {{ one.open = true; }});
  const scroll = [...inside.querySelectorAll(".scroll")].map((one) => one.scrollWidth);
  const rows = [...inside.querySelectorAll(".heat tr")];
  const text = [...inside.querySelectorAll("svg text")].map((one) => one.getBoundingClientRect());
  document.getElementById("seen").textContent = [
    "seen", event.target.contentWindow.innerWidth, root.scrollWidth, Math.max(0, ...scroll),
    Math.round(Math.min(...text.map((box) => box.height))),
    Math.round(Math.max(...rows.map((row) => row.getBoundingClientRect().height))),
    text.filter((box) => box.left < 0 || box.right > root.clientWidth).length,
  ].join(" ");
}});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome binary on PATH")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_never_scrolls_sideways_in_a_browser(tmp_path: Path, width: int) -> None:
    page = page_of(
        realistic_run(tmp_path, hostile="a_name_without_any_place_to_break_" * 4),
        ("word" * 60,),
        Versions="lrt_dist " * 30,
        Digest="0123456789abcdef" * 16,
    )
    harness = tmp_path / "harness.html"
    harness.write_text(HARNESS.format(width=width, page=html.escape(page)), "utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *CHROMIUM_OPTIONS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,2200",
            "--dump-dom",
            harness.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    seen = re.search(r'<pre id="seen">seen (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)', done.stdout)
    assert seen is not None, done.stderr[-2000:]
    inner, page_width, widest, smallest_text, tallest, outside = map(int, seen.groups())
    assert inner == width
    assert page_width <= width
    assert outside == 0
    assert smallest_text >= 9
    # A number broken over two lines would make its row taller.
    assert tallest <= 36
    if width == 400:
        # The control: something was too wide for the page, and scrolled inside its own box.
        assert widest > width
