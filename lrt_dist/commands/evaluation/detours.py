"""The way round: vectors that go to a third model, and from there to the target model."""

from __future__ import annotations

from dataclasses import dataclass

from lrt_dist.config import DetourConfig
from lrt_dist.errors import UserError
from lrt_dist.files import is_file, place
from lrt_dist.maps.affine import AffineMap
from lrt_dist.sites import Direction, LayerPair
from lrt_dist.store.tables import FitRow, Table, made_from
from lrt_dist.workspace.folder import RunFolder, slug
from lrt_dist.workspace.run import Run


@dataclass(frozen=True)
class Detour:
    """Two runs: from the source model to a third one, and from that to the target model."""

    first: RunFolder
    then: RunFolder

    @property
    def by_way_of(self) -> str:
        """Name of the third model."""
        return slug(self.first.config.target.model)

    @property
    def fingerprint(self) -> list[str]:
        """Of the maps of both runs."""
        return [made_from(run.fits[Direction.FORWARD]) for run in (self.first, self.then)]

    def map(self, pair: LayerPair) -> AffineMap:
        """From the source layer to the target layer, by the layer in between at which the worse of
        the two maps is best, by R² of held-out rows.

        Raises:
            UserError: there is none.
        """
        out = {row.target_layer: row.r2 for row in _fits(self.first, source=pair.source)}
        home = {row.source_layer: row.r2 for row in _fits(self.then, target=pair.target)}
        both = sorted(out.keys() & home.keys())
        if not both:
            raise UserError(
                f"evaluate.detours: {self.first.out} has maps from layer {pair.source} to layers "
                f"{sorted(out)} of {self.by_way_of}, {self.then.out} has maps from its layers "
                f"{sorted(home)} to layer {pair.target}: none in common"
            )
        middle = max(both, key=lambda layer: min(out[layer], home[layer]))
        return AffineMap.load(self.first.map_path(pair.source, middle)).then(
            AffineMap.load(self.then.map_path(middle, pair.target))
        )


def detours(run: Run) -> list[Detour]:
    """Those that a run names.

    Raises:
        UserError: a directory has no maps, or they are not between these models.
    """
    return [_detour(run, named) for named in run.config.evaluate.detours]


def _detour(run: Run, named: DetourConfig) -> Detour:
    first, then = RunFolder.open(place(named.first)), RunFolder.open(place(named.then))
    for folder in (first, then):
        if not is_file(folder.fits[Direction.FORWARD]):
            raise UserError(
                f"evaluate.detours: {folder.out} has no maps; run `lrt-dist fit` there first"
            )
    ends = [config.model for r in (first, then) for config in (r.config.source, r.config.target)]
    wanted = [run.config.source.model, ends[1], ends[1], run.config.target.model]
    if ends != wanted:
        raise UserError(
            f"evaluate.detours: {named.first} goes from {ends[0]} to {ends[1]}, {named.then} from "
            f"{ends[2]} to {ends[3]}; that is no way from {wanted[0]} to {wanted[3]}"
        )
    return Detour(first, then)


def _fits(
    folder: RunFolder, *, source: int | None = None, target: int | None = None
) -> list[FitRow]:
    rows = Table.read(folder.fits[Direction.FORWARD], FitRow)
    return [
        row
        for row in rows
        if source in (None, row.source_layer) and target in (None, row.target_layer)
    ]
