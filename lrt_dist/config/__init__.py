"""A run as one strict, frozen value: read from YAML, checked, resolved, fingerprinted.

Every unknown key is an error that names the nearest known one. The value says *what* is computed;
only the section `cluster` says *where*, and takes part in no fingerprint (though what the machines
are does: without GPUs everything is computed in float32).
"""

from __future__ import annotations

from lrt_dist.config.activations import ExtractConfig, FitConfig
from lrt_dist.config.base import LayerChoice
from lrt_dist.config.concepts import (
    Amount,
    ConceptConfig,
    DataConfig,
    SplitConfig,
    TemplateConfig,
    VectorConfig,
)
from lrt_dist.config.corpus import CorpusConfig, PartConfig, SitesConfig, TextConfig
from lrt_dist.config.evaluation import EvaluateConfig, GenerateConfig, ScoreConfig
from lrt_dist.config.identity import differing_keys, fingerprint_of
from lrt_dist.config.models import ModelConfig
from lrt_dist.config.run import ClusterConfig, ReportConfig, RunConfig

__all__ = [
    "Amount",
    "ClusterConfig",
    "ConceptConfig",
    "CorpusConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExtractConfig",
    "FitConfig",
    "GenerateConfig",
    "LayerChoice",
    "ModelConfig",
    "PartConfig",
    "ReportConfig",
    "RunConfig",
    "ScoreConfig",
    "SitesConfig",
    "SplitConfig",
    "TemplateConfig",
    "TextConfig",
    "VectorConfig",
    "differing_keys",
    "fingerprint_of",
]
