"""Moments of a few tiles: each cut into leaves of units, which tasks take in and merge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lrt_dist.commands._rows import Records, layer_facts, row_facts, run_blocks
from lrt_dist.commands._tiles import CORES_OF_GPU, largest_on_gpu, leaf_units, run_tiles, tile_needs
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.files import delete_tree
from lrt_dist.plan.tiles import Tile, plan_leaves, standing_nodes
from lrt_dist.runtime.contract import Node
from lrt_dist.sites import Sided
from lrt_dist.tasks.accumulate import (
    MOMENTS,
    AccumulateTask,
    accumulate,
    merge,
    node_of,
    node_path,
    nodes_of,
)
from lrt_dist.tasks.blocks import Block, Leaf
from lrt_dist.workspace.products import CPU, products_device
from lrt_dist.workspace.run import Run


def accumulate_by_leaves(
    run: Run,
    index: RowIndex,
    records: Records,
    facts: Path,
    tiles: dict[Path, Tile],
    finished: int,
) -> None:
    """Every missing tile: leaves, merged as they come; some tiles were finished before."""
    blocks = run_blocks(run, index, records, facts)
    leaf = leaf_units(run, run_tiles(run), len(records))
    leaves = [tuple(run) for run in plan_leaves(blocks, len(records), leaf)]

    known = layer_facts(facts)
    usual = Sided.of(
        lambda side: {layer: known[side, layer].usual_norm for layer in run.layers[side]}
    )
    of_rows = row_facts(run, index, facts, len(blocks), usual)

    def task(tile: Tile, chosen: tuple[Block, ...], path: Path, level: int) -> AccumulateTask:
        rows = Leaf(
            blocks=chosen,
            facts=of_rows,
            stores=Sided.of(run.folder.store_url),
            checksums={
                u: Sided(records[u].source.checksums, records[u].target.checksums)
                for block in chosen
                for u in (*block.units, *block.partners)
            },
        )
        return AccumulateTask(tile, rows, run.config.fit.folds, path, level > 0, device)

    count = len(leaves)
    device, _ = products_device(run, largest_on_gpu(run, tiles.values()))

    def join(left: Path, right: Path) -> Path:
        return merge(left, right, leaves=count)

    trees, done = [], finished * count
    for path, tile in tiles.items():
        folder = path.with_suffix("")
        for file in set(folder.glob("*-of-*")) - set(folder.glob(nodes_of(count))):
            file.unlink()  # of leaves that were cut otherwise
        present = {node_of(f) for f in folder.glob(nodes_of(count)) if f.suffix == MOMENTS}
        nodes = standing_nodes(present, len(leaves))
        for stale in present - set(nodes):  # merged by a task that was killed before it tidied up
            node_path(folder, *stale, count).unlink()
        covered = [leaves[number << level : (number + 1) << level] for level, number in nodes]
        done += sum(len(c) for node, c in zip(nodes, covered, strict=True) if node in present)
        trees.append(
            [
                Node(
                    level,
                    task(tile, blocks_of_leaves[0], node_path(folder, level, number, count), level),
                )
                for (level, number), blocks_of_leaves in zip(nodes, covered, strict=True)
            ]
        )
    needs = max((tile_needs(run, tile) for tile in tiles.values()), key=lambda n: n.memory)
    if device != CPU:
        cores = min(CORES_OF_GPU, int(max(run.machines.node_cpus)))
        needs = replace(needs, cpus=max(1, cores), gpus=1)
    with run.progress.phase("moments", len(leaves) * (finished + len(tiles)), "leaves") as bar:
        bar.resume(done)
        for path in run.runtime.reduce(accumulate, join, trees, needs, bar.advance):
            delete_tree(path.with_suffix(""))
