"""What a fit knows of every row and layer before it reads a state: folds, groups, norms.

It lies beside the moments: `folds.npy`, `groups.npy` and `layers.parquet`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrt_dist.commands.index import one_group_message
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.files import atomic_write
from lrt_dist.plan.pairing import partner_units, shuffled
from lrt_dist.plan.tiles import plan_blocks
from lrt_dist.sites import Side, Sided, fold_of
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import UnitRecord
from lrt_dist.store.tables import LayerRow, Table
from lrt_dist.tasks.accumulate import ROWS_PER_PRODUCT
from lrt_dist.tasks.blocks import (
    FOLDS,
    GROUPS,
    LEFT_OUT,
    Block,
    RowFacts,
    Rows,
    is_massive,
    load_row_facts,
)
from lrt_dist.workspace.run import Run

LAYERS = "layers.parquet"
USUAL_ROWS = 32_768
"""Rows of whose norms the usual one is the median, about: its error is half a percent then."""
Records = dict[int, Sided[UnitRecord]]
"""What the ledgers of both models say of units, ascending."""
LayerFacts = dict[tuple[Side, int], LayerRow]
"""Facts of every layer, by side and block index."""


def write_row_facts(run: Run, index: RowIndex, records: Records, folder: Path) -> None:
    """Write all three files, unless they exist.

    Args:
        records: of the units that were extracted for both models.

    Raises:
        UserError: a fold without a row, or rows of one document alone.
        CorruptionError: norms are not what was committed.
    """
    if all((folder / name).exists() for name in (FOLDS, GROUPS, LAYERS)):
        return
    write_groups(run, index, records, folder)
    layers = []
    above = run.config.fit.shrink_norm_above
    some = {unit: records[unit] for unit in usual_units(index, shuffled(records, index.digest))}
    for side in Side:
        usual_norms = median_norms(run, side, some)
        for layer, norms in layer_norms(run, side, records):
            usual = usual_norms[layer]
            massive = is_massive(norms, above, usual) if above and usual else norms < 0
            squares = norms.astype(np.float64) ** 2
            whole = float(squares.sum())
            layers.append(
                LayerRow(
                    side=side,
                    layer=layer,
                    median_norm=_median(norms),
                    usual_norm=usual,
                    shrunk=int(massive.sum()),
                    shrunk_share=float(squares[massive].sum()) / whole if whole else 0.0,
                )
            )
    Table.of(LayerRow, layers).save(folder / LAYERS, folder.name)


def usual_units(index: RowIndex, units: Iterable[int]) -> list[int]:
    """Those of some units whose norms say what is usual: the first, about `USUAL_ROWS` rows. (Not
    all: what is taken in while it is extracted needs to know early.)

    Args:
        units: in the fit's random order.
    """
    return list(itertools.islice(units, -(-USUAL_ROWS // index.rows_per_unit)))


def row_facts(
    run: Run, index: RowIndex, folder: Path, blocks: int, usual_norms: Sided[dict[int, float]]
) -> RowFacts:
    """What whoever takes blocks in must know of their rows.

    Args:
        folder: with what `write_groups` wrote.
        blocks: of the whole run.
        usual_norms: `{layer: norm}` of each model; see `usual_units`.
    """
    return RowFacts(
        folder=folder,
        rows_per_unit=index.rows_per_unit,
        index_digest=index.digest,
        own_share=1 / blocks,
        shrink_above=run.config.fit.shrink_norm_above,
        usual_norms=usual_norms,
    )


def median_norms(run: Run, side: Side, records: Records) -> dict[int, float]:
    """Median norm of the hidden states of each layer of one model, over all rows of some units.

    Raises:
        CorruptionError: norms are not what was committed.
    """
    return {layer: _median(norms) for layer, norms in layer_norms(run, side, records)}


def _median(norms: NDArray[np.float32]) -> float:
    """Of the norms of some rows; 0 of none."""
    return float(np.median(norms)) if len(norms) else 0.0


def layer_norms(
    run: Run, side: Side, records: Records
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Norms of the rows of some units, one after the other, layer by layer; without rows that one
    of the models does not have.

    Raises:
        CorruptionError: they are not what was committed.
    """
    store = ActivationStore.open(run.folder.store_url(side))
    index = RowIndex.open(run.folder.rows)
    present = index.present_rows()[_rows_of(index, records)]
    for layer in run.layers[side]:
        name = f"norms/{layer}"
        norms = np.concatenate(
            [store.norms(layer, u, both[side].checksums[name]) for u, both in records.items()]
        )
        yield layer, norms[present]


def _rows_of(index: RowIndex, units: Collection[int]) -> Rows:
    """The rows of some units, one after the other."""
    return np.concatenate([np.asarray(index.unit_rows(unit)) for unit in units])


def layer_facts(folder: Path) -> LayerFacts:
    """Facts of every layer, by side and block index, that lie beside the moments of a run."""
    return {(Side(row.side), row.layer): row for row in Table.read(folder / LAYERS, LayerRow)}


def write_groups(run: Run, index: RowIndex, units: Collection[int], folder: Path) -> None:
    """Write the fold of every row of some units, and the number of its group.

    Raises:
        UserError: see `write_row_facts`.
    """
    folds = run.config.fit.folds
    names = dict.fromkeys(index.groups().values())
    numbers = {group: number for number, group in enumerate(names)}
    present = index.present_rows()
    fold_R = np.full(index.rows, LEFT_OUT, dtype=np.int16)
    group_R = np.full(index.rows, LEFT_OUT, dtype=np.int64)
    for unit in units:
        groups, counts = zip(*index.groups_of(unit), strict=True)
        rows = np.asarray(index.unit_rows(unit))
        kept = present[rows]
        fold_R[rows[kept]] = np.repeat([fold_of(group, folds) for group in groups], counts)[kept]
        group_R[rows[kept]] = np.repeat([numbers[group] for group in groups], counts)[kept]
    empty = sorted(set(range(folds)) - set(fold_R.tolist()))
    if empty and not run.config.fit.moments_of:
        raise UserError(
            f"fold {empty[0]} of {folds} got no document ({index.documents} documents are spread "
            "by a hash of their names); lower fit.folds or use more documents"
        )
    if len(set(group_R.tolist()) - {LEFT_OUT}) < 2:
        raise UserError(one_group_message(index))
    for name, values in ((FOLDS, fold_R), (GROUPS, group_R)):
        with atomic_write(folder / name) as partial, partial.open("wb") as stream:
            np.save(stream, values)


def run_blocks(run: Run, index: RowIndex, units: Collection[int], facts: Path) -> list[Block]:
    """Blocks of some units, in the order in which they are taken in: a random one, so that each
    part of it is like any other part of the corpus.

    Args:
        facts: folder with `GROUPS`.
    """
    order = shuffled(units, index.digest)
    blocks = plan_blocks(order, index.rows_per_unit, run.config.fit.folds * ROWS_PER_PRODUCT)
    group_R = load_row_facts(facts / GROUPS)
    groups = {
        unit: sorted(set(group_R[index.unit_rows(unit)].tolist()) - {LEFT_OUT}) for unit in order
    }
    return [Block(*both) for both in zip(blocks, partner_units(blocks, groups), strict=True)]
