"""A run as one strict, frozen value: read from YAML, checked, resolved, fingerprinted.

Every unknown key is an error that names the nearest known one. The value says *what* is computed;
only the section `cluster` says *where*, and takes part in no fingerprint (though what the machines
are does: without GPUs everything is computed in float32).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from lrt_dist.errors import UserError

NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
LayerChoice = Literal["all"] | tuple[NonNegative, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Strict):
    """A causal language model and which of its layers are wanted."""

    model: str = Field(description="hub name, local folder or .gguf file")
    layers: LayerChoice = Field("all", description="block indices 0 … L-1, or all")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="compute dtype on a GPU; a CPU always computes in float32"
    )
    revision: str | None = Field(None, description="hub revision (commit hash, tag or branch)")
    trust_remote_code: bool = Field(False, description="run code that the model repository ships")

    @field_validator("layers")
    @classmethod
    def _layers_are_a_set(cls, layers: LayerChoice) -> LayerChoice:
        if layers == "all":
            return layers
        if not layers:
            raise ValueError("no layers; name at least one, or write `layers: all`")
        return tuple(sorted(set(layers)))


class CorpusConfig(_Strict):
    """The text on which both models are run."""

    paths: tuple[str, ...] = Field(
        (), description="files or globs: .txt, .md, .rst, .jsonl, .parquet"
    )
    dataset: str | None = Field(None, description="Hugging Face dataset, as NAME or NAME:SPLIT")
    text_field: str = Field("text", description="the field of .jsonl, .parquet and datasets")
    separator: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="cuts a text file into documents; none: a file is one document"
    )
    max_documents: Positive | None = None
    max_tokens: Positive = Field(256, description="longest segment, in tokens of either model")

    @model_validator(mode="after")
    def _has_a_source(self) -> CorpusConfig:
        if bool(self.paths) == bool(self.dataset):
            raise ValueError("needs either `paths` or `dataset`")
        return self


class SitesConfig(_Strict):
    """Where in the text hidden states are compared."""

    mode: Literal["tokens", "last"] = Field(
        "tokens", description="tokens: shared token ends; last: the end of each document (L-Cross)"
    )
    per_segment: Positive = Field(32, description="sites sampled in each segment")
    min_context: NonNegative = Field(8, description="tokens before the first site")
    seed: NonNegative = 0


class ExtractConfig(_Strict):
    """How hidden states become an activation store."""

    rows_per_unit: Positive = Field(4096, description="rows of a unit = one row chunk of the store")
    batch_tokens: Positive = Field(8192, description="tokens (padding included) of a batch")
    store_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    compress: Literal["none", "zstd"] = "none"
    store_url: str | None = Field(
        None, description="where activation stores go, e.g. s3://bucket/run; none: OUT/activations"
    )


class FitConfig(_Strict):
    """How maps are fitted."""

    method: Literal["affine", "low_rank", "linear", "orthogonal"] = Field(
        "affine",
        description="affine: centred ridge (LRT); low_rank: the same cut to a cross-validated "
        "rank; linear: uncentred minimum-norm (L-Cross); orthogonal: Procrustes with one scale",
    )
    folds: Annotated[int, Field(ge=2)] = Field(5, description="cross-validation folds of documents")
    pairs: Literal["all"] | tuple[tuple[NonNegative, NonNegative], ...] = Field(
        "all", description="all, or a list of [source layer, target layer]"
    )
    reverse: bool = Field(False, description="also the maps from the target back to the source")
    together: tuple[tuple[NonNegative, ...], ...] = Field(
        (), description="groups of source layers whose states together predict each target layer"
    )
    exclude_norm_above: Annotated[float, Field(gt=1)] | None = Field(
        10.0, description="leave out rows whose norm exceeds this many layer medians"
    )
    tile_bytes: ByteSize = Field(
        ByteSize(512 * 2**20), description="moments that one task holds, e.g. 2GiB"
    )
    keep_moments: bool = Field(
        True, description="keep them, for other methods and for runs that add text to this one"
    )
    moments_of: tuple[str, ...] = Field(
        (), description="output directories of runs of the same models whose text counts too"
    )
    allow_fit_on_concepts: bool = Field(
        False, description="allow concept texts inside the corpus (the report will warn)"
    )

    @field_validator("together")
    @classmethod
    def _groups_are_several(
        cls, groups: tuple[tuple[int, ...], ...]
    ) -> tuple[tuple[int, ...], ...]:
        chosen = tuple(sorted({tuple(sorted(set(group))) for group in groups}))
        if any(len(group) < 2 for group in chosen):
            raise ValueError(f"got {[list(g) for g in groups]}; a group has two layers or more")
        return chosen


class ConceptConfig(_Strict):
    """A concept: contrast data for its vector, and items to measure steering on."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    data: str = Field(description="contrast data: .jsonl, .json, .csv or .parquet")
    items: str | None = Field(
        None, description="evaluation items; none: a half of `data`, held out from the vector"
    )
    vector: Literal["mean_difference", "pca", "logistic"] = "mean_difference"
    at: Literal["last", "answer"] = Field(
        "last", description="last token of a text, or the token where the two texts part"
    )


class EvaluateConfig(_Strict):
    """How steering is measured."""

    strengths: tuple[float, ...] = Field(
        (-0.1, -0.05, 0.05, 0.1), description="in units of the layer's median residual norm"
    )
    random_draws: Positive = 8
    positions: Literal["all", "last"] = "all"
    max_items: Positive | None = Field(None, description="items of a concept that are used")
    batch_tokens: Positive = Field(4096, description="tokens of a batch, over all its variants")
    neutral_segments: Positive = Field(8, description="corpus segments for the cross-entropy")
    sample_tokens: NonNegative = Field(16, description="length of the sample continuations")
    seed: NonNegative = 0

    @field_validator("strengths")
    @classmethod
    def _both_signs(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        chosen = tuple(sorted(set(strengths)))
        if not chosen or 0.0 in chosen or any(-s not in chosen for s in chosen):
            raise ValueError(
                f"got {list(strengths)}; give every strength with both signs and without 0, "
                "e.g. [-0.1, -0.05, 0.05, 0.1]"
            )
        return chosen


class ClusterConfig(_Strict):
    """Where the work runs. Never part of a result's identity."""

    address: str = Field(
        "auto",
        description="auto: the running Ray cluster, else a local one; serial: this process, no Ray;"
        " or a Ray address",
    )
    stages: Literal["auto"] | Positive = Field("auto", description="stages of one model replica")
    replicas: Literal["auto"] | Positive = Field("auto", description="replicas of each model")
    placement_timeout: Positive = Field(300, description="seconds to wait for the resources")


class RunConfig(_Strict):
    """Everything a run depends on."""

    name: str = "run"
    source: ModelConfig
    target: ModelConfig
    corpus: CorpusConfig
    sites: SitesConfig = SitesConfig()
    extract: ExtractConfig = ExtractConfig()
    fit: FitConfig = FitConfig()
    concepts: tuple[ConceptConfig, ...] = ()
    evaluate: EvaluateConfig = EvaluateConfig()
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("concepts")
    @classmethod
    def _names_are_unique(cls, concepts: tuple[ConceptConfig, ...]) -> tuple[ConceptConfig, ...]:
        names = [concept.name for concept in concepts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two concepts are called {twice[0]!r}; rename one")
        return concepts

    def dump(self) -> dict[str, Any]:
        """The whole run as plain JSON types, defaults included."""
        return self.model_dump(mode="json")


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a RUN.yaml, apply `key.path=value` overrides, resolve its paths, check everything.

    Relative paths are taken from the folder of the file; what exists there becomes absolute.

    Raises:
        UserError: the file is missing, is not YAML, or says something that no run can mean.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds {type(raw).__name__}, not a mapping of run keys")
    return resolve_run(raw, base=path.parent, overrides=overrides, place=str(path))


def resolve_run(
    raw: Mapping[str, Any], *, base: Path, overrides: Sequence[str] = (), place: str = "the run"
) -> RunConfig:
    """Check a plain mapping and resolve its paths against `base`; see `load_run`."""
    values = json.loads(json.dumps(raw, default=str))
    for override in overrides:
        _apply(values, override)
    _absolute_paths(values, base.resolve())
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise UserError(f"{place} is not a valid run:\n  " + "\n  ".join(lines)) from error


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Sixteen hex digits that change whenever anything in `identity` (JSON types) changes."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class _Absent:
    """Stands for a key that is not there, which is not the same as null."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`["fit.folds: 5 -> 10", …]`: the leaves in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            place = f"{prefix}.{key}" if prefix else str(key)
            lines += differing_keys(old.get(key, _ABSENT), new.get(key, _ABSENT), place)
        return lines
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override!r} has no '='; write --set key.path=value")
    *parents, leaf = key.strip().split(".")
    place: Any = values
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise UserError(f"--set {key}: {'.'.join(parents)} is not a section")
    try:
        place[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: {text!r} is not a YAML value: {error}") from error


def _absolute_paths(values: dict[str, Any], base: Path) -> None:
    """Anchor local paths; hub names and URLs stay as they are."""

    def anchor(text: Any, must_be_path: bool) -> Any:
        if not isinstance(text, str) or "://" in text:
            return text
        candidate = base / os.path.expanduser(text)
        return str(candidate) if must_be_path or candidate.exists() else text

    for side in ("source", "target"):
        if isinstance(values.get(side), dict) and "model" in values[side]:
            model = values[side]["model"]
            local = isinstance(model, str) and (model.endswith(".gguf") or model[:1] in "./~")
            values[side]["model"] = anchor(model, local)
    corpus = values.get("corpus")
    if isinstance(corpus, dict) and isinstance(corpus.get("paths"), list):
        corpus["paths"] = [anchor(p, True) for p in corpus["paths"]]
    concepts = values.get("concepts")
    for concept in concepts if isinstance(concepts, list) else ():
        if isinstance(concept, dict):
            for key in ("data", "items"):
                if key in concept:
                    concept[key] = anchor(concept[key], True)
    fit = values.get("fit")
    if isinstance(fit, dict) and isinstance(fit.get("moments_of"), list):
        fit["moments_of"] = [anchor(out, True) for out in fit["moments_of"]]
    extract = values.get("extract")
    if isinstance(extract, dict) and extract.get("store_url"):
        extract["store_url"] = anchor(extract["store_url"], True)


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "run"
    if problem["type"] == "extra_forbidden":
        *parents, key = problem["loc"]
        known = _known_keys(parents)
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{place}: unknown key {key!r}; {hint}(known: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"{place}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{place}: {message}{shown}"


def _known_keys(parents: Sequence[Any]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in parents:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return sorted(model.model_fields)
