"""ATLAS.yaml, read: many models, and a run for each wanted pair of them.

name: three small models
models:
  smol: {model: HuggingFaceTB/SmolLM2-135M-Instruct, layers: [10, 15, 20]}
  gemma: {model: google/gemma-3-270m, layers: [6, 9, 12]}
  pythia: {model: EleutherAI/pythia-160m, layers: [4, 6, 8]}
pairs: all            # or [[smol, gemma], [gemma, smol]]
corpus: …             # and all else as in a RUN.yaml
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrt_dist.config import RunConfig
from lrt_dist.errors import UserError
from lrt_dist.runfile import read_values, resolve_run

_OWN_KEYS = ("models", "pairs")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Atlas:
    """What an atlas consists of.

    Attributes:
        name: its title.
        models: names of the models, in the order of the file.
        runs: `{(source, target): run}`, in the order in which they are done.
    """

    name: str
    models: tuple[str, ...]
    runs: Mapping[tuple[str, str], RunConfig]


def load_atlas(path: str | Path, overrides: Sequence[str] = ()) -> Atlas:
    """Read an ATLAS.yaml, apply `key.path=value` overrides, resolve its paths, check everything.

    Raises:
        UserError: the file is missing, is not YAML, or says something that no atlas can mean.
    """
    values = read_values(path, overrides)
    shared = {key: value for key, value in values.items() if key not in _OWN_KEYS}
    models = _models(values, path)
    name = str(values.get("name", Path(path).stem))
    runs = {
        (source, target): resolve_run(
            {
                **shared,
                "name": f"{name}: {source} to {target}",
                "source": models[source],
                "target": models[target],
            },
            base=Path(path).parent,
            origin=f"{path}, from {source} to {target},",
        )
        for source, target in _pairs(values, list(models), path)
    }
    return Atlas(name, tuple(models), runs)


def _models(values: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    models = values.get("models")
    if not isinstance(models, dict) or len(models) < 2:
        raise UserError(
            f"{path}: `models` needs two models or more, each with a name of your own: "
            "models: {small: {model: …}, large: {model: …}}"
        )
    for side in ("source", "target"):
        if side in values:
            raise UserError(
                f"{path}: an atlas has `models` and `pairs` in place of `{side}`; a file with "
                "source and target is for `lrt-dist run`"
            )
    wrong = [name for name in models if not _NAME.fullmatch(str(name))]
    if wrong:
        raise UserError(
            f"{path}: the model name {wrong[0]!r} is part of a folder's name; it may have letters, "
            "digits, `_`, `.` and `-`"
        )
    return {str(name): model for name, model in models.items()}


def _pairs(values: Mapping[str, Any], names: list[str], path: str | Path) -> list[tuple[str, str]]:
    pairs = values.get("pairs", "all")
    if pairs == "all":
        return list(itertools.permutations(names, 2))
    form = "`pairs` is `all`, or a list of [source, target] with names of `models`"
    if not isinstance(pairs, list) or not pairs:
        raise UserError(f"{path}: {form}; got {pairs!r}")
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not set(pair) <= set(names):
            raise UserError(f"{path}: {form} ({', '.join(names)}); got {pair!r}")
    return list(dict.fromkeys((source, target) for source, target in pairs))
