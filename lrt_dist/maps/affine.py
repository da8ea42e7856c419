"""Affine maps between hidden-state spaces: how they are used, composed and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.files import atomic_write, is_file, place
from lrt_dist.maps.card import model_card
from lrt_dist.maps.tensors import A, Array, as_tensor, like
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.sites import Layers, Sided, layers_text
from lrt_dist.tensorfiles import load_tensors, save_tensors

_KIND = "AffineMap"
_WEIGHTS = "map.safetensors"
_CARD = "README.md"


@dataclass(frozen=True, eq=False)  # `==` of tensors is no truth value
class AffineMap:
    """`y = x @ weight + bias`, from one model's layer to another's.

    Points (hidden states) and directions (steering vectors) map differently: a bias cancels in a
    difference. So there are two methods and no `__call__` to guess between them.

    Attributes:
        weight: `[d_source, d_target]`, of a floating dtype.
        bias: `[d_target]`.
        source: `(model, layer)` where it begins; a joint map has several layers.
        target: `(model, layer)` where it ends.
        method: how it was made.
        ridge: the λ added to the eigenvalues of S_xx (not divided by n); 0 where there is none.
        metrics: numbers of the fit (held-out R², n, …). A copy, as JSON gives it back: tuples
            become lists.
        norms: median norms of the hidden states of (source, target), which strengths of steering
            are relative to; None where nobody measured them.

    Raises:
        ValueError: the shapes of weight and bias do not fit.
        TypeError: the metrics hold what JSON has no word for.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    source: tuple[str, Layers]
    target: tuple[str, Layers]
    method: str = "affine"
    ridge: float = 0.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    norms: Sided[float | None] = field(default_factory=lambda: Sided(None, None))

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[1:]:
            raise ValueError(
                f"weight {list(self.weight.shape)} and bias {list(self.bias.shape)} do not fit; "
                "expected [d_source, d_target] and [d_target]"
            )
        object.__setattr__(self, "metrics", json.loads(json.dumps(dict(self.metrics))))

    def __repr__(self) -> str:
        """Without its numbers."""
        d_source, d_target = self.weight.shape
        return (
            f"AffineMap({_end(self.source)} [{d_source}] → {_end(self.target)} [{d_target}], "
            f"{self.method!r})"
        )

    def map_points(self, points: A) -> A:
        """Hidden states `[..., d_source]` -> `[..., d_target]`, in the weight's dtype.

        NumPy in, NumPy out; the same for `map_directions`.

        Raises:
            ValueError: the last dimension is not d_source.
        """
        return like(self._checked(as_tensor(points)) @ self.weight + self.bias, points)

    def map_directions(self, directions: A) -> A:
        """Differences of hidden states `[..., d_source]` -> `[..., d_target]`: no bias.

        In the weight's dtype.

        Raises:
            ValueError: the last dimension is not d_source.
        """
        return like(self._checked(as_tensor(directions)) @ self.weight, directions)

    def transfer(self, vector: SteeringVector, *, bias: bool = False) -> SteeringVector:
        """The same concept's vector in the other model: mapped by the weight alone.

        Its values are in the weight's dtype; its norm is that of the layer where the map ends.

        Args:
            vector: of the layer where the map begins.
            bias: whether the map's bias is added, as LRT prints it: `A v + p` (arXiv 2506.00653).
                In a difference of hidden states it cancels, so it does not belong there.

        Raises:
            ValueError: the vector does not live where this map begins.
        """
        if (vector.model, vector.layer) != self.source:
            raise ValueError(
                f"the vector {vector.concept!r} lives at {_end((vector.model, vector.layer))}, "
                f"this map begins at {_end(self.source)}; if these are one, rename: "
                "dataclasses.replace(vector, model=…, layer=…)"
            )
        model, layer = self.target
        assert isinstance(layer, int), "a map ends at one layer"
        return replace(
            vector,
            model=model,
            layer=layer,
            values=(self.map_points if bias else self.map_directions)(vector.values),
            method=f"{vector.method}, transferred from {_end(self.source)}{' with bias' * bias}",
            norm=self.norms.target,
        )

    def r2(self, x: Array, y: Array) -> float:
        """Share of the variance of y that this map explains: `1 - Σ‖y - ŷ‖² / Σ‖y - ȳ‖²`.

        Computed in float64. It says something only of rows that the map was not fitted on, beside
        the same of the map that was fitted to mismatched rows.

        Args:
            x, y: hidden states of the same rows, `[n, d_source]` and `[n, d_target]`.

        Raises:
            ValueError: the shapes do not go together, or y does not vary.
        """
        x, y = as_tensor(x), as_tensor(y)
        if y.shape != (len(x), self.weight.shape[1]):
            raise ValueError(
                f"y {list(y.shape)} must be [{len(x)}, {self.weight.shape[1]}], as x and the map"
            )
        y = y.double()
        spread = (y - y.mean(0)).square().sum()
        if spread == 0:
            raise ValueError(f"y is the same in all {len(y)} rows: there is nothing to explain")
        mapped = self._checked(x).double() @ self.weight.double() + self.bias.double()
        return 1 - float((y - mapped).square().sum() / spread)

    def then(self, other: AffineMap) -> AffineMap:
        """The map that does what this one and then the other does.

        Its weight is `[self's d_source, other's d_target]`, computed in float64, in the wider
        dtype of the two. It has no metrics: nobody measured it.

        Raises:
            ValueError: the other does not begin where this one ends, by name or by width.
        """
        end, begin = _end(self.target), _end(other.source)
        if self.target != other.source:
            raise ValueError(
                f"the first map ends at {end}, the second begins at {begin}; if these are one "
                f"layer, rename: first.then(dataclasses.replace(second, source={self.target!r}))"
            )
        if self.weight.shape[1] != other.weight.shape[0]:
            raise ValueError(
                f"the first map ends at {end} with {self.weight.shape[1]} dimensions, the second "
                f"begins at {begin} with {other.weight.shape[0]}"
            )
        dtype = torch.promote_types(self.weight.dtype, other.weight.dtype)
        second = other.weight.double()
        return AffineMap(
            (self.weight.double() @ second).to(dtype),
            (self.bias.double() @ second + other.bias.double()).to(dtype),
            self.source,
            other.target,
            f"{self.method} then {other.method}",
            norms=Sided(self.norms.source, other.norms.target),
        )

    def inverse(self) -> AffineMap:
        """`x = (y - bias) @ weight⁺`, from target to source, with the pseudo-inverse weight⁺.

        Exact where `weight` is square and of full rank. Otherwise, of all x that this map brings
        nearest to y it takes the one of least norm: with rank d_source (d_source < d_target) going
        there and back is the identity, with rank d_target (d_source > d_target) going back and
        there is. Computed in float64, in the weight's dtype; singular values that rounding alone
        can make, below `eps(dtype) · √d` of the largest, count as zero for the rank.

        This undoes a map; it is not the best reverse map. That one is *fitted*, target to source:
        a ridge map shrinks what it cannot predict, and its inverse stretches just that. It has no
        metrics: nobody measured it.
        """
        d_source, d_target = self.weight.shape
        # Two ways to a false rank: rounding the entries to their dtype moves a singular value by
        # no more than eps·√d of the largest, and the float64 decomposition by about eps·d.
        tolerance = torch.finfo(self.weight.dtype).eps * min(d_source, d_target) ** 0.5
        tolerance += torch.finfo(torch.float64).eps * max(d_source, d_target)
        undone = torch.linalg.pinv(self.weight.double(), rtol=tolerance)
        return AffineMap(
            undone.to(self.weight.dtype),
            (-self.bias.double() @ undone).to(self.bias.dtype),
            self.target,
            self.source,
            f"inverse({self.method})",
            norms=self.norms.swapped,
        )

    def save(self, path: str | Path) -> None:
        """Write the map, its weights as they are.

        Args:
            path: one file if it ends in `.safetensors`; otherwise a folder, of `map.safetensors`
                and a model card, that can be put on the Hugging Face hub as it is.

        Raises:
            DiskFullError: there is no space left.
        """
        path = place(path)
        if path.suffix != ".safetensors":
            with atomic_write(path / _CARD) as partial:
                partial.write_text(model_card(self), encoding="utf-8")
            path = path / _WEIGHTS
        save_tensors(
            path,
            {"weight": self.weight, "bias": self.bias},
            {
                "kind": _KIND,
                "source_model": self.source[0],
                "source_layer": layers_text(self.source[1]),
                "target_model": self.target[0],
                "target_layer": layers_text(self.target[1]),
                "method": self.method,
                "ridge": repr(self.ridge),
                "metrics": json.dumps(self.metrics),
                "norms": json.dumps([self.norms.source, self.norms.target]),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> AffineMap:
        """Read what `save` wrote, a file or a folder, onto the CPU.

        Raises:
            UserError: nothing is there.
            CorruptionError: what is there is not a map.
        """
        path = place(path)
        file = path / _WEIGHTS if path.is_dir() else path
        if not is_file(file):
            raise UserError(f"no map at {path}: neither a file nor a folder with {_WEIGHTS} in it")
        tensors, meta = load_tensors(file, _KIND)
        try:
            return cls(
                tensors["weight"],
                tensors["bias"],
                (meta["source_model"], _layers(meta["source_layer"])),
                (meta["target_model"], _layers(meta["target_layer"])),
                meta["method"],
                float(meta["ridge"]),
                json.loads(meta["metrics"]),
                Sided(*json.loads(meta["norms"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError(f"{file} is not a whole map: {error!r}") from error

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != self.weight.shape[0]:
            raise ValueError(
                f"this map takes {self.weight.shape[0]} dimensions ({_end(self.source)}), got "
                f"{x.shape[-1]}"
            )
        return x.to(self.weight.dtype)


def _layers(text: str) -> Layers:
    layers = tuple(map(int, text.split("+")))
    return layers[0] if len(layers) == 1 else layers


def _end(end: tuple[str, Layers]) -> str:
    return f"{end[0]} layer {layers_text(end[1])}"
