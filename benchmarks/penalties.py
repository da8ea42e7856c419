"""`python -m benchmarks.penalties OUT`: would another penalty than one λ a map predict better?

From the moments of a finished run (`make demo` leaves one in `demo-run`): held-out R² of ridge
with one λ for a map, with one λ for each target dimension, and of ridge cut to a cross-validated
rank. All choices for a fold are made on the other folds, as in a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lrt_dist.linear.fit import RIDGE_RATIOS, SourceFit, pair_moments
from lrt_dist.linear.methods import AFFINE, FIT_METHODS, Choice, scale, solution
from lrt_dist.linear.moments import Moments, merge_all
from lrt_dist.linear.ridge import Spectrum, Split
from lrt_dist.store.moments import MomentFile, MomentFiles
from lrt_dist.workspace.folder import RunFolder


def by_dimension(folds: list[Moments], x: str, y: str) -> float:
    """Held-out R² with one λ for each target dimension."""
    errors, squares = [], []
    for held in range(len(folds)):
        train = merge_all(fold for index, fold in enumerate(folds) if index != held)
        spectrum = Spectrum.of(train, x, centred=True)
        split = Split.of(spectrum, train, folds[held])
        target = split.target(train, folds[held], (x, y))
        ridges = (RIDGE_RATIOS * scale(spectrum.w)).tolist()
        solved = (
            solution(AFFINE, target.w, target.B, Choice(ridge, relative=False)) for ridge in ridges
        )
        errors.append(torch.stack([target.errors(Z) for Z in solved]))  # [λ, d_y]
        squares.append(target.baseline)
    errors_FLD = torch.stack(errors)
    error = 0.0
    for held in range(len(folds)):
        others = [fold for fold in range(len(folds)) if fold != held]
        best_D = errors_FLD[others].sum(0).argmin(0)
        error += float(errors_FLD[held].gather(0, best_D.unsqueeze(0)).sum())
    return 1 - error / float(torch.stack(squares).sum())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.penalties", description=__doc__)
    parser.add_argument("out", type=Path, help="output directory of a run")
    folder = RunFolder.open(parser.parse_args().out)
    paths = sorted(folder.moments.glob("*/*.safetensors"))
    files = MomentFiles(paths)
    pairs = sorted(
        (x, y)
        for path in paths
        for x, y in MomentFile(path).pairs
        if x.startswith("source/") and y.startswith("target/") and "~" not in y
    )
    table = Table("layers", title="Held-out R²")
    for column in ("one λ a map", "one λ a dimension", "low rank", "rank"):
        table.add_column(column, justify="right")
    for x, y in pairs:
        wanted = [(x, x), (y, y), *pair_moments(x, y)]
        folds = [files.fold(number, wanted) for number in range(MomentFile(paths[0]).folds)]
        plain = SourceFit(folds, x).fit(folds, y).metrics
        low = SourceFit(folds, x, FIT_METHODS.find("low_rank")).fit(folds, y).metrics
        layers = f"{x.split('/')[1]} → {y.split('/')[1]}"
        cells = (f"{r2:.4f}" for r2 in (plain.r2, by_dimension(folds, x, y), low.r2))
        table.add_row(layers, *cells, str(low.map_rank))
    Console().print(table)


if __name__ == "__main__":
    main()
