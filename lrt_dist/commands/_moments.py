"""Moments of a run: of every wanted pair of layers, per fold, over all its units.

They lie in `OUT/moments/{fingerprint}/`, one file for each finished tile of the grid. A tile in the
making is a folder with the nodes of its tree of merges: a killed fit goes on from them.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrt_dist.config import differing_keys, fingerprint_of
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError, UserError
from lrt_dist.files import atomic_write
from lrt_dist.linear.moments import Pair
from lrt_dist.plan.cost import NUMBER_BYTES, accumulate_bytes, cores_of_task
from lrt_dist.plan.tiles import Tile, plan_leaves, plan_tiles, standing_nodes
from lrt_dist.runtime.contract import Needs, Node
from lrt_dist.sites import Side, Sided, fold_of
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger, UnitRecord
from lrt_dist.store.moments import MomentFile
from lrt_dist.store.tables import LayerRow, Table
from lrt_dist.tasks.accumulate import (
    LEFT_OUT,
    ROWS_PER_PRODUCT,
    AccumulateTask,
    accumulate,
    merge,
    node_of,
    node_path,
    tile_moments,
)
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.run import Run

Records = dict[int, Sided[UnitRecord]]


@dataclass(frozen=True)
class RunMoments:
    """Where the moments of one run lie, and of what they are.

    Attributes:
        fingerprint: changes with whatever they depend on.
        files: one for each tile.
        rows: of the units, before any row was left out.
        documents: of the row index.
    """

    fingerprint: str
    files: tuple[Path, ...]
    rows: int
    documents: int


def moments(run: Run, records: Records, fingerprint: str) -> RunMoments:
    """Accumulate what is missing.

    Args:
        records: of the run's `fitted_units`.
        fingerprint: their `moments_fingerprint`.

    Raises:
        UserError: a fold without documents, or a tile that no node has room for.
    """
    folder = run.folder.moments / fingerprint
    index = RowIndex.open(run.folder.rows)
    tiles = {folder / f"{_name(tile)}.safetensors": tile for tile in run_tiles(run)}
    missing = {path: tile for path, tile in tiles.items() if not path.exists()}
    folds_path = folder / "folds.npy"
    if missing:
        _sweep(run.folder.moments, folder, tiles)
    if not (folds_path.exists() and (folder / "layers.parquet").exists()):
        _assign_folds(run, index, records, folds_path)
    if missing:
        _accumulate(run, index, records, folds_path, missing, len(tiles) - len(missing))
    rows = sum(len(index.unit_rows(unit)) for unit in records)
    return RunMoments(fingerprint, tuple(tiles), rows, index.documents)


def delete_moments(run: Run) -> None:
    """Delete the moments of a run; a kill in between leaves nothing that looks whole."""
    deleted = run.folder.moments.with_name(".moments-deleted")
    shutil.rmtree(deleted, ignore_errors=True)
    run.folder.moments.rename(deleted)
    shutil.rmtree(deleted)


def moments_of_others(run: Run) -> list[RunMoments]:
    """The moments of the runs that `fit.moments_of` names.

    Raises:
        UserError: a run whose moments cannot be added to this one's, and why.
    """
    if not run.config.fit.moments_of:
        return []  # digests of a corpus mean reading all of it
    moments = []
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
        fingerprint = moments_fingerprint(folder, records)
        kept = folder.moments / fingerprint
        files = tuple(sorted(kept.glob("*.safetensors")))
        held = {pair for path in files for pair in MomentFile(path).pairs}
        absent = [pair for pair in wanted if pair not in held]
        if absent:
            raise UserError(
                f"fit.moments_of: {out} has no moments of {' and '.join(absent[0])} ({len(absent)} "
                "such pairs); run `lrt-dist fit` there for the same pairs, with fit.keep_moments"
            )
        rows = sum(len(index.unit_rows(unit)) for unit in records)
        moments.append(RunMoments(fingerprint, files, rows, index.documents))
    return moments


def moments_fingerprint(folder: RunFolder, records: Records) -> str:
    """Of everything that the moments depend on, beside which of them are wanted."""
    config = folder.config.fit
    return fingerprint_of(
        {
            "stores": [Ledger(folder.ledger_url(side)).identity() for side in Side],
            "folds": config.folds,
            "exclude_norm_above": config.exclude_norm_above,
            "units": sorted(records),
        }
    )


def run_tiles(run: Run) -> list[Tile]:
    """The tiles of a run's grid."""
    config = run.config.fit
    return plan_tiles(run.pairs, run.widths, config.folds, int(config.tile_bytes), run.joint)


def wanted_pairs(run: Run) -> list[Pair]:
    """The second moments that the fits of a run need."""
    return [pair for tile in run_tiles(run) for pair in tile_moments(tile)]


def tile_needs(run: Run, tile: Tile) -> Needs:
    """What a task of a tile needs."""
    config = run.config
    return Needs(
        cpus=cores_of_task(max(run.widths), max(run.runtime.node_cpus)),
        memory=accumulate_bytes(
            tile.bytes(run.widths, config.fit.folds),
            tile.numbers_read(run.widths),
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
    source, target = (Ledger(folder.ledger_url(side)).committed() for side in Side)
    units = {u: Sided(source[u], target[u]) for u in sorted(source.keys() & target.keys())}
    if not units:
        raise LrtError("every unit was quarantined: there is nothing to fit; see `lrt-dist status`")
    return units


def median_norms(run: Run, side: Side, units: Collection[int]) -> dict[int, float]:
    """Median norm of the hidden states of each layer of one model, over all rows of some units."""
    return {layer: float(np.median(norms)) for layer, norms in _norms(run, side, units)}


def _norms(
    run: Run, side: Side, units: Collection[int]
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
    # The mismatched unit of a unit lies half a corpus away, where other documents are.
    distance = len(units) // 2
    mismatched_unit = {unit: units[(i + distance) % len(units)] for i, unit in enumerate(units)}

    def task(tile: Tile, leaf: tuple[int, ...], path: Path) -> AccumulateTask:
        mismatched_units = tuple(mismatched_unit[unit] for unit in leaf)
        return AccumulateTask(
            tile=tile,
            units=leaf,
            mismatched_units=mismatched_units,
            index_digest=index.digest,
            folds_path=folds_path,
            stores=Sided.of(run.folder.store_url),
            checksums={
                u: Sided(records[u].source.checksums, records[u].target.checksums)
                for u in {*leaf, *mismatched_units}
            },
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
                Node(level, task(tile, units_of_leaves[0], node_path(folder, level, number)))
                for (level, number), units_of_leaves in zip(nodes, covered, strict=True)
            ]
        )
    needs = max((tile_needs(run, tile) for tile in tiles.values()), key=lambda n: n.memory)
    with run.progress.phase("moments", len(leaves) * (finished + len(tiles)), "leaves") as bar:
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
    for side in Side:
        for _, norms in _norms(run, side, records):
            massive = norms > np.float32(factor * float(np.median(norms)))
            fold_R[rows[massive]] = LEFT_OUT
    empty = sorted(set(range(folds)) - set(fold_R.tolist()))
    if empty and not run.config.fit.moments_of:
        raise UserError(
            f"fold {empty[0]} of {folds} got no document ({index.documents} documents are spread "
            "by a hash of their names); lower fit.folds or use more documents"
        )
    _write_layers(run, records, fold_R[rows] == LEFT_OUT, path.parent)
    with atomic_write(path) as partial, partial.open("wb") as stream:
        np.save(stream, fold_R)


def _write_layers(run: Run, records: Records, left_out: NDArray[np.bool_], folder: Path) -> None:
    """Facts of every layer.

    Args:
        left_out: bool, for the rows of all units one after the other.
    """
    rows = []
    for side in Side:
        for layer, norms in _norms(run, side, records):
            squares = norms.astype(np.float64) ** 2
            whole = float(squares.sum())
            rows.append(
                LayerRow(
                    side=side,
                    layer=layer,
                    median_norm=float(np.median(norms)),
                    left_out_share=float(squares[left_out].sum()) / whole if whole else 0.0,
                )
            )
    Table.of(LayerRow, rows).save(folder / "layers.parquet", folder.name)


def layer_facts(run: Run, fingerprint: str) -> dict[tuple[Side, int], LayerRow]:
    """Facts of every layer, by side and block index, that `moments` left behind."""
    rows = Table.read(run.folder.moments / fingerprint / "layers.parquet", LayerRow)
    return {(Side(row.side), row.layer): row for row in rows}


def _check_addable(run: Run, other: RunFolder) -> None:
    """Whether hidden states of another run are of the same models, made in the same way."""

    def states(folder: RunFolder) -> dict[str, Any]:
        config = folder.config.dump()
        shared = ("weights", "compute_dtype", "store_dtype")
        facts: dict[str, Any] = {
            "sites": config["sites"],
            "fit": {key: config["fit"][key] for key in ("folds", "exclude_norm_above")},
        }
        for side in Side:
            identity = Ledger(folder.ledger_url(side)).identity() or {}
            facts[side] = {key: identity.get(key) for key in shared}
        return facts

    differing = differing_keys(states(run.folder), states(other))
    if differing:
        raise UserError(
            f"fit.moments_of: {other.out} cannot be added to this run:\n  " + "\n  ".join(differing)
        )


def _name(tile: Tile) -> str:
    """A tile's file name: of what it holds, not of its number in a plan."""
    return fingerprint_of({"moments": [list(pair) for pair in tile_moments(tile)]})


def _sweep(root: Path, keep: Path, tiles: Collection[Path]) -> None:
    """Delete moments that this run has no use for: of other settings, or of another grid."""
    keep.mkdir(parents=True, exist_ok=True)
    wanted = {path.with_suffix("") for path in tiles} | set(tiles)
    wanted |= {keep / "folds.npy", keep / "layers.parquet"}
    for path in [*root.iterdir(), *keep.iterdir()]:
        if path != keep and path not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
