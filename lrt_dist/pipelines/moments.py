"""Moments of a run: of every wanted pair of layers, per fold, over all its units.

They lie in `OUT/moments/{stamp}/`, one file for each finished tile of the grid. A tile in the
making is a folder with the nodes of its tree of merges: a killed fit goes on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lrt_dist.config import differing_keys, fingerprint
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError, UserError
from lrt_dist.files import written_whole
from lrt_dist.linear.moments import Pair
from lrt_dist.pipelines.folder import SIDES, RunFolder
from lrt_dist.pipelines.run import Run
from lrt_dist.plan.cost import NUMBER_BYTES, accumulate_bytes, cores_of_task
from lrt_dist.plan.tiles import Tile, plan_leaves, plan_tiles, standing_nodes
from lrt_dist.runtime.tasks import Needs, Node
from lrt_dist.sites import fold_of
from lrt_dist.stages.accumulate import (
    LEFT_OUT,
    ROWS_PER_PRODUCT,
    AccumulateTask,
    accumulate,
    merge,
    node_of,
    node_path,
    tile_moments,
)
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.artifacts import save_table
from lrt_dist.store.ledger import Ledger, UnitRecord
from lrt_dist.store.moments import MomentFile

Records = dict[int, tuple[UnitRecord, UnitRecord]]


@dataclass(frozen=True)
class RunMoments:
    """Where the moments of one run lie, and of what they are.

    Attributes:
        stamp: changes with whatever they depend on.
        files: one for each tile.
        rows, documents: of the units, before any row was left out.
        left_out: `{(side, layer): share of the sum of squared norms}` in the rows left out: what
            weight they would have had.
    """

    stamp: str
    files: tuple[Path, ...]
    rows: int
    documents: int
    left_out: dict[tuple[int, int], float]


def moments(run: Run, records: Records, stamp: str) -> RunMoments:
    """Accumulate what is missing.

    Args:
        records: of the run's `fitted_units`. stamp: their `moments_stamp`.

    Raises:
        UserError: a fold without documents, or a tile that no node has room for.
    """
    folder = run.folder.moments / stamp
    index = RowIndex.open(run.folder.rows)
    tiles = {folder / f"{_name(tile)}.safetensors": tile for tile in run_tiles(run)}
    missing = {path: tile for path, tile in tiles.items() if not path.exists()}
    if missing:
        _sweep(run.folder.moments, folder, tiles)
        folds_path = folder / "folds.npy"
        if not folds_path.exists():
            _assign_folds(run, index, records, folds_path)
        _accumulate(run, index, records, folds_path, missing, len(tiles) - len(missing))
    rows = sum(len(index.unit_rows(unit)) for unit in records)
    return RunMoments(stamp, tuple(tiles), rows, index.documents, _read_left_out(folder))


def moments_of_others(run: Run) -> list[RunMoments]:
    """The moments of the runs that `fit.moments_of` names.

    Raises:
        UserError: a run whose moments cannot be added to this one's, and why.
    """
    if not run.config.fit.moments_of:
        return []  # digests of a corpus mean reading all of it
    found = []
    wanted = wanted_pairs(run)
    seen = RowIndex.open(run.folder.rows).document_digests()
    for out in run.config.fit.moments_of:
        folder = RunFolder.open(Path(out))
        _check_addable(run, folder)
        index = RowIndex.open(folder.rows)
        added = index.document_digests()
        twice = [added[digest] for digest in added if digest in seen]
        if twice:
            raise UserError(
                f"fit.moments_of: {len(twice)} documents of {out} are in this run's corpus or in "
                f"another one's too, {min(twice)!r} first: they would count twice"
            )
        seen |= added
        records = fitted_units(folder)
        stamp = moments_stamp(folder, records)
        home = folder.moments / stamp
        files = tuple(sorted(home.glob("*.safetensors")))
        there = {pair for path in files for pair in MomentFile(path).pairs}
        absent = [pair for pair in wanted if pair not in there]
        if absent:
            raise UserError(
                f"fit.moments_of: {out} has no moments of {' and '.join(absent[0])} ({len(absent)} "
                "such pairs); run `lrt-dist fit` there for the same pairs, with fit.keep_moments"
            )
        rows = sum(len(index.unit_rows(unit)) for unit in records)
        found.append(RunMoments(stamp, files, rows, index.documents, _read_left_out(home)))
    return found


def moments_stamp(folder: RunFolder, records: Records) -> str:
    """Of everything that the moments depend on, beside which of them are wanted."""
    config = folder.config.fit
    return fingerprint(
        {
            "stores": [Ledger(folder.ledger_url(side)).identity() for side in (0, 1)],
            "folds": config.folds,
            "exclude_norm_above": config.exclude_norm_above,
            "units": sorted(records),
        }
    )


def run_tiles(run: Run) -> list[Tile]:
    """The tiles of a run's grid."""
    config = run.config.fit
    return plan_tiles(run.pairs, run.widths, config.folds, int(config.tile_bytes), run.together)


def wanted_pairs(run: Run) -> list[Pair]:
    """The second moments that the fits of a run need."""
    return [pair for tile in run_tiles(run) for pair in tile_moments(tile)]


def tile_needs(run: Run, tile: Tile) -> Needs:
    """What a task of a tile needs."""
    sources, targets = tile.layers
    numbers = len(sources) * run.widths[0] + 2 * len(targets) * run.widths[1]
    config = run.config
    return Needs(
        cpus=cores_of_task(max(run.widths), max(run.runtime.node_cpus)),
        memory=accumulate_bytes(
            tile.bytes(run.widths, config.fit.folds),
            numbers,
            max(config.extract.rows_per_unit, config.fit.folds * ROWS_PER_PRODUCT),
            NUMBER_BYTES[config.extract.store_dtype],
            config.fit.folds,
        ),
    )


def fitted_units(folder: RunFolder) -> Records:
    """Units that are committed for both models, ascending, with both records.

    Raises:
        LrtError: there is none.
    """
    source, target = (Ledger(folder.ledger_url(side)).committed() for side in (0, 1))
    units = {u: (source[u], target[u]) for u in sorted(source.keys() & target.keys())}
    if not units:
        raise LrtError("every unit was set aside: there is nothing to fit; see `lrt-dist status`")
    return units


def median_norms(run: Run, side: int, units: Collection[int]) -> dict[int, float]:
    """Median norm of the hidden states of each layer of one model, over all rows of some units."""
    return {layer: float(np.median(norms)) for layer, norms in _norms(run, side, units)}


def _norms(
    run: Run, side: int, units: Collection[int]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Norms of the rows of some units, one after the other, layer by layer."""
    store = ActivationStore.open(run.folder.store_url(side))
    for layer in run.layers[side]:
        yield layer, np.concatenate([store.norms(layer, store.unit_rows(u)) for u in units])


def _accumulate(
    run: Run,
    index: RowIndex,
    records: Records,
    folds_path: Path,
    tiles: dict[Path, Tile],
    finished: int,
) -> None:
    """Every missing tile: leaves, merged as they come; some tiles were finished before."""
    units = list(records)
    leaves = plan_leaves(units, index.rows_per_unit)
    # The null's partner of a unit lies half a corpus away, where other documents are.
    stranger = {unit: units[(i + len(units) // 2) % len(units)] for i, unit in enumerate(units)}

    def task(tile: Tile, leaf: tuple[int, ...], path: Path) -> AccumulateTask:
        strangers = tuple(stranger[unit] for unit in leaf)
        return AccumulateTask(
            tile=tile,
            units=leaf,
            strangers=strangers,
            corpus=index.content,
            folds_path=folds_path,
            stores=(run.folder.store_url(0), run.folder.store_url(1)),
            crcs={u: (records[u][0].crc, records[u][1].crc) for u in {*leaf, *strangers}},
            folds=run.config.fit.folds,
            path=path,
        )

    trees, done = [], finished * len(leaves)
    for path, tile in tiles.items():
        folder = path.with_suffix("")
        present = {node_of(file) for file in folder.glob("*.safetensors")}
        nodes = standing_nodes(present, len(leaves))
        for stale in present - set(nodes):  # merged by a task that was killed before it tidied up
            node_path(folder, *stale).unlink()
        covered = [leaves[number << level : (number + 1) << level] for level, number in nodes]
        done += sum(len(c) for node, c in zip(nodes, covered, strict=True) if node in present)
        trees.append(
            [
                Node(level, (task(tile, some[0], node_path(folder, level, number)),))
                for (level, number), some in zip(nodes, covered, strict=True)
            ]
        )
    needs = max((tile_needs(run, tile) for tile in tiles.values()), key=lambda n: n.memory)
    with run.reporter.stage("moments", len(leaves) * (finished + len(tiles)), "leaves") as bar:
        bar.resume(done)
        roots = run.runtime.reduce(accumulate, merge, trees, needs, bar.advance)
        for path, root in zip(tiles, roots, strict=True):
            root.rename(path)
            shutil.rmtree(root.parent)


def _assign_folds(run: Run, index: RowIndex, records: Records, path: Path) -> None:
    """Write the fold of every row of the corpus; rows of attention sinks are left out.

    Raises:
        UserError: a fold without a row.
    """
    folds = run.config.fit.folds
    fold_R = np.full(index.rows, LEFT_OUT, dtype=np.int16)
    for unit in records:
        segments = index.unit(unit)
        numbers = [fold_of(segment.document, folds) for segment in segments]
        counts = [len(segment.char_ends) for segment in segments]
        fold_R[index.unit_rows(unit)] = np.repeat(numbers, counts)
    factor = run.config.fit.exclude_norm_above or np.inf
    rows = np.concatenate([np.asarray(index.unit_rows(unit)) for unit in records])
    for side in (0, 1):
        for _, norms in _norms(run, side, records):
            far = norms > np.float32(factor * float(np.median(norms)))
            fold_R[rows[far]] = LEFT_OUT
    empty = sorted(set(range(folds)) - set(fold_R.tolist()))
    if empty and not run.config.fit.moments_of:
        raise UserError(
            f"fold {empty[0]} of {folds} got no document ({index.documents} documents are spread "
            "by a hash of their names); lower fit.folds or use more documents"
        )
    _write_left_out(run, records, fold_R[rows] == LEFT_OUT, path.parent)
    with written_whole(path) as partial, partial.open("wb") as stream:
        np.save(stream, fold_R)


def _write_left_out(run: Run, records: Records, left_out: NDArray[np.bool_], folder: Path) -> None:
    """`left_out`: bool, for the rows of all units one after the other."""
    lines = []
    for side in (0, 1):
        for layer, norms in _norms(run, side, records):
            squares = norms.astype(np.float64) ** 2
            whole = float(squares.sum())
            gone = float(squares[left_out].sum())
            lines.append({"side": side, "layer": layer, "share": gone / whole if whole else 0.0})
    save_table(folder / "left-out.parquet", lines, folder.name)


def _read_left_out(folder: Path) -> dict[tuple[int, int], float]:
    lines = pq.read_table(folder / "left-out.parquet").to_pylist()
    return {(line["side"], line["layer"]): line["share"] for line in lines}


def _check_addable(run: Run, other: RunFolder) -> None:
    """Whether hidden states of another run are of the same two places in the same way."""

    def said(folder: RunFolder) -> dict[str, Any]:
        config = folder.config.dump()
        shared = ("weights", "compute_dtype", "store_dtype")
        facts: dict[str, Any] = {
            "sites": config["sites"],
            "fit": {key: config["fit"][key] for key in ("folds", "exclude_norm_above")},
        }
        for side, name in enumerate(SIDES):
            identity = Ledger(folder.ledger_url(side)).identity() or {}
            facts[name] = {key: identity.get(key) for key in shared}
        return facts

    differing = differing_keys(said(run.folder), said(other))
    if differing:
        raise UserError(
            f"fit.moments_of: {other.out} cannot be added to this run:\n  " + "\n  ".join(differing)
        )


def _name(tile: Tile) -> str:
    """A tile's file name: of what it holds, not of its place in a plan."""
    return fingerprint({"moments": [list(pair) for pair in tile_moments(tile)]})


def _sweep(root: Path, keep: Path, tiles: Collection[Path]) -> None:
    """Delete moments that this run has no use for: of other settings, or of another grid."""
    keep.mkdir(parents=True, exist_ok=True)
    wanted = {path.with_suffix("") for path in tiles} | set(tiles)
    wanted |= {keep / "folds.npy", keep / "left-out.parquet"}
    for path in [*root.iterdir(), *keep.iterdir()]:
        if path != keep and path not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
