"""The report's numbers against known answers, and its page in a real browser."""

from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_run import (
    fit_line,
    item_lines,
    price_lines,
    realistic_run,
    vector_line,
    write_run,
)

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.report.answer import answer, data_warnings, verdict
from lrt_dist.report.curves import strength_curves
from lrt_dist.report.grids import Grid, mean_grid, retention_grids
from lrt_dist.report.heatmap import heat_map
from lrt_dist.report.items import item_scores
from lrt_dist.report.page import write_report
from lrt_dist.report.samples import prompts_of
from lrt_dist.report.tables import percent, read_tables, summarise, terminal_table

PAIR = (15, 9)
SHARES = {
    ("native", 0): 1.0,
    ("transferred", 0): 0.7,
    ("shuffled", 0): -0.02,
    ("random", 0): 0.05,
    ("random", 1): -0.03,
}


def exact_run(out: Path, **given: object) -> Path:
    """One concept whose arms are exact shares of the native effect: 40 x strength, no noise."""
    options = {"noise": 0.0, "gain": 40.0, "items": 12, **given}
    vector = {key: options.pop(key) for key in ("overlap",) if key in options}
    fit = {key: options.pop(key) for key in ("n", "r2") if key in options}
    shares = options.pop("shares", SHARES)
    lines = [
        scored
        for split in ("dev", "test")
        for scored in item_lines("mood", PAIR, split=split, shares=shares, **options)
    ]
    return write_run(
        out,
        fits=[fit_line(*PAIR, **{"r2": 0.45, **fit})],
        scores=lines + price_lines("mood", PAIR),
        vectors=[vector_line("mood", PAIR, chosen=True, **vector)],
    )


def test_the_summary_of_exact_shares_is_exact(tmp_path: Path) -> None:
    (summary,) = summarise(read_tables(exact_run(tmp_path)))
    assert (summary.concept, summary.source_layer, summary.target_layer) == ("mood", *PAIR)
    assert (summary.strength, summary.items, summary.pairs) == (0.05, 12, 96)
    assert (summary.native_up, summary.native_down) == pytest.approx((2.0, -2.0))
    assert (summary.transferred_up, summary.transferred_down) == pytest.approx((1.4, -1.4))
    assert summary.native_swing == pytest.approx(2.0)
    assert summary.retention.value == pytest.approx(0.7)
    assert summary.retention.low == pytest.approx(0.7)
    assert summary.shuffled.value == pytest.approx(-0.02)
    assert summary.random is not None
    assert (summary.random.mean, summary.random.low) == pytest.approx((0.01, -0.03))
    assert (summary.random.high, summary.random.draws) == (pytest.approx(0.05), 2)
    assert summary.pearson == pytest.approx(1)
    # Changes differ by 0.3 x 40 x strength: the mean over ±0.05 and ±0.1 of its square.
    assert summary.mean_squared_error == pytest.approx((0.6**2 + 1.2**2) / 2)
    assert summary.steerability_native == pytest.approx(40)
    assert summary.steerability_transferred == pytest.approx(28)
    assert summary.cost_native == pytest.approx(0.21)
    assert summary.cost_transferred == pytest.approx(0.18)
    assert summary.cost_random == pytest.approx(0.05)


def test_one_sided_strengths_swing_along_the_vector(tmp_path: Path) -> None:
    for side in (0.05, -0.05):
        (summary,) = summarise(read_tables(exact_run(tmp_path, strengths=(side,))))
        assert summary.native_swing == pytest.approx(2.0)
        assert summary.retention.value == pytest.approx(0.7)
        assert summary.steerability_native == pytest.approx(40)


def test_arms_are_compared_over_the_items_they_share(tmp_path: Path) -> None:
    tables = read_tables(exact_run(tmp_path))
    lines = tables.scores.to_pylist()
    broken = next(x for x in lines if x["split"] == "test" and x["arm"] == "transferred")
    broken["value"] = math.nan
    write_run(tmp_path, scores=lines)
    (summary,) = summarise(read_tables(tmp_path))
    assert summary.items == 11
    assert summary.retention.value == pytest.approx(0.7)


def test_dev_retention_by_pair_and_its_mean(tmp_path: Path) -> None:
    lines, vectors = [], []
    shares = {("a", 2): 0.5, ("a", 4): 0.25, ("b", 2): 0.1, ("b", 4): 0.0}
    for (concept, target), share in shares.items():
        # The native vector of b does nothing at layer 4: no ratio there, and none in the mean.
        gain = 0.0 if (concept, target) == ("b", 4) else 20.0
        lines += item_lines(
            concept,
            (1, target),
            split="dev",
            gain=gain,
            noise=0.0,
            shares={("native", 0): 1.0, ("transferred", 0): share},
        )
        vectors.append(vector_line(concept, (1, target)))
    tables = read_tables(write_run(tmp_path, scores=lines, vectors=vectors))
    grids = retention_grids(tables.scores, tables.vectors)
    assert grids["a"].values == pytest.approx({(1, 2): 0.5, (1, 4): 0.25})
    assert grids["b"].values[1, 2] == pytest.approx(0.1)
    assert math.isnan(grids["b"].values[1, 4])
    assert mean_grid(grids.values()).values == pytest.approx({(1, 2): 0.3, (1, 4): 0.25})


def test_curves_go_through_zero_and_the_random_arm_shows_its_range(tmp_path: Path) -> None:
    tables = read_tables(exact_run(tmp_path))
    test = item_scores(
        tables.scores,
        concept="mood",
        split="test",
        metric="propensity",
        source_layer=PAIR[0],
        target_layer=PAIR[1],
    )
    curves = {curve.arm: curve.points for curve in strength_curves(test)}
    assert list(curves) == ["native", "transferred", "shuffled", "random"]
    assert [p.strength for p in curves["native"]] == [-0.1, -0.05, 0.0, 0.05, 0.1]
    assert [p.mean for p in curves["native"]] == pytest.approx([-4, -2, 0, 2, 4])
    top = curves["random"][-1]
    assert (top.mean, top.low, top.high) == pytest.approx((0.04, -0.12, 0.2))


@pytest.mark.parametrize(
    ("changed", "kind", "headline"),
    [
        ({}, "transfers", "Yes: "),
        ({"overlap": True}, "overlap", "No: "),
        ({"gain": 0.0}, "undefined", "Not answered"),
        ({"shares": {**SHARES, ("transferred", 0): 0.04}}, "fails", "No: "),
        ({"shares": {**SHARES, ("transferred", 0): -0.5}}, "reverses", "No: "),
        ({"shares": {**SHARES, ("random", 0): -0.8}}, "fails", "No: "),
        ({"shares": {("native", 0): 1.0, ("transferred", 0): 0.9}}, "unclear", "No: "),
    ],
)
def test_the_answer_is_yes_only_above_every_control(
    tmp_path: Path, changed: dict[str, object], kind: str, headline: str
) -> None:
    tables = read_tables(exact_run(tmp_path, **changed))
    summaries = summarise(tables)
    assert verdict(summaries[0]).kind == kind
    assert answer(tables, summaries).headline.startswith(headline)


def test_sound_data_give_no_warning(tmp_path: Path) -> None:
    tables = read_tables(exact_run(tmp_path))
    assert data_warnings(tables, summarise(tables)) == []


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({"n": 1000}, "1 000 rows for 576 dimensions"),
        ({"r2": 0.01}, "within 0.05 of the shuffled rows'"),
        ({"items": 9}, "Fewer than 10 test items (mood 9)"),
        ({"gain": 0.0}, "the native arm does not steer at layer 9"),
        ({"overlap": True}, "returns the native vector by algebra"),
    ],
)
def test_the_numbers_call_for_their_warnings(
    tmp_path: Path, changed: dict[str, object], warning: str
) -> None:
    tables = read_tables(exact_run(tmp_path, **changed))
    (said,) = data_warnings(tables, summarise(tables))
    assert warning in said.replace(",", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_a_concept_without_test_scores_is_named(tmp_path: Path) -> None:
    tables = read_tables(exact_run(tmp_path))
    lost = [*tables.vectors.to_pylist(), vector_line("lost", PAIR, chosen=True)]
    tables = read_tables(write_run(tmp_path, vectors=lost))
    assert data_warnings(tables, summarise(tables)) == [
        "No test scores, so not in the tables: lost."
    ]


def test_the_terminal_table_fits_eighty_columns(tmp_path: Path) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(summarise(read_tables(exact_run(tmp_path)))))
    row = next(text for text in capture.get().splitlines() if "mood" in text)
    assert row.split("  ")[0].strip() == "mood"
    assert "15 → 9" in row
    assert "70% (70 to 70%)" in row
    assert row.rstrip().endswith("1%")
    assert "−2%" in row


def test_heat_map_cells() -> None:
    grid = Grid.of({(0, 0): 0.5, (0, 1): -0.25, (1, 0): math.nan})
    shown = heat_map(grid, title="", note="", in_percent=True, chosen={(0, 0): ["mood"]})
    (_, (half, below)), (_, (undefined, absent)) = shown.rows
    assert (half.text, half.heat, half.chosen, half.negative) == ("50", 50, True, False)
    assert half.hint == "layer 0 → 0: 50%; chosen for mood"
    assert (below.text, below.heat, below.negative) == ("−25", 25, True)
    assert undefined.text == "·"
    assert (absent.text, absent.defined) == ("", False)


def test_samples_are_arranged_by_strength_with_native_first(tmp_path: Path) -> None:
    said = [("transferred", 0.1, "b"), ("none", 0.0, "It is so."), ("native", 0.1, "a")]
    lines = [
        {"concept": "mood", "prompt": "It is", "arm": arm, "strength": at, "text": text}
        for arm, at, text in said
    ]
    tables = read_tables(write_run(exact_run(tmp_path), samples=lines))
    (prompt,) = prompts_of(tables.samples, "mood")
    assert [sample.text for sample in prompt.unsteered] == ["so."]
    ((strength, samples),) = prompt.steered
    assert (strength, [sample.text for sample in samples]) == (0.1, ["a", "b"])


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
    lines = [
        {"concept": HOSTILE, "prompt": HOSTILE, "arm": arm, "strength": 0.1, "text": HOSTILE}
        for arm in ("none", "native", HOSTILE)
    ]
    write_run(tmp_path, samples=lines)
    page = write_report(tmp_path, warnings=[HOSTILE], facts={HOSTILE: HOSTILE}).read_text("utf-8")
    seen = Strict()
    seen.feed(page)
    assert "script" not in seen.tags
    assert seen.addresses == []
    assert page.count(html.escape("<script>alert(1)</script>", quote=False)) > 10


def test_the_page_needs_no_network_and_is_the_same_every_time(tmp_path: Path) -> None:
    path = write_report(realistic_run(tmp_path), warnings=[], facts={})
    page = path.read_text("utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "@import" not in page
    assert "url(#" in page
    assert re.findall(r"url\((?!#)", page) == []
    write_report(tmp_path, warnings=[], facts={})
    assert path.read_text("utf-8") == page
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_fits_alone_give_a_report_of_the_fits(tmp_path: Path) -> None:
    write_run(tmp_path, fits=[fit_line(s, t, 0.1 * s + 0.01 * t) for s in (3, 5) for t in (1, 2)])
    page = write_report(tmp_path, warnings=[], facts={}).read_text("utf-8")
    assert "Transfer was not tested" in page
    assert "explain up to 52% of the variance" in page
    assert "retention" not in page.lower()


def test_no_tables_at_all_is_the_users_matter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        write_report(tmp_path, warnings=[], facts={})


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    exact_run(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(CorruptionError, match=r"scores\.parquet cannot be read"):
        write_report(tmp_path, warnings=[], facts={})
    write_run(tmp_path, scores=[{"concept": "mood"}])
    with pytest.raises(CorruptionError, match=r"scores\.parquet has no column split, item"):
        write_report(tmp_path, warnings=[], facts={})
    assert not (tmp_path / "report.html").exists()


CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        if (found := shutil.which(name))
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
    page = write_report(
        realistic_run(tmp_path, hostile="a_name_without_any_place_to_break_" * 4),
        warnings=["word" * 60],
        facts={"Versions": "lrt_dist " * 30, "Digest": "0123456789abcdef" * 16},
    ).read_text("utf-8")
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
