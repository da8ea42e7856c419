"""The output directory of a run: where everything lies, and whose it is."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from lrt_dist.config import (
    CorpusConfig,
    ModelConfig,
    RunConfig,
    differing_keys,
    fingerprint_of,
)
from lrt_dist.corpus.readers import corpus_digest
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.files import atomic_write, is_file, is_local, place
from lrt_dist.runfile import read_run
from lrt_dist.sites import Direction, LayerPair, Layers, Side, layers_text
from lrt_dist.store.lease import LEASE, sole_driver
from lrt_dist.store.ledger import Ledger
from lrt_dist.store.objects import child

CHEAP = ("extract.batch_tokens",)
"""Keys of these that may change: a unit's record says in which batches it was computed."""
_LOCK = ".lock"
_HOLDERS = (_LOCK, LEASE)
COSTLY = ("source", "target", "corpus", "sites", "extract")
"""Sections that decide the activations. The others only decide what is cheap to do again."""


class RunFolder:
    """Paths of one output directory."""

    def __init__(self, out: Path, config: RunConfig) -> None:
        self.out = out
        self.config = config
        self.rows = out / "rows"
        self.shares = out / "rows.unfinished"
        self.moments = out / "moments"
        self.fits = {
            Direction.FORWARD: out / "fits.parquet",
            Direction.REVERSE: out / "fits-reverse.parquet",
            Direction.JOINT: out / "fits-joint.parquet",
        }
        self.overlap = out / "overlap.parquet"
        self.items = out / "items.parquet"
        self.vectors = out / "vectors.parquet"
        self.scores = out / "scores.parquet"
        self.generated = out / "generated.parquet"
        self.controls = out / "controls.parquet"
        self.agreement = out / "agreement.parquet"
        self.verdicts = out / "verdicts.parquet"
        self.bands = out / "bands.parquet"
        self.evaluation = (
            self.scores,
            self.vectors,
            self.generated,
            self.controls,
            self.agreement,
            self.verdicts,
            self.bands,
        )
        self.report = out / "report.html"
        self.log = out / "log.jsonl"
        self._activations = config.extract.store_url or str(out / "activations")

    def model(self, side: Side) -> ModelConfig:
        """The model of a side."""
        return self.config.source if side is Side.SOURCE else self.config.target

    def store_url(self, side: Side) -> str:
        """Where the activation store of a side's model lies: the same for every run that keeps its
        stores there, whichever side the model is on."""
        model = self.model(side)
        which = fingerprint_of({"model": model.model, "revision": model.revision})
        return child(self._activations, f"{slug(model.model)}-{which[:8]}.zarr")

    def ledger_url(self, side: Side) -> str:
        """Where the ledger of a side lies."""
        return self.store_url(side).removesuffix(".zarr") + ".ledger"

    def map_path(
        self,
        begin: Layers,
        end: int,
        *,
        direction: Direction = Direction.FORWARD,
        mismatched: int | None = None,
    ) -> Path:
        """The map between two layers, or the one fitted to a draw of mismatched rows."""
        name, folder = f"{layers_text(begin)}-{end}", self._maps(direction)
        if mismatched is None:
            return folder / f"{name}.safetensors"
        return folder / "mismatched" / f"{name}-{mismatched}.safetensors"

    def maps_of(self, pair: LayerPair) -> tuple[Path, ...]:
        """The map of a pair, and after it those fitted to mismatched rows."""
        return (
            self.map_path(pair.source, pair.target),
            *(
                self.map_path(pair.source, pair.target, mismatched=draw)
                for draw in range(self.config.fit.mismatched_draws)
            ),
        )

    def concept_maps(self, address: str, pair: LayerPair) -> tuple[Path, ...]:
        """A map of a pair that was fitted on contrast texts, and after it those of mismatched
        rows."""
        folder, name = self.out / "maps" / "on-concepts" / address, f"{pair.source}-{pair.target}"
        return (
            folder / f"{name}.safetensors",
            *(
                folder / "mismatched" / f"{name}-{draw}.safetensors"
                for draw in range(self.config.fit.mismatched_draws)
            ),
        )

    def map_table(self, begin: Layers, end: int, *, direction: Direction) -> Path:
        """Metrics of the map between two layers."""
        return self.map_path(begin, end, direction=direction).with_suffix(".parquet")

    def _maps(self, direction: Direction) -> Path:
        return self.out / "maps" / ("reverse" if direction is Direction.REVERSE else "")

    def native_vector(self, concept: str, side: Side, layer: int) -> Path:
        """A vector made from a model's own hidden states."""
        return self.out / "vectors" / f"{concept}-{side}-{layer}.safetensors"

    def transferred_vector(self, concept: str, pair: LayerPair) -> Path:
        """The source model's vector, mapped to a layer of the target model."""
        name = f"{concept}-transferred-{pair.source}-{pair.target}.safetensors"
        return self.out / "vectors" / name

    def contrast_states(self, concept: str, side: Side, address: str) -> Path:
        """Hidden states behind a concept's vectors in one model."""
        return self._beside_store(side, "states") / f"{concept}-{address}.safetensors"

    def gradients(self, address: str) -> Path:
        """Gradients of some items' scores in the target model, or means of them."""
        return self._beside_store(Side.TARGET, "gradients") / f"{address}.safetensors"

    def sampled_rows(self, address: str) -> Path:
        """Some hidden states of every target layer."""
        return self._beside_store(Side.TARGET, "states") / f"rows-{address}.safetensors"

    def _beside_store(self, side: Side, kind: str) -> Path:
        """A folder for what belongs to a model, whatever run made it: files are named by content,
        so they serve all runs that keep their stores there."""
        return place(self.store_url(side).removesuffix(".zarr") + f".{kind}")

    @property
    def cells(self) -> Path:
        """Folder of scores, by content."""
        return self.out / "cells"

    @property
    def texts(self) -> Path:
        """Folder of what the target model wrote, by content."""
        return self.cells / "texts"

    @property
    def replies(self) -> Path:
        """Folder of what judges replied, by content."""
        return self.cells / "replies"

    def has_activations(self) -> bool:
        """Whether extraction has begun for either model."""
        return any(Ledger(self.ledger_url(side)).identity() for side in Side)

    @classmethod
    def open(cls, out: Path) -> RunFolder:
        """The folder of a run that has begun.

        Raises:
            UserError: nothing has begun in it.
        """
        return cls(out, read_run(out))

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
        if is_file(path) and (existing := cls.open(out)).has_activations():
            old = existing.config.dump()
            if _moved(existing.config.corpus, config.corpus) and (
                RowIndex.open(existing.rows).corpus == corpus_digest(config.corpus)
            ):
                old["corpus"] = values["corpus"]  # the same files
            differing = [
                line
                for section in COSTLY
                for line in differing_keys(old[section], values[section], section)
                if not line.startswith(CHEAP)
            ]
            if differing:
                raise UserError(
                    f"{out} belongs to another run:\n  " + "\n  ".join(differing) + "\n"
                    "use another --out, or undo these changes"
                )
        with atomic_write(path) as partial:
            partial.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return cls(out, config)


def _moved(old: CorpusConfig, new: CorpusConfig) -> bool:
    """Whether two corpora differ at most in where their files lie."""
    return old != new and old.without_paths() == new.without_paths()


@contextmanager
def exclusive(out: Path, note: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Keep other drivers out of a run's directory: by a lock that ends with the process, or in an
    object store by a lease.

    Args:
        note: told why it takes a while, if it does.

    Returns:
        A function that raises IncompleteError where another driver has taken the directory over.

    Raises:
        UserError: another process works in it, or it is not a run's directory.
    """
    usable = is_file(out / "run.yaml") or not out.exists()
    if not usable and (not out.is_dir() or any(p.name not in _HOLDERS for p in out.iterdir())):
        raise UserError(f"{out} exists and is no run's directory; use another --out")
    if is_local(out):
        with _locked(out):
            yield lambda: None
    else:
        with sole_driver(str(out), note) as lease:
            yield lease.check


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a+") as lock:
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
