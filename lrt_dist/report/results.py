"""What a run left behind, as typed tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lrt_dist.config import RunConfig, read_run
from lrt_dist.errors import UserError
from lrt_dist.store.tables import FitRow, JointFitRow, SampleRow, ScoreRow, Table, VectorRow

Row = TypeVar("Row", FitRow, JointFitRow, SampleRow, ScoreRow, VectorRow)


@dataclass(frozen=True)
class Results:
    """The results of a run; `results.fits.arrow.to_pandas()` for a notebook.

    Attributes:
        out: the output directory.
        config: the run.
        fits: one row for each pair of layers.
        reverse: one row for each reverse map.
        joint: one row for each joint map.
        scores: one row for each item under each condition.
        vectors: one row for each concept and pair of layers.
        samples: continuations.
    """

    out: Path
    config: RunConfig
    fits: Table[FitRow]
    reverse: Table[FitRow]
    joint: Table[JointFitRow]
    scores: Table[ScoreRow]
    vectors: Table[VectorRow]
    samples: Table[SampleRow]

    @classmethod
    def read(cls, out: str | Path) -> Results:
        """Read an output directory; a table whose step was not run is empty.

        Raises:
            UserError: nothing was fitted or evaluated there.
            CorruptionError: a table cannot be read.
        """
        folder = Path(out)
        if not any((folder / f"{name}.parquet").is_file() for name in ("fits", "scores")):
            raise UserError(
                f"{folder} holds neither fits.parquet nor scores.parquet, so there is nothing to "
                "report: run `lrt-dist fit` and `lrt-dist evaluate` first"
            )

        def table(name: str, row: type[Row]) -> Table[Row]:
            path = folder / f"{name}.parquet"
            return Table.read(path, row) if path.is_file() else Table.of(row, [])

        return cls(
            out=folder,
            config=read_run(folder),
            fits=table("fits", FitRow),
            reverse=table("fits-reverse", FitRow),
            joint=table("fits-joint", JointFitRow),
            scores=table("scores", ScoreRow),
            vectors=table("vectors", VectorRow),
            samples=table("samples", SampleRow),
        )

    @property
    def report(self) -> Path:
        """The page that `lrt-dist report` writes."""
        return self.out / "report.html"
