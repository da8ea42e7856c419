"""Moments: exact, mergeable second moments of named variables.

A *variable* is a name with rows `[n, d]`, e.g. one layer of one model. Moments hold n, each
variable's mean, and the centred second moment `S_ab = Σ (a - ā)ᵀ(b - b̄)` of the wanted pairs of
variables. Everything is float64 and centred before it is multiplied, so large offsets do no harm;
merging follows Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
Sample Variances" (1979), eq. 2.1b. The empty moments are the identity of `merge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

Pair = tuple[str, str]


@dataclass(frozen=True)
class Moments:
    """See the module.

    Attributes:
        n: number of rows.
        parts: ids of the pieces of data inside; no part is ever counted twice.
        mean: `{variable: float64 [d]}`.
        second: `{(a, b): float64 [d_a, d_b]}`, centred, not divided by n.
    """

    n: int = 0
    parts: frozenset[str] = frozenset()
    mean: Mapping[str, torch.Tensor] = field(default_factory=dict)
    second: Mapping[Pair, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, variables: Mapping[str, torch.Tensor], pairs: Iterable[Pair], part: str) -> Moments:
        """Moments of one part of the data.

        Args:
            variables: `{name: [n, d]}` of any real dtype, all with the same n.
            pairs: which second moments are wanted.
            part: the id of these rows.

        Raises:
            ValueError: unequal numbers of rows, or a value that is not finite (with its row).
        """
        counts = {name: len(rows) for name, rows in variables.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"part {part}: variables differ in rows: {counts}")
        n = next(iter(counts.values()), 0)
        if n == 0:
            return cls(parts=frozenset({part}))
        mean: dict[str, torch.Tensor] = {}
        centred: dict[str, torch.Tensor] = {}
        for name, rows in variables.items():
            rows64 = rows.to(torch.float64)
            mean[name] = rows64.mean(0)
            if not bool(torch.isfinite(mean[name]).all()):
                bad = int((~torch.isfinite(rows64)).any(1).nonzero()[0])
                raise ValueError(f"part {part}: {name} is not finite in row {bad} of the part")
            centred[name] = rows64 - mean[name]
        second = {(a, b): centred[a].T @ centred[b] for a, b in pairs}
        return cls(n, frozenset({part}), mean, second)

    def merge(self, other: Moments) -> Moments:
        """Moments of both data together; neither operand changes.

        Raises:
            ValueError: a part is in both, or they hold different variables.
        """
        twice = self.parts & other.parts
        if twice:
            raise ValueError(f"{len(twice)} parts would count twice, {sorted(twice)[0]} first")
        parts = self.parts | other.parts
        if self.n == 0 or other.n == 0:
            held = other if self.n == 0 else self
            return Moments(held.n, parts, held.mean, held.second)
        if self.second.keys() != other.second.keys() or self.mean.keys() != other.mean.keys():
            raise ValueError("cannot merge moments of different variables")
        n = self.n + other.n
        delta = {name: other.mean[name] - self.mean[name] for name in self.mean}
        weight = self.n * other.n / n
        return Moments(
            n,
            parts,
            {name: self.mean[name] + delta[name] * (other.n / n) for name in self.mean},
            {
                (a, b): self.second[a, b]
                + other.second[a, b]
                + torch.outer(delta[a] * weight, delta[b])
                for a, b in self.second
            },
        )


def merge_all(moments: Iterable[Moments]) -> Moments:
    """Merge in the given order, from the left."""
    total = Moments()
    for item in moments:
        total = total.merge(item)
    return total
