"""What a run left behind, as typed tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lrt_dist.config import RunConfig
from lrt_dist.errors import UserError
from lrt_dist.files import is_file, place
from lrt_dist.runfile import read_run
from lrt_dist.store.tables import (
    AgreementRow,
    BandRow,
    ControlRow,
    FitRow,
    GeneratedRow,
    ItemRow,
    JointFitRow,
    Row,
    ScoreRow,
    Table,
    VectorRow,
    VerdictRow,
)


@dataclass(frozen=True)
class Results:
    """The results of a run; `results.fits.arrow.to_pandas()` for a notebook.

    Attributes:
        out: the output directory.
        config: the run.
        fits: one row for each pair of layers.
        reverse: one row for each reverse map.
        joint: one row for each joint map.
        items: one row for each item.
        scores: one row for each item under each condition.
        vectors: one row for each concept and pair of layers.
        generated: texts that the target model wrote.
        controls: one row for each draw of a control.
        agreement: predicted beside measured effects.
        verdicts: one row for each concept.
        bands: effects at several layers at once.
    """

    out: Path
    config: RunConfig
    fits: Table[FitRow]
    reverse: Table[FitRow]
    joint: Table[JointFitRow]
    items: Table[ItemRow]
    scores: Table[ScoreRow]
    vectors: Table[VectorRow]
    generated: Table[GeneratedRow]
    controls: Table[ControlRow]
    agreement: Table[AgreementRow]
    verdicts: Table[VerdictRow]
    bands: Table[BandRow]

    @classmethod
    def read(cls, out: str | Path) -> Results:
        """Read an output directory; a table whose step was not run is empty.

        Where the run has no concepts, tables of an evaluation that was made before are not read.

        Raises:
            UserError: nothing was fitted or evaluated there.
            CorruptionError: a table cannot be read.
        """
        folder = place(out)
        if not any(is_file(folder / f"{name}.parquet") for name in ("fits", "scores")):
            raise UserError(
                f"{folder} holds neither fits.parquet nor scores.parquet, so there is nothing to "
                "report: run `lrt-dist fit` and `lrt-dist evaluate` first"
            )

        config = read_run(folder)

        def table(name: str, row: type[Row], *, wanted: bool = True) -> Table[Row]:
            path = folder / f"{name}.parquet"
            return Table.read(path, row) if wanted and is_file(path) else Table.of(row, [])

        def evaluated(name: str, row: type[Row]) -> Table[Row]:
            return table(name, row, wanted=bool(config.concepts))

        return cls(
            out=folder,
            config=config,
            fits=table("fits", FitRow),
            reverse=table("fits-reverse", FitRow),
            joint=table("fits-joint", JointFitRow),
            items=evaluated("items", ItemRow),
            scores=evaluated("scores", ScoreRow),
            vectors=evaluated("vectors", VectorRow),
            generated=evaluated("generated", GeneratedRow),
            controls=evaluated("controls", ControlRow),
            agreement=evaluated("agreement", AgreementRow),
            verdicts=evaluated("verdicts", VerdictRow),
            bands=evaluated("bands", BandRow),
        )

    @property
    def report(self) -> Path:
        """The page that `lrt-dist report` writes."""
        return self.out / "report.html"
