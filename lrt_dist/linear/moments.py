"""Moments: exact, mergeable second moments of named variables.

A *variable* is a name with rows `[n, d]`, e.g. one layer of one model. `Accumulator` takes rows and
changes; `Moments` are what it found, and do not. They hold n, each variable's mean, and the centred
second moment `S_ab = Σ (a - ā)ᵀ(b - b̄)` of the wanted pairs of variables, in float64.

Rows are shifted by the mean of the first ones before they are multiplied, so large offsets do no
harm; what is left of the mean comes off in the end (Chan, Golub and LeVeque, "Algorithms for
Computing the Sample Variance", 1983, §3). Merging follows the same authors' "Updating Formulae and
a Pairwise Algorithm for Computing Sample Variances" (1979), eq. 2.1b. The empty moments are the
identity of `merge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

Pair = tuple[str, str]


class NonFiniteError(ValueError):
    """A row that no moment can hold; `variable` and `row` (within what was added) say which."""

    def __init__(self, variable: str, row: int) -> None:
        super().__init__(f"{variable} is not finite in row {row}")
        self.variable = variable
        self.row = row


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
        """Moments of one part of the data; see `Accumulator`."""
        accumulator = Accumulator(pairs)
        accumulator.add(variables, part)
        return accumulator.freeze()

    def merge(self, other: Moments) -> Moments:
        """Moments of both data together; see `merge_all`."""
        return merge_all([self, other])

    def only(self, pairs: Iterable[Pair]) -> Moments:
        """The same rows, fewer second moments; tensors are shared.

        Raises:
            KeyError: a pair that is not held.
        """
        second = {pair: self.second[pair] for pair in pairs} if self.n else {}
        names = {name for pair in second for name in pair}
        return Moments(self.n, self.parts, {name: self.mean[name] for name in names}, second)

    def beside(self, other: Moments) -> Moments:
        """Further variables of the same rows; tensors are shared.

        Raises:
            ValueError: the two are of different rows.
        """
        if (self.n, self.parts) != (other.n, other.parts):
            raise ValueError(
                f"moments of different rows: {self.n} in {len(self.parts)} parts, and {other.n} in "
                f"{len(other.parts)}"
            )
        return Moments(
            self.n, self.parts, {**self.mean, **other.mean}, {**self.second, **other.second}
        )

    def reversed(self) -> Moments:
        """The same with every pair (a, b) as (b, a): what a map the way back needs."""
        second = {(b, a): value.T for (a, b), value in self.second.items()}
        return Moments(self.n, self.parts, self.mean, second)

    def joined(self, names: Sequence[str], joint: str) -> Moments:
        """With some variables side by side as one, of width `Σ d`.

        Keeps what all of them have: the joint second moment where all their pairs are held, in
        either order, and those with other variables that every one of them is paired with.
        """
        if self.n == 0:
            return self
        second = {pair: s for pair, s in self.second.items() if not set(pair) & set(names)}
        both = self.second.keys() | {(b, a) for a, b in self.second}
        if all((a, b) in both for a in names for b in names):
            rows = [torch.cat([self._either(a, b) for b in names], 1) for a in names]
            second[joint, joint] = torch.cat(rows)
        for y in dict.fromkeys(b for _, b in self.second if b not in names):
            if all((a, y) in self.second for a in names):
                second[joint, y] = torch.cat([self.second[a, y] for a in names])
        mean = {name: self.mean[name] for name in self.mean if name not in names}
        mean[joint] = torch.cat([self.mean[name] for name in names])
        return Moments(self.n, self.parts, mean, second)

    def _either(self, a: str, b: str) -> torch.Tensor:
        return self.second[a, b] if (a, b) in self.second else self.second[b, a].T


class Accumulator:
    """Moments in the making: rows go in, in any number of pieces and in constant memory."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        """`pairs`: which second moments are wanted."""
        self._pairs = tuple(pairs)
        self._parts: set[str] = set()
        self._n = 0
        self._shift: dict[str, torch.Tensor] = {}
        self._sum: dict[str, torch.Tensor] = {}
        self._second: dict[Pair, torch.Tensor] = {}

    def add(self, variables: Mapping[str, torch.Tensor], *parts: str) -> None:
        """Take in some parts of the data at once: products of a few thousand rows are the fastest.

        Args:
            variables: `{name: [n, d]}` of any real dtype, all with the same n.
            parts: the ids of these rows.

        Raises:
            ValueError: unequal numbers of rows, or a part that is already in.
            NonFiniteError: a value that is not finite. Nothing of the parts was taken in.
        """
        twice = [part for part in parts if part in self._parts]
        if twice or len(set(parts)) < len(parts):
            raise ValueError(f"part {(twice or parts)[0]} would count twice")
        counts = {name: len(rows) for name, rows in variables.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"parts {parts}: variables differ in rows: {counts}")
        n = next(iter(counts.values()), 0)
        if n:
            self._add_rows(variables, n)
        self._parts.update(parts)

    def _add_rows(self, variables: Mapping[str, torch.Tensor], n: int) -> None:
        shift = self._shift or {
            name: rows.to(torch.float64).mean(0) for name, rows in variables.items()
        }
        shifted = {
            name: rows.to(torch.float64, copy=True).sub_(shift[name])
            for name, rows in variables.items()
        }
        sums = {name: rows.sum(0) for name, rows in shifted.items()}
        for name, total in sums.items():
            if not bool(torch.isfinite(total).all()):
                bad = (~torch.isfinite(variables[name])).any(1).nonzero()
                if len(bad):
                    raise NonFiniteError(name, int(bad[0]))
                raise ValueError(f"{name} is too large: {n} rows of it overflow a float64")
        self._shift, self._n = shift, self._n + n
        for name, total in sums.items():
            self._sum[name] = self._sum[name].add_(total) if name in self._sum else total
        for a, b in self._pairs:
            if (a, b) in self._second:
                self._second[a, b].addmm_(shifted[a].T, shifted[b])
            else:
                self._second[a, b] = shifted[a].T @ shifted[b]

    def freeze(self) -> Moments:
        """What was found so far, as copies."""
        if self._n == 0:
            return Moments(parts=frozenset(self._parts))
        rest = {name: total / self._n for name, total in self._sum.items()}
        return Moments(
            self._n,
            frozenset(self._parts),
            {name: self._shift[name] + rest[name] for name in rest},
            {
                (a, b): torch.addr(second, rest[a] * -self._n, rest[b])
                for (a, b), second in self._second.items()
            },
        )


def merge_all(moments: Iterable[Moments]) -> Moments:
    """Moments of all data together, added in the given order; no operand changes.

    `S = Σ_j S_j + Σ_j n_j (m_j - m)ᵀ(m_j - m)`, the 1979 formula for any number of operands.

    Raises:
        ValueError: a part is in two of them, or they hold different variables.
    """
    operands = list(moments)
    parts: frozenset[str] = frozenset()
    for item in operands:
        twice = parts & item.parts
        if twice:
            raise ValueError(f"{len(twice)} parts would count twice, {sorted(twice)[0]} first")
        parts |= item.parts
    held = [item for item in operands if item.n]
    if len(held) <= 1:
        one = held[0] if held else Moments()
        return Moments(one.n, parts, one.mean, one.second)
    first = held[0]
    if any(
        (m.second.keys(), m.mean.keys()) != (first.second.keys(), first.mean.keys()) for m in held
    ):
        raise ValueError("cannot merge moments of different variables")
    n = sum(item.n for item in held)
    weights = torch.tensor([item.n for item in held], dtype=torch.float64).unsqueeze(1)
    mean, away = {}, {}
    for name, origin in first.mean.items():
        means = torch.stack([item.mean[name] for item in held]) - origin
        offset = (means * (weights / n)).sum(0)
        mean[name] = origin + offset
        away[name] = means - offset
    second = {}
    for a, b in first.second:
        total = first.second[a, b] + held[1].second[a, b]
        for item in held[2:]:
            total.add_(item.second[a, b])
        second[a, b] = total.addmm_((away[a] * weights).T, away[b])
    return Moments(n, parts, mean, second)
