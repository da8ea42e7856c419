"""The output directory of a run: where everything lies, and whose it is."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lrt_dist.config import ModelConfig, RunConfig, differing_keys
from lrt_dist.errors import UserError
from lrt_dist.files import written_whole
from lrt_dist.sites import layers_text
from lrt_dist.store.ledger import Ledger
from lrt_dist.store.objects import child

COSTLY = ("source", "target", "corpus", "sites", "extract")
"""Sections that decide the activations. The others only decide what is cheap to do again."""
SIDES = ("source", "target")


class RunFolder:
    """Paths of one output directory."""

    def __init__(self, out: Path, config: RunConfig) -> None:
        self.out = out
        self.config = config
        self.rows = out / "rows.parquet"
        self.moments = out / "moments"
        self.fits = out / "fits.parquet"
        self.fits_back = out / "fits-back.parquet"
        self.fits_together = out / "fits-together.parquet"
        self.fit_tables = (self.fits, self.fits_back, self.fits_together)
        self.vectors = out / "vectors.parquet"
        self.scores = out / "scores.parquet"
        self.samples = out / "samples.parquet"
        self.evaluation = (self.scores, self.vectors, self.samples)
        self.report = out / "report.html"
        self.log = out / "log.jsonl"
        self._activations = config.extract.store_url or str(out / "activations")

    def model(self, side: int) -> ModelConfig:
        """The model of a side."""
        return (self.config.source, self.config.target)[side]

    def store_url(self, side: int) -> str:
        """Where the activation store of a side lies."""
        return child(self._activations, f"{SIDES[side]}-{slug(self.model(side).model)}.zarr")

    def ledger_url(self, side: int) -> str:
        """Where the ledger of a side lies."""
        return self.store_url(side).removesuffix(".zarr") + ".ledger"

    def map_path(
        self,
        source: int | tuple[int, ...],
        target: int,
        *,
        shuffled: bool = False,
        back: bool = False,
    ) -> Path:
        """A map, or its shuffled-pairing null; from several layers together, or from the target
        model back to the source model."""
        folder = self.out / "maps" / ("back" if back else "") / ("shuffled" if shuffled else "")
        return folder / f"{layers_text(source)}-{target}.safetensors"

    def map_table(self, source: tuple[int, ...], *, back: bool = False) -> Path:
        """Reports of all maps from one place."""
        return self.out / "maps" / ("back" if back else "") / f"{layers_text(source)}.parquet"

    def vector_path(self, concept: str, side: int, layer: int) -> Path:
        """A native vector."""
        return self.out / "vectors" / f"{concept}-{SIDES[side]}-{layer}.safetensors"

    def part_path(self, name: str) -> Path:
        """Scores of one evaluation task, kept until all are there."""
        return self.out / "scores" / f"{name}.parquet"

    def has_activations(self) -> bool:
        """Whether extraction has begun for either model."""
        return any(Ledger(self.ledger_url(side)).identity() for side in (0, 1))

    @classmethod
    def open(cls, out: Path) -> RunFolder:
        """The folder of a run that has begun.

        Raises:
            UserError: nothing has begun there.
        """
        path = out / "run.yaml"
        if not path.is_file():
            raise UserError(f"{out} holds no run (no run.yaml); start one with `lrt-dist run`")
        return cls(out, RunConfig.model_validate(_read(path)))

    @classmethod
    def claim(cls, out: Path, config: RunConfig) -> RunFolder:
        """Make the folder, or take it up again.

        Once there are activations, whatever decides them must be as it was; the rest may change,
        and what depends on it is done again.

        Raises:
            UserError: it belongs to another run, with the differing keys.
        """
        path = out / "run.yaml"
        values = config.dump()
        if path.is_file() and cls.open(out).has_activations():
            old = _read(path)
            differing = [
                line
                for section in COSTLY
                for line in differing_keys(old.get(section), values[section], section)
            ]
            if differing:
                raise UserError(
                    f"{out} belongs to another run:\n  " + "\n  ".join(differing) + "\n"
                    "use another --out, or undo these changes"
                )
        with written_whole(path) as partial:
            partial.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return cls(out, config)


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Keep other drivers out of a run's directory; the lock ends with the process.

    Raises:
        UserError: another process works there, or it is not a run's directory.
    """
    begun = (out / "run.yaml").is_file() or not out.exists()
    if not begun and (not out.is_dir() or any(p.name != ".lock" for p in out.iterdir())):
        raise UserError(f"{out} exists and is no run's directory; use another --out")
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"{lock.read().strip() or 'another process'} is working in {out}; wait for it or "
                "end it"
            ) from error
        except OSError as error:
            raise UserError(
                f"the file system of {out} cannot lock files ({error.strerror}), so two drivers "
                "could not be kept apart; use one that knows flock"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def slug(model: str) -> str:
    """A model's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(model).name.removesuffix(".gguf"))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
