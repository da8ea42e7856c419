"""RUN.yaml, read: a file that a person wrote, or the one that an output directory keeps."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lrt_dist.config import RunConfig
from lrt_dist.errors import UserError
from lrt_dist.files import is_file


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `on`, `off`, `yes` and `no` are texts, as in YAML 1.2: `on` is a key, and
    a concept may be called `no`."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), "tTfF")


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a RUN.yaml, apply `key.path=value` overrides, resolve its paths, check everything.

    Relative paths are taken from the folder of the file; what exists there becomes absolute.

    Raises:
        UserError: the file is missing, is not YAML, or says something that no run can mean.
    """
    values = read_values(path, overrides)
    return resolve_run(values, base=Path(path).parent, origin=str(path))


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a RUN.yaml says, with overrides applied, unchecked.

    Raises:
        UserError: the file is missing, is not YAML, or holds no keys; or an override has no place.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if raw is None:
        raise UserError(
            f"{path} is empty; `lrt-dist init DIR --source … --target … --text …` writes one to "
            "start from"
        )
    if not isinstance(raw, dict):
        raise UserError(
            f"{path} holds a {_yaml_kind(raw)} where keys were expected, as in `name: my run`"
        )
    for override in overrides:
        _apply(raw, override)
    return raw


def _yaml_kind(value: Any) -> str:
    return "list" if isinstance(value, list) else f"single value ({value!r})"


def read_run(out: Path) -> RunConfig:
    """The run of an output directory, as its `run.yaml` has it.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = out / "run.yaml"
    if not is_file(path):
        raise UserError(f"{out} holds no run (no run.yaml); start one with `lrt-dist run`")
    try:
        return RunConfig.model_validate(yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    except ValidationError as error:
        raise UserError(
            f"{path} was written by another version, or edited; use another --out:\n  "
            + explain(error)
        ) from error


def resolve_run(
    raw: Mapping[str, Any], *, base: Path, overrides: Sequence[str] = (), origin: str = "the run"
) -> RunConfig:
    """Check a plain mapping and resolve its paths against `base`; see `load_run`."""
    values = json.loads(json.dumps(raw, default=str))
    for override in overrides:
        _apply(values, override)
    _absolute_paths(values, base.resolve())
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin} is not a valid run:\n  " + explain(error)) from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override!r} has no '='; write --set key.path=value")
    *parents, leaf = key.strip().split(".")
    section: Any = values
    for parent in parents:
        section = section.setdefault(parent, {}) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        raise UserError(f"--set {key}: {'.'.join(parents)} is not a section")
    try:
        section[leaf] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: {text!r} is not a YAML value: {error}") from error


def _absolute_paths(values: dict[str, Any], base: Path) -> None:
    """Anchor local paths; hub names and URLs stay as they are."""
    for value in path_values(values):
        candidate = base / os.path.expanduser(value.text)
        if value.certain or candidate.exists():
            value.set(str(candidate))


@dataclass(frozen=True, eq=False)
class PathValue:
    """A value of a run that is a local path.

    Attributes:
        name: of its key, e.g. `corpus.paths`.
        certain: whether it can be nothing else; a model may be the name of one on a hub.
    """

    name: str
    certain: bool
    _section: Any
    _key: str | int

    @property
    def text(self) -> str:
        """The path."""
        return str(self._section[self._key])

    def set(self, text: str) -> None:
        """Put another in its place."""
        self._section[self._key] = text


def path_values(values: dict[str, Any]) -> Iterator[PathValue]:
    """Every value of an unchecked run that is, or may be, a local path."""
    for side in ("source", "target"):
        if isinstance(values.get(side), dict) and _is_path(values[side].get("model")):
            model = values[side]["model"]
            local = model.endswith(".gguf") or model[:1] in "./~"
            yield PathValue(f"{side}.model", local, values[side], "model")
    for concept in _sections(values, "concepts"):
        for key in ("data", "items", "prompts"):
            yield from _paths(f"concepts.{key}", concept, key)
            for inner in ("file", "positive", "negative"):
                yield from _paths(f"concepts.{key}", concept.get(key), inner)
        for side in ("source", "target"):
            yield from _paths("concepts.vector", concept.get("vector"), side)
    yield from _paths("corpus.paths", values.get("corpus"), "paths")
    for part in _sections(values.get("corpus"), "mixture"):
        yield from _paths("corpus.mixture.paths", part, "paths")
    yield from _paths("fit.moments_of", values.get("fit"), "moments_of")
    for detour in _sections(values.get("evaluate"), "detours"):
        for leg in ("first", "then"):
            yield from _paths("evaluate.detours", detour, leg)
    yield from _paths("sites.rows_of", values.get("sites"), "rows_of")
    yield from _paths("extract.store_url", values.get("extract"), "store_url")


def _sections(parent: Any, key: str) -> list[dict[str, Any]]:
    """The sections that a key lists."""
    listed = parent.get(key) if isinstance(parent, dict) else None
    return [
        section
        for section in (listed if isinstance(listed, list) else ())
        if isinstance(section, dict)
    ]


def _paths(name: str, section: Any, key: str) -> Iterator[PathValue]:
    """A path, or a list of them."""
    value = section.get(key) if isinstance(section, dict) else None
    if _is_path(value):
        yield PathValue(name, True, section, key)
    for number, text in enumerate(value if isinstance(value, list) else ()):
        if _is_path(text):
            yield PathValue(name, True, value, number)


def _is_path(text: Any) -> bool:
    return isinstance(text, str) and bool(text) and "://" not in text


def explain(error: ValidationError, file: type[BaseModel] = RunConfig) -> str:
    """What is wrong with a file, in words, a line for each problem.

    Args:
        file: what the whole file is.
    """
    return "\n  ".join(_explain(problem, file) for problem in error.errors())


def _explain(problem: Any, file: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in problem["loc"]) or "run"
    if problem["type"] == "extra_forbidden":
        *parents, key = problem["loc"]
        known = _known_keys(parents, file)
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{path}: unknown key {key!r}; {hint}(known: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"{path}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""
    return f"{path}: {message}{shown}"


def _known_keys(parents: Sequence[Any], model: type[BaseModel]) -> list[str]:
    for part in parents:
        if part not in model.model_fields:  # a place in a list, or one of several forms
            continue
        annotation = model.model_fields[part].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return sorted(model.model_fields)
