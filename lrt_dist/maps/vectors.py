"""Steering vectors: how they are made from contrasting hidden states, and how they are kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.linalg import vector_norm

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.files import is_file, place
from lrt_dist.maps.tensors import Array, as_tensor
from lrt_dist.registry import Registry
from lrt_dist.tensorfiles import load_tensors, save_tensors

_KIND = "SteeringVector"

VectorMethod = Callable[..., torch.Tensor]
"""`(positive, negative, **parameters) -> vector`: float64 `[n, d]` twice, row i of both belonging
together, to float64 `[d]`, pointing from negative to positive."""

VECTOR_METHODS: Registry[VectorMethod] = Registry("vector method", callable, "a function")


@dataclass(frozen=True, eq=False)  # `==` of tensors is no truth value
class SteeringVector:
    """A displacement at one layer of one model.

    Attributes:
        concept: what it stands for.
        model: name of the model where it lives.
        layer: block index; the vector is added to the output of that block.
        values: `[d]`, of a floating dtype; a NumPy array becomes a tensor.
        method: how it was made.
        pairs: number of contrast pairs behind it.
        norm: median Euclidean norm of that layer's hidden states, which strengths are relative
            to; None where nobody measured it.

    Raises:
        ValueError: `values` is not one-dimensional.
    """

    concept: str
    model: str
    layer: int
    values: torch.Tensor
    method: str = "unknown"
    pairs: int = 0
    norm: float | None = None

    def __post_init__(self) -> None:
        values = as_tensor(self.values).detach()
        if values.ndim != 1:
            raise ValueError(f"a steering vector is [d], got {list(values.shape)}")
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        """Without its numbers."""
        return (
            f"SteeringVector({self.concept!r}, {self.model!r}, layer {self.layer}, "
            f"[{len(self.values)}], {self.method!r}, {self.pairs} pairs, norm {self.norm})"
        )

    def displacement(self, strength: float) -> torch.Tensor:
        """What is added to hidden states: `α · s · v/‖v‖`, float32 `[d]`, s being `norm`.

        Args:
            strength: α; a negative one steers the other way.

        Raises:
            UserError: the vector does not know its layer's norm.
        """
        return displacement(self.values, strength * self.known_norm)

    @property
    def known_norm(self) -> float:
        """`norm`, the unit of strengths.

        Raises:
            UserError: nobody measured it.
        """
        if self.norm is None:
            raise UserError(
                f"the vector {self.concept!r} has no norm, so a strength has no unit: set it to "
                "the median norm of the layer's hidden states, dataclasses.replace(vector, norm=…)"
            )
        return self.norm

    def save(self, path: str | Path) -> None:
        """Write the vector as a safetensors file.

        Raises:
            DiskFullError: there is no space left.
        """
        save_tensors(
            place(path),
            {"values": self.values},
            {
                "kind": _KIND,
                "concept": self.concept,
                "model": self.model,
                "layer": str(self.layer),
                "method": self.method,
                "pairs": str(self.pairs),
                "norm": "" if self.norm is None else repr(self.norm),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """Read what `save` wrote, onto the CPU.

        Raises:
            UserError: nothing is there.
            CorruptionError: what is there is not a vector.
        """
        path = place(path)
        if not is_file(path):
            raise UserError(f"no steering vector at {path}")
        tensors, meta = load_tensors(path, _KIND)
        try:
            return cls(
                meta["concept"],
                meta["model"],
                int(meta["layer"]),
                tensors["values"],
                meta["method"],
                int(meta["pairs"]),
                float(meta["norm"]) if meta["norm"] else None,
            )
        except (KeyError, ValueError) as error:
            raise CorruptionError(f"{path} is not a whole vector: {error!r}") from error


def length_at_one(vector: torch.Tensor, scale: float | None) -> float:
    """Length of what a strength of 1 adds along a vector: the layer's scale, or where it has none
    (`evaluate.scale: raw`) the vector's own."""
    return float(vector_norm(vector.to(torch.float64))) if scale is None else scale


def displacement(direction: torch.Tensor, length: float) -> torch.Tensor:
    """`length · v/‖v‖`, float32 `[d]`; a zero direction stays zero."""
    exact = direction.to(torch.float64)
    size = float(vector_norm(exact))
    return (exact * (length / size if size else 0.0)).to(torch.float32)


def make_vector(
    method: str,
    positive: Array,
    negative: Array,
    parameters: Mapping[str, Any] | None = None,
) -> torch.Tensor:
    """A vector by the method of that name.

    Args:
        method: one of `VECTOR_METHODS`, or `module:function`.
        positive, negative: hidden states `[n, d]`, row i of both belonging together.
        parameters: of the method, by name.

    Returns:
        float64 `[d]`.

    Raises:
        UserError: there is no such method, or it takes no such parameter, or it gave no vector.
    """
    x, y = as_tensor(positive).to(torch.float64), as_tensor(negative).to(torch.float64)
    check_vector_method(method, parameters)
    vector = as_tensor(VECTOR_METHODS.find(method)(x, y, **(parameters or {})))
    if vector.shape != x.shape[1:]:
        raise UserError(
            f"vector method {method!r} gave {list(vector.shape)} where [{x.shape[1]}] was expected"
        )
    if not bool(torch.isfinite(vector).all()):
        raise UserError(f"vector method {method!r} gave numbers that are not finite")
    return vector.to(torch.float64)


def check_vector_method(method: str, parameters: Mapping[str, Any] | None = None) -> None:
    """Whether there is a method of that name that takes these parameters.

    Raises:
        UserError: there is none.
    """
    function = VECTOR_METHODS.find(method)
    try:
        inspect.signature(function).bind(None, None, **(parameters or {}))
    except TypeError as error:
        raise UserError(f"vector method {method!r}: {error}") from error


@VECTOR_METHODS.add("mean_difference")
def mean_difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Difference of means (Rimsky et al., "Steering Llama 2 via CAA", arXiv 2312.06681, eq. 1)."""
    return positive.mean(0) - negative.mean(0)


@VECTOR_METHODS.add("pca")
def principal_difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """First principal component of the differences about zero, with the mean difference's sign
    and length (Zou et al., "Representation Engineering", arXiv 2310.01405, §3.1)."""
    differences = positive - negative
    direction: torch.Tensor = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    mean = differences.mean(0)
    signed: torch.Tensor = direction * torch.sign(direction @ mean)
    return signed * float(vector_norm(mean))


@VECTOR_METHODS.add("logistic")
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
