"""A user's own module, as docs/extending.md shows it: one of each thing that can be added."""

from __future__ import annotations

import torch
import transformers
from matplotlib.figure import Figure

from lrt_dist.corpus.contrast import Item
from lrt_dist.linear.methods import Method
from lrt_dist.models.injection import Operator, Parts, Positions
from lrt_dist.report.results import Results
from lrt_dist.tasks.scores import GeneratedScore


# (a) a vector method, with a parameter from the RUN.yaml
def trimmed_mean(positive: torch.Tensor, negative: torch.Tensor, *, trim: int) -> torch.Tensor:
    differences = (positive - negative).sort(0).values
    return differences[trim : len(differences) - trim].mean(0)


# (b) fit methods: regression on the leading principal components alone, and one with a λ
def principal_components(w: torch.Tensor, B: torch.Tensor, penalty: float) -> torch.Tensor:
    kept = (torch.arange(len(w)) >= len(w) - 5).to(w)  # eigenvalues are ascending
    return B * (kept / w).unsqueeze(1)


def scaled_ridge(w: torch.Tensor, B: torch.Tensor, penalty: float) -> torch.Tensor:
    return B / (w + 100 * penalty).unsqueeze(1)


PCR = Method(principal_components)
SCALED_RIDGE = Method(scaled_ridge, penalised=True)


# (c) a choice of positions: the first half of the prompt
def first_half(parts: Parts) -> range:
    return range(max(1, parts.prompt // 2))


def beyond(parts: Parts) -> range:
    return range(parts.tokens, parts.tokens + 1)


FIRST_HALF = Positions(first_half, needs_prompt=True)
BEYOND = Positions(beyond)


def at_least(there: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return (1 - there).clamp(min=0)


AT_LEAST = Operator(at_least, displaces=False)


# (d) a model family that transformers does not have, under a name of its own
class ToyConfig(transformers.LlamaConfig):  # type: ignore[misc] # transformers is not typed
    model_type = "toy_lm"


class ToyForCausalLM(transformers.LlamaForCausalLM):  # type: ignore[misc]
    config_class = ToyConfig


transformers.AutoConfig.register("toy_lm", ToyConfig, exist_ok=True)
transformers.AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM, exist_ok=True)


# (f) a figure
def rows_and_r2(results: Results) -> Figure:
    """Held-out R² of every map of this run."""
    figure = Figure(figsize=(5, 2))
    figure.subplots().bar(range(len(results.fits)), results.fits.column("r2"))
    return figure


# (g) a score of generated text
def vowels(item: Item, continuation: str) -> float:
    return float(sum(continuation.count(vowel) for vowel in "aeiou"))


VOWELS = GeneratedScore(vowels, "change of vowels")


def letters(*, which: str) -> GeneratedScore:
    """A score with a parameter."""
    return GeneratedScore(
        lambda item, text: float(sum(map(text.count, which))), f"change of {which}"
    )


def nothing(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """A vector method that finds no difference."""
    return torch.zeros_like(positive[0])
