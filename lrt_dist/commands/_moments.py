"""Moments of a run: of every wanted pair of layers, per fold, over all its units.

They lie in `OUT/moments/{fingerprint}/`, one file for each finished tile of the grid. A tile in the
making is a folder with the nodes of its tree of merges, or, where there are many tiles, a file of
what was kept of it: a killed fit goes on from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrt_dist.commands._by_leaves import accumulate_by_leaves
from lrt_dist.commands._read_once import read_once
from lrt_dist.commands._rows import LAYERS, Records, write_row_facts
from lrt_dist.commands._tiles import run_tiles, tile_path, wanted_pairs
from lrt_dist.config import differing_keys, fingerprint_of
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError, UserError
from lrt_dist.files import delete_tree, place, sweep
from lrt_dist.plan.tiles import MANY_TILES
from lrt_dist.sites import Side, Sided
from lrt_dist.store.ledger import Ledger
from lrt_dist.store.moments import MomentFile
from lrt_dist.tasks.accumulate import KEPT, kept_path
from lrt_dist.tasks.blocks import FOLDS, GROUPS
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.run import Run


@dataclass(frozen=True)
class RunMoments:
    """Where the moments of one run lie, and of what they are.

    Attributes:
        fingerprint: changes with whatever they depend on.
        folder: where they lie, with facts of rows and layers.
        files: one for each tile.
        documents: of the row index.
    """

    fingerprint: str
    folder: Path
    files: tuple[Path, ...]
    documents: int


def moments(run: Run, records: Records, fingerprint: str) -> RunMoments:
    """Accumulate what is missing from both stores.

    Args:
        records: of the run's `fitted_units`.
        fingerprint: their `moments_fingerprint`.

    Raises:
        UserError: a fold without documents, rows of one document alone, or a tile that no node has
            room for; or nothing is stored, and moments of another fit were extracted.
    """
    folder = run.folder.moments / fingerprint
    index = RowIndex.open(run.folder.rows)
    tiles = {tile_path(folder, tile): tile for tile in run_tiles(run)}
    missing = {path: tile for path, tile in tiles.items() if not path.exists()}
    if missing and run.config.extract.store == "none":
        raise UserError(
            "extract.store is none, and the moments that this fit wants were not extracted; undo "
            "the changes of fit.*, or use another --out"
        )
    if missing:
        _sweep(run.folder.moments, folder, tiles)
    write_row_facts(run, index, records, folder)
    many = len(tiles) >= MANY_TILES
    done = not missing or (many and read_once(run, index, records, folder, tiles))
    if not done:
        missing = {path: tile for path, tile in missing.items() if not path.exists()}
        accumulate_by_leaves(run, index, records, folder, missing, len(tiles) - len(missing))
    for path in folder.glob(f"*{KEPT}"):
        path.unlink()
    sweep(folder)  # processes that were lost may have been at a file
    return RunMoments(fingerprint, folder, tuple(tiles), index.documents)


def kept_moments(run: Run, records: Records) -> tuple[tuple[Path, ...], ...] | None:
    """Files of the moments that the maps were fitted to, for each run whose text counts; None where
    they were not kept."""
    folder = run.folder.moments / moments_fingerprint(run.folder, records)
    files = tuple(tile_path(folder, tile) for tile in run_tiles(run))
    if not all(path.exists() for path in files):
        return None
    return (files, *(moments.files for moments in moments_of_others(run)))


def delete_moments(run: Run) -> None:
    """Delete the moments of a run."""
    delete_tree(run.folder.moments)


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
        folder = RunFolder.open(place(out))
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
        moments.append(RunMoments(fingerprint, kept, files, index.documents))
    return moments


def moments_fingerprint(folder: RunFolder, records: Records) -> str:
    """Of everything that the moments depend on, beside which of them are wanted."""
    config = folder.config.fit
    return fingerprint_of(
        {
            "stores": [Ledger(folder.ledger_url(side)).identity() for side in Side],
            "folds": config.folds,
            "shrink_norm_above": config.shrink_norm_above,
            "units": sorted(records),
            "checksums": _checksums_digest(records),
        }
    )


def moments_identity(run: Run) -> dict[str, Any]:
    """Everything that moments depend on beside hidden states, and which of them are wanted."""
    config = run.config.fit
    return {
        "models": [run.facts[side].digest for side in Side],
        "pairs": [str(pair) for pair in run.pairs],
        "joint": [list(group) for group in run.joint],
        "folds": config.folds,
        "shrink_norm_above": config.shrink_norm_above,
        "mismatched_draws": config.mismatched_draws,
        "tile_bytes": int(config.tile_bytes),
    }


def fitted_units(folder: RunFolder) -> Records:
    """Units that are committed for both models, ascending, with both records.

    Raises:
        UserError: the row index is another one than that of the hidden states.
        LrtError: there is none.
    """
    digests = RowIndex.open(folder.rows).digests
    ledgers = Sided.of(lambda side: Ledger(folder.ledger_url(side)))
    for ledger, digest in zip(ledgers, digests, strict=True):
        made_of = ledger.identity().get("row_index", digest)
        if made_of != digest:
            raise UserError(
                f"{folder.rows} is the row index {digest}, but the hidden states of {ledger.url} "
                f"are those of {made_of}: rows would be paired wrongly; put the row index back, or "
                "use another --out"
            )
    source, target = (ledger.committed() for ledger in ledgers)
    units = {u: Sided(source[u], target[u]) for u in sorted(source.keys() & target.keys())}
    if not units:
        raise LrtError("every unit was quarantined: there is nothing to fit; see `lrt-dist status`")
    return units


def _checksums_digest(records: Records) -> str:
    """Units that were redone may have other bits: then moments are of other rows."""
    digest = hashlib.sha256()
    for both in records.values():
        for record in both:
            digest.update(repr(sorted(record.checksums.items())).encode())
    return digest.hexdigest()[:16]


def _check_addable(run: Run, other: RunFolder) -> None:
    """Whether hidden states of another run are of the same models, made in the same way."""

    def states(folder: RunFolder) -> dict[str, Any]:
        config = folder.config.dump()
        shared = ("weights", "compute_dtype", "store_dtype")
        facts: dict[str, Any] = {
            "sites": config["sites"],
            "fit": {key: config["fit"][key] for key in ("folds", "shrink_norm_above")},
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


def _sweep(root: Path, keep: Path, tiles: Collection[Path]) -> None:
    """Delete moments that this run has no use for: of other settings, or of another grid."""
    wanted = set(tiles) | {kept_path(path) for path in tiles}
    wanted |= {keep / name for name in (FOLDS, GROUPS, LAYERS)}
    if len(tiles) < MANY_TILES:
        wanted |= {path.with_suffix("") for path in tiles}  # with their leaves
    for folder in (root, keep):
        for path in folder.iterdir() if folder.exists() else ():
            if path != keep and path not in wanted:
                delete_tree(path) if path.is_dir() else path.unlink()
