"""Affine maps between hidden-state spaces: what a fit gives and what a user takes home."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.files import written_whole
from lrt_dist.linear.card import model_card
from lrt_dist.sites import Layers, layers_text
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
        source, target: `(model, layer)`; a map from several layers together has all of them.
        method: how it was made.
        ridge: the λ added to the eigenvalues of S_xx (not divided by n); 0 where there is none.
        report: numbers of the fit (held-out R², its null, n, …). A copy, as JSON gives it back:
            tuples become lists.

    Raises:
        ValueError: the shapes of weight and bias do not fit.
        TypeError: the report holds what JSON has no word for.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    source: tuple[str, Layers]
    target: tuple[str, Layers]
    method: str = "affine"
    ridge: float = 0.0
    report: Mapping[str, float | int | str | list[Any] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[1:]:
            raise ValueError(
                f"weight {list(self.weight.shape)} and bias {list(self.bias.shape)} do not fit; "
                "expected [d_source, d_target] and [d_target]"
            )
        object.__setattr__(self, "report", json.loads(json.dumps(dict(self.report))))

    def map_points(self, points: torch.Tensor) -> torch.Tensor:
        """Hidden states `[..., d_source]` -> `[..., d_target]`, in the weight's dtype.

        Raises:
            ValueError: the last dimension is not d_source.
        """
        return self._checked(points) @ self.weight + self.bias

    def map_directions(self, directions: torch.Tensor) -> torch.Tensor:
        """Differences of hidden states `[..., d_source]` -> `[..., d_target]`: no bias.

        In the weight's dtype.

        Raises:
            ValueError: the last dimension is not d_source.
        """
        return self._checked(directions) @ self.weight

    def r2(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Share of the variance of y that this map explains: `1 - Σ‖y - ŷ‖² / Σ‖y - ȳ‖²`.

        Computed in float64. It says something only of rows that the map was not fitted on, beside
        the same of its null.

        Args:
            x, y: hidden states of the same rows, `[n, d_source]` and `[n, d_target]`.

        Raises:
            ValueError: the shapes do not go together, or y does not vary.
        """
        if y.shape != (len(x), self.weight.shape[1]):
            raise ValueError(
                f"y {list(y.shape)} must be [{len(x)}, {self.weight.shape[1]}], as x and the map"
            )
        y = y.double()
        spread = (y - y.mean(0)).square().sum()
        if spread == 0:
            raise ValueError(f"y is the same in all {len(y)} rows: there is nothing to explain")
        found = self._checked(x).double() @ self.weight.double() + self.bias.double()
        return 1 - float((y - found).square().sum() / spread)

    def then(self, other: AffineMap) -> AffineMap:
        """The map that does what this one and then the other does.

        Its weight is `[self's d_source, other's d_target]`, computed in float64, in the wider
        dtype of the two. It has no report: nobody measured it.

        Raises:
            ValueError: the other does not begin where this one ends, by name or by width.
        """
        here, there = _place(self.target), _place(other.source)
        if self.target != other.source:
            raise ValueError(
                f"the first map ends at {here}, the second begins at {there}; if these are one "
                f"place, rename: first.then(dataclasses.replace(second, source={self.target!r}))"
            )
        if self.weight.shape[1] != other.weight.shape[0]:
            raise ValueError(
                f"the first map ends at {here} with {self.weight.shape[1]} dimensions, the second "
                f"begins at {there} with {other.weight.shape[0]}"
            )
        dtype = torch.promote_types(self.weight.dtype, other.weight.dtype)
        second = other.weight.double()
        return AffineMap(
            (self.weight.double() @ second).to(dtype),
            (self.bias.double() @ second + other.bias.double()).to(dtype),
            self.source,
            other.target,
            f"{self.method} then {other.method}",
        )

    def inverse(self) -> AffineMap:
        """`x = (y - bias) @ weight⁺`, from target to source, with the pseudo-inverse weight⁺.

        Exact where `weight` is square and of full rank. Otherwise, of all x that this map brings
        nearest to y it takes the one of least norm: with rank d_source (d_source < d_target) going
        there and back is the identity, with rank d_target (d_source > d_target) going back and
        there is. Computed in float64, in the weight's dtype; singular values that rounding alone
        can make, below `eps(dtype) · √d` of the largest, count as zero for the rank.

        This undoes a map; it is not the best map back. That one is *fitted*, target to source: a
        ridge map shrinks what it cannot predict, and its inverse stretches just that. It has no
        report: nobody measured it.
        """
        d_source, d_target = self.weight.shape
        # Two ways to a false rank: rounding the entries to their dtype moves a singular value by
        # no more than eps·√d of the largest, and the float64 decomposition by about eps·d.
        tolerance = torch.finfo(self.weight.dtype).eps * min(d_source, d_target) ** 0.5
        tolerance += torch.finfo(torch.float64).eps * max(d_source, d_target)
        back = torch.linalg.pinv(self.weight.double(), rtol=tolerance)
        return AffineMap(
            back.to(self.weight.dtype),
            (-self.bias.double() @ back).to(self.bias.dtype),
            self.target,
            self.source,
            f"inverse({self.method})",
        )

    def save(self, path: str | Path) -> None:
        """Write the map, its weights as they are.

        Args:
            path: one file if it ends in `.safetensors`; otherwise a folder, of `map.safetensors`
                and a model card, that can be put on the Hugging Face hub as it is.

        Raises:
            DiskFullError: there is no space left.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            with written_whole(path / _CARD) as partial:
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
                "report": json.dumps(self.report),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> AffineMap:
        """Read what `save` wrote, a file or a folder, onto the CPU.

        Raises:
            UserError: nothing is there.
            CorruptionError: what is there is not a map.
        """
        path = Path(path)
        file = path / _WEIGHTS if path.is_dir() else path
        if not file.is_file():
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
                json.loads(meta["report"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError(f"{file} is not a whole map: {error!r}") from error

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != self.weight.shape[0]:
            raise ValueError(
                f"this map takes {self.weight.shape[0]} dimensions ({_place(self.source)}), got "
                f"{x.shape[-1]}"
            )
        return x.to(self.weight.dtype)


def _layers(text: str) -> Layers:
    layers = tuple(map(int, text.split("+")))
    return layers[0] if len(layers) == 1 else layers


def _place(place: tuple[str, Layers]) -> str:
    return f"{place[0]} layer {layers_text(place[1])}"
