"""The report's numbers against known answers."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_rows import generated_row, score_rows, vector_row, verdict_row
from synthetic_run import CONFIG, PAIR, exact_run, realistic_run, save_run

from lrt_dist.formatting import percent
from lrt_dist.plan.conditions import DRAWN, Arm
from lrt_dist.report.agreement import agreements
from lrt_dist.report.controls import STEERED, quantiles
from lrt_dist.report.curves import strength_curves
from lrt_dist.report.grids import Grid, mean_grid, retention_grids
from lrt_dist.report.heatmap import heat_map, matrix_map
from lrt_dist.report.item_effects import item_effects, worst
from lrt_dist.report.matrix import specificity
from lrt_dist.report.results import Results
from lrt_dist.report.samples import samples_of
from lrt_dist.report.summary import summarise, terminal_table
from lrt_dist.report.tables_to_copy import as_csv, as_latex, write_tables
from lrt_dist.report.text import interval
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import GeneratedRow, Table, VerdictRow


def test_the_summary_of_exact_shares_is_exact(tmp_path: Path) -> None:
    (summary,) = summarise(exact_run(tmp_path))
    assert (summary.concept, summary.pair) == ("mood", PAIR)
    assert summary.retention == 0.7
    assert summary.retention_interval == (0.62, 0.78)
    assert summary.pearson == pytest.approx(1)
    # Changes differ by 0.3 x 40 x strength: the mean over ±0.05 and ±0.1 of its square.
    assert summary.mean_squared_error == pytest.approx((0.6**2 + 1.2**2) / 2)
    assert summary.cost_native == pytest.approx(0.21)
    assert summary.cost_transferred == pytest.approx(0.18)
    assert summary.cost_random == pytest.approx(0.05)


def test_no_control_is_missing(tmp_path: Path) -> None:
    (summary,) = summarise(exact_run(tmp_path))
    assert [control.arm for control in summary.drawn] == list(DRAWN)
    assert {control.arm for control in summary.steered} == set(STEERED)
    assert set(STEERED) | set(DRAWN) == set(Arm) - {Arm.NONE, Arm.NATIVE, Arm.TRANSFERRED}
    kept = {control.label: control.retention for control in summary.steered}
    assert kept == pytest.approx(
        {
            "other concept: calm": 0.11,
            "other concept: tense": -0.12,
            "mismatched map 1": -0.02,
            "mismatched map 2": 0.03,
            "map fitted on: calm": 0.4,
            "by way of: calm": 0.55,
            "mean state": 0.08,
            "no map": 0.17,
        }
    )
    assert all(control.share == control.retention for control in summary.steered)
    permuted = summary.drawn[0]
    assert permuted.quantiles == pytest.approx((-0.3, -0.27, 0.0, 0.27, 0.3))
    assert (permuted.draws, permuted.p, permuted.steered) == (101, 0.002, False)


def test_quantiles_are_values_that_occur_and_nan_is_the_largest() -> None:
    assert quantiles([3.0, 1.0, 2.0]) == (1.0, 2.0, 2.0, 3.0, 3.0)
    assert quantiles([1.0, math.nan, -math.inf])[0] == -math.inf
    assert math.isnan(quantiles([1.0, math.nan, 0.0])[4])


def test_arms_are_compared_over_the_items_they_share(tmp_path: Path) -> None:
    rows = list(exact_run(tmp_path).scores)
    broken = next(n for n, r in enumerate(rows) if (r.split, r.arm) == ("test", Arm.TRANSFERRED))
    rows[broken] = replace(rows[broken], value=math.nan)
    (summary,) = summarise(save_run(tmp_path, scores=rows))
    assert len(summary.test.items) == 29


def test_retention_by_pair_is_blank_where_little_steers() -> None:
    rows = [
        vector_row("a", LayerPair(1, 2), native_dev=8.0, transferred_dev=4.0),
        vector_row("a", LayerPair(1, 4), native_dev=2.0, transferred_dev=0.5),
        vector_row("a", LayerPair(1, 6), native_dev=1.9, transferred_dev=9.0),
        vector_row("a", LayerPair(1, 8), native_dev=-3.0, transferred_dev=-3.0),
        vector_row("b", LayerPair(1, 2), native_dev=1.0, transferred_dev=0.1),
        vector_row("b", LayerPair(1, 4), native_dev=math.nan, transferred_dev=0.1),
        vector_row("c", LayerPair(1, 2), native_dev=-1.0, transferred_dev=-1.0),
    ]
    grids = retention_grids(Table.of(type(rows[0]), rows))
    two, four, six, eight = (LayerPair(1, target) for target in (2, 4, 6, 8))
    assert grids["a"].values == pytest.approx(
        {two: 0.5, four: 0.25, six: math.nan, eight: math.nan}, nan_ok=True
    )
    assert math.isnan(grids["b"].values[four])
    assert math.isnan(grids["c"].values[two])
    assert mean_grid(grids.values()).values[two] == pytest.approx(0.3)


def test_curves_go_through_zero_and_controls_are_points(tmp_path: Path) -> None:
    (summary,) = summarise(exact_run(tmp_path))
    curves = {curve.arm: curve.points for curve in strength_curves(summary.test)}
    assert set(curves) == {Arm.NATIVE, Arm.TRANSFERRED, *STEERED}
    assert [p.strength for p in curves[Arm.NATIVE]] == [-0.1, -0.05, 0.0, 0.05, 0.1]
    assert [p.mean for p in curves[Arm.NATIVE]] == pytest.approx([-4, -2, 0, 2, 4])
    # Two draws, -0.02 and 0.03 of 40 x 0.1.
    assert curves[Arm.MISMATCHED][-1].mean == pytest.approx(0.02)


def matrix_run(out: Path) -> Results:
    """Two concepts by hand: native effects 2 and 4 at ±0.05, what the vectors do is in `shares`."""
    scores, verdicts, vectors = [], [], []
    for name, gain, own, other, draw in (("a", 40, 0.7, 0.1, 1), ("b", 80, 0.5, -0.25, 0)):
        shares = {(Arm.NATIVE, 0): 1.0, (Arm.TRANSFERRED, 0): own, (Arm.FOREIGN, draw): other}
        scores += score_rows(
            name, PAIR, split="test", gain=gain, shares=shares, noise=0.0, others=("a", "b")
        )
        verdicts.append(verdict_row(name, PAIR, native=gain * 0.05, retention=own))
        vectors.append(vector_row(name, PAIR, chosen=True))
    return save_run(out, scores=scores, verdicts=verdicts, vectors=vectors)


def test_the_specificity_matrix_of_a_table_made_by_hand(tmp_path: Path) -> None:
    matrix = specificity(summarise(matrix_run(tmp_path)))
    assert matrix.concepts == ("a", "b")
    assert matrix.values == pytest.approx(
        {("a", "a"): 0.7, ("a", "b"): 0.1, ("b", "b"): 0.5, ("b", "a"): -0.25}
    )
    shown = matrix_map(matrix, title="", note="")
    ((first, (own, other)), (second, cells)) = shown.rows
    assert (first, second, shown.columns) == ("a", "b", ("a", "b"))
    assert (own.text, own.chosen, other.text, other.chosen) == ("70", True, "10", False)
    assert other.hint == "vector of b on items of a: 10%"
    assert (cells[0].text, cells[0].negative) == ("−25", True)


def test_agreement_by_strength(tmp_path: Path) -> None:
    results = exact_run(tmp_path)
    chosen, other = agreements(results, summarise(results))
    # At the chosen strength the verdict has it; elsewhere the rows lie on a line of slope 0.9.
    assert (chosen.strength, chosen.r, chosen.slope, chosen.chosen) == (0.05, 0.98, 0.9, True)
    assert (other.strength, other.vectors, other.chosen) == (0.1, 4, False)
    assert (other.r, other.slope) == pytest.approx((1, 0.9))


def test_items_that_differ_most_come_first(tmp_path: Path) -> None:
    results = realistic_run(tmp_path)
    summary = next(s for s in summarise(results) if s.concept == "sentiment")
    effects = item_effects(results, summary)
    assert len(effects) == 24
    gaps = [abs(each.native - each.transferred) for each in worst(effects)]
    assert len(gaps) == 10
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] == max(abs(each.native - each.transferred) for each in effects)
    assert effects[3].hint == "item 3: Film 3 was …  a joy |  fun ↔  a bore"


def test_the_terminal_table_fits_eighty_columns(tmp_path: Path) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(summarise(exact_run(tmp_path))))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    row = next(text for text in lines if "mood" in text)
    for shown in ("15 → 9", "±0.05", "+2.00", "70% (62 to 78%)", "27%", "0.004", "transfers"):
        assert shown in row


def test_csv_reads_back_as_the_table(tmp_path: Path) -> None:
    summaries = summarise(realistic_run(tmp_path))
    read = list(csv.DictReader(io.StringIO(as_csv(summaries))))
    assert [row["verdict"] for row in read] == [str(summary.word) for summary in summaries]
    for row, summary in zip(read, summaries, strict=True):
        for field in fields(VerdictRow):
            value = getattr(summary.verdict, field.name)
            if isinstance(value, tuple):
                assert (float(row[f"{field.name}_low"]), float(row[f"{field.name}_high"])) == value
            else:
                assert type(value)(row[field.name]) == value or str(value) == row[field.name]


def test_latex_has_a_line_for_each_concept(tmp_path: Path) -> None:
    results = exact_run(tmp_path, share_interval=(0.6, math.inf))
    summaries = summarise(results)
    text = as_latex([replace(s, verdict=replace(s.verdict, concept="a_b&c")) for s in summaries])
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip()
    cells = body.removesuffix(r" \\").split(" & ")
    assert cells == [
        r"a\_b\&c", r"$15 \to 9$", "0.05", "30", "$2.00$ [$1.80$, $2.20$]", "$70$ [$62$, $78$]",
        r"$70$ [$60$, $\infty$]", "0.004", "transfers",
    ]  # fmt: skip
    verdicts = text.split(r"\end{tabular}")[0]
    assert verdicts.count(" & ") == 16  # eight in the head, eight in the line
    assert text.count("{") == text.count("}")


def test_tables_to_copy_go_with_the_concepts(tmp_path: Path) -> None:
    results = exact_run(tmp_path)
    assert write_tables(results.report, summarise(results)) == ["report.csv", "report.tex"]
    assert (tmp_path / "report.csv").is_file()
    without = save_run(tmp_path, config=CONFIG.model_copy(update={"concepts": ()}))
    assert (len(without.scores), len(without.verdicts), len(without.items)) == (0, 0, 0)
    assert write_tables(without.report, summarise(without)) == []
    assert not (tmp_path / "report.csv").exists()


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
        generated_row(concept="mood", prompt="It is", arm=arm, strength=strength, text=text)
        for arm, strength, text in texts
    ]
    samples = samples_of(Table.of(GeneratedRow, rows), "mood")
    assert samples is not None
    assert (samples.prompt, samples.unsteered) == ("It is", "so.")
    ((strength, steered),) = samples.steered
    assert (strength, [sample.text for sample in steered]) == (0.1, ["a", "b"])
    assert samples_of(Table.of(GeneratedRow, rows), "calm") is None


def test_percent_has_a_real_minus_sign_and_no_negative_zero() -> None:
    assert percent(-0.034) == "\N{MINUS SIGN}3%"
    assert percent(-0.001) == "0%"
    assert percent(math.nan) == "–"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.77, 0.93), "77 to 93%"),
        ((0.2, math.inf), "20% or more"),
        ((-math.inf, 0.2), "20% or less"),
        ((-math.inf, math.inf), "without end"),
        ((math.nan, 1.0), "undefined"),
    ],
)
def test_an_interval_without_an_end_is_said_in_words(ends: tuple[float, float], said: str) -> None:
    assert interval(ends) == said
