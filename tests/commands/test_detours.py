"""Vectors that go to the target model by way of a third one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import write_tiny_run

from lrt_dist import api
from lrt_dist.commands.evaluation.detours import detours
from lrt_dist.errors import UserError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.runfile import load_run
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import FitRow, Table


@pytest.fixture(scope="module")
def both_ways(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> Path:
    """The RUN file of a fitted run, `there`; and the run back, `back`, beside it."""
    folder = tmp_path_factory.mktemp("ways")
    run_file = write_tiny_run(folder, tiny_source, tiny_target, concepts=[])
    there, back = folder / "there", folder / "back"
    settings = [
        f"source={{model: {tiny_target}, layers: [0, 1]}}",
        f"target={{model: {tiny_source}, layers: [1, 2]}}",
        f"sites.rows_of={there}",
        f"extract.store_url={there / 'activations'}",
    ]
    for out, changed in ((there, []), (back, settings)):
        with api.open_run(out, load_run(run_file, changed)) as run:
            api.index(run)
            api.extract(run)
            api.fit(run)
    return run_file


def test_the_way_round_is_one_map_after_the_other(both_ways: Path, tiny_source: Path) -> None:
    """There and back: at the layer in between whose worse map is best."""
    folder = both_ways.parent
    there, back = folder / "there", folder / "back"
    named = f"evaluate.detours=[{{first: {there}, then: {back}}}]"
    same = f"target={{model: {tiny_source}, layers: [2]}}"
    with api.open_run(folder / "round", load_run(both_ways, [named, same])) as run:
        (detour,) = detours(run)
        assert detour.by_way_of == "tiny-gemma"
        found = detour.map(LayerPair(1, 2))
    r2 = {
        name: {
            (row.source_layer, row.target_layer): row.r2
            for row in Table.read(folder / name / "fits.parquet", FitRow)
        }
        for name in ("there", "back")
    }
    middle = max((0, 1), key=lambda m: min(r2["there"][1, m], r2["back"][m, 2]))
    first = AffineMap.load(there / "maps" / f"1-{middle}.safetensors")
    then = AffineMap.load(back / "maps" / f"{middle}-2.safetensors")
    torch.testing.assert_close(found.weight, first.weight @ then.weight)
    x = torch.randn(3, 32, dtype=found.weight.dtype)
    torch.testing.assert_close(found.map_points(x), then.map_points(first.map_points(x)))


def test_what_is_no_way_round_is_refused(
    both_ways: Path, tmp_path: Path, tiny_source: Path
) -> None:
    folder = both_ways.parent
    there, back = folder / "there", folder / "back"
    unfitted = tmp_path / "unfitted"
    with api.open_run(unfitted, load_run(both_ways)):
        pass
    same = f"target={{model: {tiny_source}, layers: [2]}}"
    for legs, told in (
        ((there, there), "that is no way from"),
        ((there, unfitted), "unfitted has no maps; run `lrt-dist fit` there first"),
        ((tmp_path / "none", back), "holds no run"),
    ):
        named = f"evaluate.detours=[{{first: {legs[0]}, then: {legs[1]}}}]"
        with (
            api.open_run(tmp_path / "out", load_run(both_ways, [named, same])) as run,
            pytest.raises(UserError, match=told),
        ):
            detours(run)
