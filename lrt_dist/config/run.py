"""A whole run, and where it is computed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
)

from lrt_dist.config.activations import ExtractConfig, FitConfig
from lrt_dist.config.base import Positive, Strict
from lrt_dist.config.concepts import ConceptConfig
from lrt_dist.config.corpus import CorpusConfig, SitesConfig
from lrt_dist.config.evaluation import EvaluateConfig
from lrt_dist.config.models import ModelConfig


class ClusterConfig(Strict):
    """Where the work runs. Never part of a result's identity."""

    address: str = Field(
        "auto",
        description="`auto` means the Ray cluster that `RAY_ADDRESS` or `ray start` makes known, "
        "or a local one if there is none; `serial` means this process, without Ray; anything else "
        "is the address of a Ray cluster.",
    )
    stages: Literal["auto"] | Positive = Field(
        "auto",
        description="Number of stages of one replica of a model; `auto` is the fewest that fit "
        "the memory of the GPUs, and one without GPUs.",
    )
    replicas: Literal["auto"] | Positive = Field(
        "auto",
        description="Number of replicas of each model; `auto` is as many as the GPUs hold, those "
        "of nodes that join later too, and up to four without GPUs. Work begins with the first.",
    )
    placement_timeout: Positive = Field(
        300,
        description="Time to wait for resources that the cluster does not have, in seconds, before "
        "the run ends. For resources that other jobs use it waits as long as it takes.",
    )


class ReportConfig(Strict):
    """What the report shows beside its own tables and figures."""

    figures: tuple[str, ...] = Field(
        (), description="Further figures, each `module:attribute`, a function of your own."
    )


class RunConfig(Strict):
    """Everything a run depends on."""

    name: str = Field("run", description="Name of the run, and the title of its report.")
    source: ModelConfig = Field(description="Model from which vectors are taken.")
    target: ModelConfig = Field(description="Model in which they are used.")
    corpus: CorpusConfig = Field(description="Text on which both models are run.")
    sites: SitesConfig = Field(SitesConfig(), description="Where hidden states are compared.")
    extract: ExtractConfig = Field(ExtractConfig(), description="How hidden states are stored.")
    fit: FitConfig = Field(FitConfig(), description="How maps are fitted.")
    concepts: tuple[ConceptConfig, ...] = Field(
        (), description="Concepts whose vectors are transferred. Without any, only maps are fitted."
    )
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="How steering is measured.")
    report: ReportConfig = Field(ReportConfig(), description="What the report shows.")
    cluster: ClusterConfig = Field(ClusterConfig(), description="Where the work runs.")

    @field_validator("concepts")
    @classmethod
    def _names_are_unique(cls, concepts: tuple[ConceptConfig, ...]) -> tuple[ConceptConfig, ...]:
        names = [concept.name for concept in concepts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two concepts are called {twice[0]!r}; rename one")
        return concepts

    @field_validator("fit")
    @classmethod
    def _moments_stay_where_nothing_else_does(
        cls, fit: FitConfig, others: ValidationInfo
    ) -> FitConfig:
        extract = others.data.get("extract")
        if extract and extract.store == "none" and not fit.keep_moments:
            raise ValueError(
                "with extract.store: none moments are all there is of the hidden states; leave "
                "keep_moments true"
            )
        return fit

    def dump(self) -> dict[str, Any]:
        """The whole run as plain JSON types, defaults included."""
        return self.model_dump(mode="json")
