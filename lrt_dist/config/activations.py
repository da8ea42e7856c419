"""How hidden states are stored, and maps are fitted to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    ByteSize,
    Field,
    field_validator,
)

from lrt_dist.config.base import NonNegative, Positive, Strict


class ExtractConfig(Strict):
    """How hidden states become an activation store."""

    store: Literal["zarr", "none"] = Field(
        "zarr",
        description="Where hidden states go. `zarr`: into an activation store, from which maps of "
        "any pairs, folds and methods are fitted. `none`: of both models at once into the moments "
        "that the fit wants, and nowhere else; another fit then means another extraction.",
    )
    rows_per_unit: Positive = Field(
        4096, description="Number of rows of a unit, which is one row chunk of the store."
    )
    batch_tokens: Positive = Field(
        8192, description="Number of tokens of a batch, padding included. Fewer need less memory."
    )
    store_dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="Dtype of the stored hidden states: 2 bytes a number, or 4.",
    )
    compress: Literal["none", "zstd"] = Field(
        "none", description="Compression of the stored chunks."
    )
    store_url: str | None = Field(
        None,
        description="Folder or URL for the activation stores, e.g. `s3://bucket/run`; `gs://` and "
        "`az://` work too. `null` means `OUT/activations`.",
    )


class FitConfig(Strict):
    """How maps are fitted."""

    method: str = Field(
        "affine",
        description="How a map is fitted. `affine`: ridge regression with an intercept (LRT); "
        "`low_rank`: the same, cut to a cross-validated rank; `linear`: minimum-norm regression "
        "without an intercept (L-Cross); `orthogonal`: Procrustes with one scale; or "
        "`module:attribute`, a `Method` of your own.",
    )
    on: Literal["corpus", "own", "others"] = Field(
        "corpus",
        description="What the maps that carry vectors are fitted on. `corpus`: hidden states of "
        "the corpus; `own`: those behind the concept's own vector, as in the first experiment of "
        "L-Cross (arXiv 2501.02009), which proves nothing: with no more texts than dimensions the "
        "native vector comes out by algebra; `others`: those of all other concepts, as in its "
        "second. With `own` and `others` every vector is also steered under the map of each single "
        "concept.",
    )
    folds: Annotated[int, Field(ge=2)] = Field(
        5, description="Number of cross-validation folds, among which whole documents are divided."
    )
    pairs: Literal["all"] | tuple[tuple[NonNegative, NonNegative], ...] = Field(
        "all",
        description="Pairs `[source layer, target layer]` that are fitted; `all` means every "
        "wanted layer of the source model with every wanted layer of the target model.",
    )
    reverse: bool = Field(
        False, description="Whether to fit also maps from the target model to the source model."
    )
    joint: tuple[tuple[NonNegative, ...], ...] = Field(
        (),
        description="Groups of two source layers or more. For each group, one more map is fitted "
        "from all of its layers side by side to each target layer.",
    )
    shrink_norm_above: Annotated[float, Field(gt=1)] | None = Field(
        4.0,
        description="A hidden state whose norm exceeds this many times its layer's usual norm (an "
        "attention sink) is scaled down to the usual norm in every fit, at that layer alone. The "
        "usual norm is the median of 32,768 rows or so. `null`: never.",
    )
    mismatched_draws: Positive = Field(
        3,
        description="Number of random pairings of rows of different documents. Beside every map, "
        "one is fitted to each of them: the control of the fit.",
    )
    tile_bytes: ByteSize = Field(
        ByteSize(512 * 2**20),
        description="Largest size of a tile's moments, in bytes or with a unit, e.g. `2GiB`. One "
        "pair of layers may exceed it. Eight tiles or more are dealt out to workers, so that "
        "hidden states are read once; of fewer, rows are.",
    )
    keep_moments: bool = Field(
        True,
        description="Whether the moments stay on disk after the fit: for other methods later, and "
        "for runs that name this one in `moments_of`.",
    )
    moments_of: tuple[str, ...] = Field(
        (),
        description="Output directories of finished runs of the same models, whose moments are "
        "added to those of this run.",
    )
    allow_fit_on_concepts: bool = Field(
        False,
        description="Whether the corpus may hold texts of the concepts. The report then warns.",
    )

    @field_validator("pairs")
    @classmethod
    def _pairs_are_some(cls, pairs: Any) -> Any:
        if pairs == ():
            raise ValueError("no pairs; name at least one, or write `pairs: all`")
        return pairs

    @field_validator("joint")
    @classmethod
    def _groups_are_several(
        cls, groups: tuple[tuple[int, ...], ...]
    ) -> tuple[tuple[int, ...], ...]:
        chosen = tuple(sorted({tuple(sorted(set(group))) for group in groups}))
        if any(len(group) < 2 for group in chosen):
            raise ValueError(f"got {[list(g) for g in groups]}; a group has two layers or more")
        return chosen
