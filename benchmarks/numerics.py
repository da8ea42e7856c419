"""`python -m benchmarks.numerics [OUT]`: how exact must second moments be?

Ways to accumulate them, compared by what they do to a map, on constructed data and, if one is
given, on the hidden states of a finished run (`make demo` leaves one in `demo-run`). Every way
accumulates the same rows; everything after that is the package's own float64 solver. Prints the
tables of docs/numerics.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.data import moments_of
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.linear.fit import RIDGE_RATIOS, SourceFit, mismatched, wanted_moments
from lrt_dist.linear.methods import AFFINE, Choice, solution
from lrt_dist.linear.moments import Accumulator, Moments, merge_all
from lrt_dist.linear.ridge import Spectrum
from lrt_dist.sites import Side, fold_of
from lrt_dist.store.activations import ActivationStore
from lrt_dist.workspace.folder import RunFolder

CONTROL = mismatched("y")
PAIRS = wanted_moments([("x", "y")])
FOLDS = 5
ROUNDS = 3
UNIT = 1024  # rows that the reference is given at a time
WANTED_ERROR = 1e-6

Rows = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Data:
    """Rows of both models and the fold of each.

    Attributes:
        real: whether models made them; only these decide about a way.
    """

    name: str
    x: torch.Tensor
    y: torch.Tensor
    fold: torch.Tensor
    real: bool = False

    def folds(self) -> list[Rows]:
        """The variables of each fold; the control pairs rows that lie half of all rows apart."""
        others = self.y.roll(len(self.y) // 2, 0)
        rows = {"x": self.x, "y": self.y, CONTROL: others}
        return [{name: v[self.fold == k] for name, v in rows.items()} for k in range(FOLDS)]

    def where(self, kept: torch.Tensor, name: str) -> Data:
        """Some of the rows, under another name."""
        return replace(self, name=name, x=self.x[kept], y=self.y[kept], fold=self.fold[kept])


@dataclass(frozen=True)
class Way:
    """One way to accumulate: products of a block of rows in `dtype`, sums of blocks in float64.

    Attributes:
        shifted: whether the mean of the first rows is subtracted from all rows before.
        split: whether a number is multiplied as the sum of two float32.
    """

    name: str
    block: int
    dtype: torch.dtype
    shifted: bool
    split: bool = False

    def moments(self, rows: Rows) -> Moments:
        """The moments of one fold."""
        n = len(rows["x"])
        shift = {name: self._shift(values) for name, values in rows.items()}
        sums = {name: torch.zeros_like(s, dtype=torch.float64) for name, s in shift.items()}
        second: dict[tuple[str, str], torch.Tensor] = {}
        for start in range(0, n, self.block):
            pieces = {}
            for name, values in rows.items():
                piece = values[start : start + self.block].to(shift[name].dtype, copy=True)
                if self.shifted:
                    piece.sub_(shift[name])
                sums[name] += piece.sum(0, dtype=torch.float64)
                pieces[name] = self._parts(piece)
            for a, b in PAIRS:
                product = self._product(pieces[a], pieces[b])
                second[a, b] = second[a, b].add_(product) if (a, b) in second else product.double()
        rest = {name: total / n for name, total in sums.items()}
        origin = {name: s.double() if self.shifted else 0.0 for name, s in shift.items()}
        return Moments(
            n,
            frozenset([str(id(rows))]),
            {name: origin[name] + rest[name] for name in rows},
            {(a, b): torch.addr(s, rest[a] * -n, rest[b]) for (a, b), s in second.items()},
        )

    def _shift(self, values: torch.Tensor) -> torch.Tensor:
        mean = values[: self.block].double().mean(0)
        return mean if self.split else mean.to(self.dtype)

    def _parts(self, piece: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not self.split:
            return (piece,)
        high = piece.to(self.dtype)
        return high, (piece - high).to(self.dtype)

    @staticmethod
    def _product(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> torch.Tensor:
        high = a[0].T @ b[0]
        if len(a) == 1:
            return high
        return high.double() + (a[0].T @ b[1]).double() + (a[1].T @ b[0]).double()


class Reference:
    """The package's own accumulator."""

    name = "float64 after a shift (ours)"

    def moments(self, rows: Rows) -> Moments:
        """The moments of one fold."""
        return ours(rows, UNIT)


def ours(rows: Rows, block: int) -> Moments:
    """One accumulator, some rows at a time."""
    accumulator = Accumulator(PAIRS)
    for start in range(0, len(rows["x"]), block):
        part = {name: values[start : start + block] for name, values in rows.items()}
        accumulator.add(part, f"{id(rows)}/{start}")
    return accumulator.freeze()


F32, F64 = torch.float32, torch.float64
REFERENCE = Reference()
WAYS = (
    Way("float64, no shift", UNIT, F64, shifted=False),
    Way("float32, 4096 rows, no shift", 4096, F32, shifted=False),
    Way("float32, 256 rows, no shift", 256, F32, shifted=False),
    Way("float32, 256 rows, shift", 256, F32, shifted=True),
    Way("float32, 32 rows, shift", 32, F32, shifted=True),
    Way("2 × float32, 4096 rows, shift", 4096, F32, shifted=True, split=True),
    Way("2 × float32, 256 rows, shift", 256, F32, shifted=True, split=True),
)


@dataclass(frozen=True)
class Outcome:
    """What the solver makes of some moments.

    Attributes:
        second: S_xx over all rows.
        weight: at the λ of the reference; chosen: at its own λ; bare: without one.
        number: of its own λ in the grid. floor: least over largest eigenvalue of S_xx.
    """

    second: torch.Tensor
    weight: torch.Tensor
    chosen: torch.Tensor
    bare: torch.Tensor
    ridge: float
    number: int
    r2: float
    rank: int
    floor: float

    @classmethod
    def of(cls, folds: list[Moments], ridge: float | None = None) -> Outcome:
        """`ridge`: that of the reference; None for the reference itself."""
        fit = SourceFit(folds, "x").fit(folds, "y")
        total = merge_all(folds)
        ratio = torch.tensor(fit.metrics.ridge_relative, dtype=F64)
        values = torch.linalg.eigvalsh(total.second["x", "x"])
        return cls(
            total.second["x", "x"],
            weight_at(total, fit.metrics.ridge if ridge is None else ridge),
            fit.map.weight,
            weight_at(total, 0.0),
            fit.metrics.ridge,
            int((RIDGE_RATIOS / ratio).log().abs().argmin()),
            fit.metrics.r2,
            fit.metrics.rank,
            float(values[0] / values[-1]),
        )


def weight_at(total: Moments, ridge: float) -> torch.Tensor:
    """The ridge weights of some moments."""
    spectrum = Spectrum.of(total, "x", centred=True)
    B = spectrum.project(total, ("x", "y"))
    return spectrum.V @ solution(AFFINE, spectrum.w, B, Choice(ridge, relative=False))


def off(value: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative error, Frobenius."""
    return float((value - truth).norm() / truth.norm())


# --- data -----------------------------------------------------------------------------------------


def constructed() -> Iterator[Data]:
    """Data with one difficulty each; what is hard about real activations, without the models."""
    rng = np.random.default_rng(0)
    n, d = 8192, 256
    # Directions of falling variance, mixed, about a mean that is large: like a residual stream.
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = 10 * (rng.normal(size=(n, d)) / np.arange(1, d + 1)) @ basis
    y = x @ rng.normal(size=(d, d)) / 4 + 0.3 * rng.normal(size=(n, d))
    x, y = (values + 5 * rng.normal(size=d) for values in (x, y))
    fold = torch.arange(n) // 64 % FOLDS
    massive = rng.choice(n, round(0.002 * n), replace=False)
    tall = 1 + 0.01 * rng.normal(size=(len(massive), 1))
    tall_x, tall_y = x.copy(), y.copy()
    for values in (tall_x, tall_y):  # along one direction, in which all columns take part
        values[massive] += 2_000 * tall * rng.normal(size=d)

    def data(name: str, x: np.ndarray, y: np.ndarray, dtype: torch.dtype) -> Data:
        return Data(name, torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype), fold)

    whole = data("constructed, 0.2 % massive rows kept", tall_x, tall_y, torch.bfloat16)
    kept = torch.ones(n, dtype=torch.bool)
    kept[torch.from_numpy(massive)] = False
    yield whole
    yield whole.where(kept, "constructed, massive rows dropped")
    yield data("constructed, offsets of 1e6, stored as float32", x + 1e6, y + 1e6, F32)
    doubled = np.hstack([x[:, : d - 33], x[:, :32], np.full((n, 1), 3.0)])
    yield data("constructed, 32 columns twice and a constant one", doubled, y, torch.bfloat16)


def of_run(out: Path) -> Iterator[Data]:
    """The stored activations of a run between its two deepest pairs of layers, without the
    attention sinks of any wanted layer; for one pair also with them."""
    folder = RunFolder.open(out)
    stores = [ActivationStore.open(folder.store_url(side)) for side in Side]
    index = RowIndex.open(folder.rows)
    groups = index.groups()
    fold = torch.zeros(index.rows, dtype=torch.int64)
    for segment in index.all_segments():
        last = segment.first_row + len(segment.char_ends)
        fold[segment.first_row : last] = fold_of(groups[segment.document], FOLDS)
    sink = np.zeros(index.rows, dtype=bool)
    for store in stores:
        for layer in store.layers:
            norms = np.concatenate([store.norms(layer, u) for u in range(store.units)])
            sink |= norms > 10 * np.median(norms)
    kept = ~torch.from_numpy(sink)
    deepest = zip(*(sorted(store.layers)[-2:] for store in stores), strict=False)
    for number, layers in enumerate(deepest):
        x, y = (
            torch.cat([store.states(layer, unit) for unit in range(store.units)])
            for store, layer in zip(stores, layers, strict=True)
        )
        whole = Data(f"real, {layers[0]} → {layers[1]}, sinks kept", x, y, fold, real=True)
        yield whole.where(kept, f"real, {layers[0]} → {layers[1]}, {sink.sum()} sinks dropped")
        if number == 0:
            yield whole


# --- measurements ---------------------------------------------------------------------------------


def seconds(run: Callable[[], object]) -> float:
    """Of processor time: others are at work on this machine."""
    start = time.process_time()
    run()
    return time.process_time() - start


def _all_moments(way: Way | Reference, folds: list[Rows]) -> list[Moments]:
    return [way.moments(rows) for rows in folds]


def relative_times(data: Data) -> dict[str, float]:
    """Of each way over the reference in the same round, the median of several; one thread."""
    folds = data.folds()
    ratios: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for _ in range(ROUNDS):
        base = seconds(partial(_all_moments, REFERENCE, folds))
        for way in WAYS:
            spent = seconds(partial(_all_moments, way, folds))
            ratios[way.name].append(spent / base)
    return {name: median(measured) for name, measured in ratios.items()}


def compare(data: Data) -> dict[str, tuple[float, float]]:
    """Print the table of one data set; returns `{way: (error of W, relative time)}`."""
    folds = data.folds()
    truth = Outcome.of([REFERENCE.moments(rows) for rows in folds])
    times = relative_times(data)
    print(f"\n### {data.name}\n")
    print(
        f"{len(data.x)} rows, {data.x.shape[1]} → {data.y.shape[1]}, stored as "
        f"{str(data.x.dtype).removeprefix('torch.')}; rank {truth.rank}, least over largest "
        f"eigenvalue {truth.floor:.0e}, λ = {truth.ridge:.3g} (number {truth.number} of the grid), "
        f"R² {truth.r2:.4f}\n"
    )
    print("| products | S_xx | W, same λ | W, own λ | W, λ = 0 | λ | R² | least | time |")
    print("|---|---|---|---|---|---|---|---|---|")
    outcomes = {}
    for way in WAYS:
        outcome = Outcome.of([way.moments(rows) for rows in folds], truth.ridge)
        wrong = off(outcome.weight, truth.weight)
        outcomes[way.name] = wrong, times[way.name]
        shift = outcome.number - truth.number
        moved = f"{shift:+d}" if shift else "same"
        print(
            f"| {way.name} | {off(outcome.second, truth.second):.0e} | {wrong:.0e} "
            f"| {off(outcome.chosen, truth.chosen):.0e} | {off(outcome.bare, truth.bare):.0e} "
            f"| {moved} | {abs(outcome.r2 - truth.r2):.0e} | {outcome.floor:.0e} "
            f"| {times[way.name]:.2f} |"
        )
    return outcomes


def exact(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The centred second moment in whole numbers, rounded once: a float is one, times 2^-149."""
    a, b = (
        np.array([[int(v * 2.0**149) for v in row] for row in values.double().tolist()], object)
        for values in (x, y)
    )
    n = len(a)
    whole = n * (a.T @ b) - np.outer(a.sum(0), b.sum(0))
    rounded = [[value / (n * 2**298) for value in row] for row in whole]
    return torch.tensor(rounded, dtype=F64)


def against_exact(data: Data, columns: int = 8) -> None:
    """Our S against whole numbers, on some columns of all rows, those of most variance among
    them."""
    x, y = (_some(values, columns) for values in (data.x, data.y))
    rows = {"x": x, "y": y, CONTROL: y}
    total = ours(rows, UNIT)
    for pair, (a, b) in {("x", "x"): (x, x), ("x", "y"): (x, y)}.items():
        true = exact(a, b)
        scale = torch.outer(exact(a, a).diagonal().sqrt(), exact(b, b).diagonal().sqrt())
        worst = float(((total.second[pair] - true).abs() / scale.clamp_min(1e-300)).max())
        print(f"| {data.name} | S_{pair[0]}{pair[1]} | {worst:.0e} |")


def _some(values: torch.Tensor, columns: int) -> torch.Tensor:
    order = values.double().var(0).argsort(descending=True)
    return values[:, order[torch.linspace(0, len(order) - 1, columns).long()]]


def stability(data: Data) -> None:
    """What float64 itself leaves open: pieces, order of merging, threads."""
    folds = data.folds()
    whole = [ours(rows, UNIT) for rows in folds]
    base = merge_all(whole)
    ridge = SourceFit(whole, "x").fit(whole, "y").metrics.ridge
    weight = weight_at(base, ridge)

    def units(block: int) -> list[Moments]:
        return [
            moments_of({k: v[a : a + block] for k, v in rows.items()}, PAIRS, f"{fold}/{a}")
            for fold, rows in enumerate(folds)
            for a in range(0, len(rows["x"]), block)
        ]

    def tree(parts: list[Moments]) -> Moments:
        while len(parts) > 1:
            parts = [merge_all(parts[i : i + 2]) for i in range(0, len(parts), 2)]
        return parts[0]

    def threads(count: int) -> Moments:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return merge_all([ours(rows, UNIT) for rows in folds])
        finally:
            torch.set_num_threads(before)

    cases: dict[str, Callable[[], Moments]] = {
        "the same once more": lambda: threads(1),
        "two BLAS threads": lambda: threads(2),
        "4096 rows at a time": lambda: merge_all(ours(rows, 4096) for rows in folds),
        "37 rows at a time": lambda: merge_all(ours(rows, 37) for rows in folds),
        "folds merged backwards": lambda: merge_all(whole[::-1]),
        "units of 256 rows, merged in one sum": lambda: merge_all(units(256)),
        "units of 256 rows, merged in a tree": lambda: tree(units(256)),
        "the same tree, units backwards": lambda: tree(units(256)[::-1]),
    }
    print(f"\n### What float64 leaves open ({data.name})\n")
    print("| change | same bits of S_xx | S_xx | W |\n|---|---|---|---|")
    for name, run in cases.items():
        total = run()
        mine, theirs = total.second["x", "x"], base.second["x", "x"]
        same = "yes" if torch.equal(mine, theirs) else "no"
        wrong = off(weight_at(total, ridge), weight)
        print(f"| {name} | {same} | {off(mine, theirs):.0e} | {wrong:.0e} |")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.numerics", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="output directory of a run")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    sets = [*constructed(), *(of_run(out) if out else ())]
    print(f"torch {torch.__version__}; errors are relative to float64 unless they are of R²")
    results = {data.name: compare(data) for data in sets}

    print("\n### float64 against whole numbers, 8 × 8 columns\n")
    print("| data | | worst error over √(S_aa S_bb) |\n|---|---|---|")
    chosen = [data for data in sets if not data.real or "kept" in data.name]
    for data in chosen:
        against_exact(data)
    stability(next((data for data in sets if data.real), sets[1]))

    deciding = [data.name for data in sets if data.real]
    print(f"\n### Verdict: W within {WANTED_ERROR:.0e} on all real data, and faster?\n")
    if not deciding:
        print("No real data; give the output directory of a run.")
        return
    print("| products | worst W | worst W, constructed | time (least to most) | |")
    print("|---|---|---|---|---|")
    for way in WAYS:
        by_data = {data.name: results[data.name][way.name] for data in sets}
        wrong = max(by_data[name][0] for name in deciding)
        other = max(by_data[data.name][0] for data in sets if not data.real)
        times = [by_data[name][1] for name in deciding]
        passed = wrong < WANTED_ERROR and max(times) < 1
        print(
            f"| {way.name} | {wrong:.0e} | {other:.0e} | {median(times):.2f} ({min(times):.2f} to "
            f"{max(times):.2f}) | {'passes' if passed else 'no'} |"
        )


if __name__ == "__main__":
    main()
