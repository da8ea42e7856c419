"""`python -m benchmarks.composition OUT`: are maps consistent with each other?

Takes the hidden states of a finished run (`make demo` leaves one in `demo-run`) at a source layer
A, a target layer B and another source layer C, fits maps on four fifths of the documents, and
compares on the others: A→B→C with A→C, the fitted way back with the inverse, and A and C together
with each alone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import lrt_dist
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.sites import Side, fold_of
from lrt_dist.store.activations import ActivationStore
from lrt_dist.workspace.folder import RunFolder

FOLDS = 5
FAR = 10.0
"""States whose norm exceeds so many layer medians are attention sinks, and scaled down to one."""


def read(out: Path, ends: dict[str, tuple[Side, int]]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """States at some (side, layer), `{name: float64 [n, d]}`, and the document of each row."""
    folder = RunFolder.open(out)
    index = RowIndex.open(folder.rows)
    groups = index.groups()
    documents = [groups[s.document] for s in index.all_segments() for _ in s.char_ends]
    states = {}
    for name, (side, layer) in ends.items():
        store = ActivationStore.open(folder.store_url(side))
        norms = np.concatenate([store.norms(layer, u) for u in range(store.units)]).astype(
            np.float64
        )
        median = np.median(norms)
        factors = torch.from_numpy(np.where(norms > FAR * median, median / norms, 1.0))
        whole = torch.cat([store.states(layer, unit) for unit in range(store.units)])
        states[name] = whole.double() * factors.unsqueeze(1)
    return states, documents


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composition", description=__doc__)
    parser.add_argument("out", type=Path, help="output directory of a run")
    parser.add_argument("--layers", type=int, nargs=3, metavar=("A", "B", "C"), default=(15, 9, 21))
    options = parser.parse_args()
    a, b, c = options.layers
    states, documents = read(
        options.out, {"A": (Side.SOURCE, a), "B": (Side.TARGET, b), "C": (Side.SOURCE, c)}
    )
    held = torch.tensor([fold_of(document, FOLDS) == 0 for document in documents])
    groups = [document for document, test in zip(documents, held.tolist(), strict=True) if not test]
    train = {name: rows[~held] for name, rows in states.items()}
    test = {name: rows[held] for name, rows in states.items()}

    def fit(x: str, y: str) -> lrt_dist.Fit:
        fitted = lrt_dist.fit(train[x], train[y], groups=groups)
        ends: dict[str, Any] = {"source": (x, 0), "target": (y, 0)}
        return replace(
            fitted,
            map=replace(fitted.map, **ends),
            mismatched=tuple(replace(control, **ends) for control in fitted.mismatched),
        )

    for rows in (train, test):
        rows["A + C"] = torch.cat([rows["A"], rows["C"]], 1)
    fits = {f"{x}→{y}": fit(x, y) for x, y in ("AB", "BA", "AC", "BC", "CB")}
    fits["A + C→B"] = fit("A + C", "B")
    maps = {name: fitted.map for name, fitted in fits.items()}
    maps["A→B→C"] = maps["A→B"].then(maps["B→C"])
    maps["A→B→A"] = maps["A→B"].then(maps["B→A"])
    maps["B→A by the inverse of A→B"] = maps["A→B"].inverse()
    maps["A→B→A by the inverse of A→B"] = maps["A→B"].then(maps["A→B"].inverse())
    table = Table(title=f"A = source layer {a}, B = target layer {b}, C = source layer {c}")
    table.add_column("map")
    for column in ("held-out R²", "of mismatched rows"):
        table.add_column(column, justify="right")
    for name, affine in maps.items():
        x, y = test[affine.source[0]], test[affine.target[0]]
        control = f"{fits[name].mismatched[0].r2(x, y):.3f}" if name in fits else ""
        table.add_row(name, f"{affine.r2(x, y):.3f}", control)
    console = Console()
    console.print(table)
    console.print(f"{int((~held).sum()):,} rows to fit on, {int(held.sum()):,} of other documents")


if __name__ == "__main__":
    main()
