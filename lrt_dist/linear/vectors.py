"""Steering vectors from contrasting hidden states.

All three take `positive` and `negative`, float `[n, d]`, row i of both belonging together, and
return float64 `[d]`, pointing from negative to positive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.linalg import vector_norm


@dataclass(frozen=True)
class SteeringVector:
    """A displacement at one layer of one model.

    Attributes:
        concept: what it stands for.
        model, layer: where it lives.
        values: float64 `[d]`.
        method: how it was made.
        pairs: number of contrast pairs behind it.
    """

    concept: str
    model: str
    layer: int
    values: torch.Tensor
    method: str
    pairs: int


def make_vector(method: str, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Dispatch on the method's name; see the functions below."""
    methods: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "mean_difference": mean_difference,
        "pca": principal_difference,
        "logistic": logistic_probe,
    }
    return methods[method](positive.to(torch.float64), negative.to(torch.float64))


def mean_difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Difference of means (Rimsky et al., "Steering Llama 2 via CAA", arXiv 2312.06681, eq. 1)."""
    return positive.mean(0) - negative.mean(0)


def principal_difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """First principal component of the differences about zero, with the mean difference's sign
    and length (Zou et al., "Representation Engineering", arXiv 2310.01405, §3.1)."""
    differences = positive - negative
    direction: torch.Tensor = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    mean = differences.mean(0)
    signed: torch.Tensor = direction * torch.sign(direction @ mean)
    return signed * float(vector_norm(mean))


def logistic_probe(
    positive: torch.Tensor, negative: torch.Tensor, *, penalty: float = 1.0
) -> torch.Tensor:
    """Normal of an L2-penalised logistic regression on standardised states, back in the states'
    own units, with the mean difference's length."""
    x = torch.cat([positive, negative])
    y = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).to(x)
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-12)
    z = (x - mean) / deviation
    weight = torch.zeros(z.shape[1], dtype=z.dtype, requires_grad=True)
    bias = torch.zeros(1, dtype=z.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = torch.nn.functional.binary_cross_entropy_with_logits(
            z @ weight + bias, y, reduction="sum"
        )
        total: torch.Tensor = fit + 0.5 * penalty * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    normal: torch.Tensor = weight.detach() / deviation
    length = float(vector_norm(mean_difference(positive, negative)))
    return normal * (length / float(vector_norm(normal)))
