"""Moments on disk: a safetensors file holds some second moments of all folds.

Tensors are named `fold|variable` for means and `fold|a|b` for second moments, and are read one by
one, so one pair can be taken out of a file that holds a grid.

Moments in the making lie in files of their own, as `linear.moments.Sums`: what goes on from there
ends with the same bits as if nothing had interrupted it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lrt_dist.linear.moments import Accumulator, Moments, Pair, Sums, merge_all
from lrt_dist.tensorfiles import open_tensors, save_tensors

_KIND, _SUMS = "Moments", "Sums"


class MomentFile:
    """One file. Attributes: `path`, `folds` (their number), `pairs` (the second moments)."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CorruptionError: the file holds no moments.
        """
        self.path = path
        with open_tensors(path, _KIND) as (file, meta):
            keys = [key.split("|") for key in file.keys()]  # noqa: SIM118
        self._facts = json.loads(meta["folds"])
        self.folds = len(self._facts)
        self.pairs: set[Pair] = {(key[1], key[2]) for key in keys if len(key) == 3}

    @classmethod
    def write(cls, path: Path, folds: Sequence[Moments]) -> MomentFile:
        """Write the moments of every fold, whole or not at all."""
        tensors: dict[str, torch.Tensor] = {}
        for index, moments in enumerate(folds):
            tensors |= {f"{index}|{name}": mean for name, mean in moments.mean.items()}
            tensors |= {f"{index}|{a}|{b}": second for (a, b), second in moments.second.items()}
        facts = [{"n": moments.n, "parts": sorted(moments.parts)} for moments in folds]
        save_tensors(path, tensors, {"kind": _KIND, "folds": json.dumps(facts)})
        return cls(path)

    def fold(self, number: int, pairs: Iterable[Pair] | None = None) -> Moments:
        """Moments of one fold; all that are there, or some pairs."""
        fact = self._facts[number]
        if fact["n"] == 0:
            return Moments(parts=frozenset(fact["parts"]))
        wanted = self.pairs if pairs is None else list(pairs)
        names = {name for pair in wanted for name in pair}
        with open_tensors(self.path, _KIND) as (file, _):
            return Moments(
                fact["n"],
                frozenset(fact["parts"]),
                {name: file.get_tensor(f"{number}|{name}") for name in sorted(names)},
                {(a, b): file.get_tensor(f"{number}|{a}|{b}") for a, b in sorted(wanted)},
            )


class MomentFiles:
    """Files that hold different moments of the same rows, as one."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read all headers."""
        self._files = {pair: file for file in map(MomentFile, paths) for pair in file.pairs}

    def fold(self, number: int, pairs: Iterable[Pair]) -> Moments:
        """Some moments of one fold, from the files that hold them.

        Raises:
            ValueError: files are of different rows.
        """
        by_file: dict[Path, list[Pair]] = {}
        for pair in pairs:
            by_file.setdefault(self._files[pair].path, []).append(pair)
        moments: Moments | None = None
        for wanted in by_file.values():
            part = self._files[wanted[0]].fold(number, wanted)
            moments = part if moments is None else moments.with_variables(part)
        return moments or Moments()


def save_sums(path: Path, folds: Sequence[Accumulator]) -> None:
    """Write what the accumulators of all folds hold, whole or not at all.

    Raises:
        DiskFullError: there is no space left.
    """
    held = [accumulator.sums() for accumulator in folds]
    tensors = {f"{n}|{name}": t for n, sums in enumerate(held) for name, t in sums.tensors.items()}
    facts = [{"n": s.n, "parts": sorted(s.parts), "widths": dict(s.widths)} for s in held]
    save_tensors(path, tensors, {"kind": _SUMS, "folds": json.dumps(facts)})


def load_sums(path: Path) -> list[Sums]:
    """What `save_sums` wrote, fold by fold.

    Raises:
        CorruptionError: the file holds no such sums.
    """
    with open_tensors(path, _SUMS) as (file, meta):
        folds = []
        for number, fact in enumerate(json.loads(meta["folds"])):
            begin = f"{number}|"
            names = [key for key in file.keys() if key.startswith(begin)]  # noqa: SIM118
            tensors = {name.removeprefix(begin): file.get_tensor(name) for name in names}
            folds.append(Sums(fact["n"], frozenset(fact["parts"]), fact["widths"], tensors))
    return folds


def sums_parts(path: Path) -> list[list[str]]:
    """Ids of the pieces of data in what `save_sums` wrote, fold by fold; reads the header alone.

    Raises:
        CorruptionError: the file holds no such sums.
    """
    with open_tensors(path, _SUMS) as (_, meta):
        return [fact["parts"] for fact in json.loads(meta["folds"])]


def merge_files(left: Path, right: Path, merged: Path) -> None:
    """Write the merged moments of two files."""
    files = (MomentFile(left), MomentFile(right))
    folds = [merge_all(file.fold(number) for file in files) for number in range(files[0].folds)]
    MomentFile.write(merged, folds)
