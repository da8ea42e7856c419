"""Moments: exact, mergeable second moments of named variables.

A *variable* is a name with rows `[n, d]`, e.g. one layer of one model. `Accumulator` takes rows
and changes; `Moments` are its result and do not. They hold n, each variable's mean, and the centred
second moment `S_ab = Σ (a - ā)ᵀ(b - b̄)` of the wanted pairs of variables, in float64.

Rows are shifted by the mean of the first ones before they are multiplied, so large offsets do no
harm; what is left of the mean comes off in the end (Chan, Golub and LeVeque, "Algorithms for
Computing the Sample Variance", 1983, §3). Merging follows the same authors' "Updating Formulae and
a Pairwise Algorithm for Computing Sample Variances" (1979), eq. 2.1b. The empty moments are the
identity of `merge_all`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lrt_dist.linear.picked import Picked

Pair = tuple[str, str]

SHIFT_ROWS = 256
"""Rows whose mean is the shift."""


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

    def select(self, pairs: Iterable[Pair]) -> Moments:
        """The same rows, fewer second moments; tensors are shared.

        Raises:
            KeyError: a pair that is not held.
        """
        second = {pair: self.second[pair] for pair in pairs} if self.n else {}
        names = {name for pair in second for name in pair}
        return Moments(self.n, self.parts, {name: self.mean[name] for name in names}, second)

    def with_variables(self, other: Moments) -> Moments:
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

    def transposed(self) -> Moments:
        """The same with every pair (a, b) as (b, a): what a reverse map needs."""
        second = {(b, a): value.T for (a, b), value in self.second.items()}
        return Moments(self.n, self.parts, self.mean, second)

    def concat(self, names: Sequence[str], joint: str) -> Moments:
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


@dataclass(frozen=True)
class Sums:
    """What an accumulator holds, bit for bit: whoever takes it up goes on as if nothing had been.

    Attributes:
        n: number of rows.
        parts: ids of the pieces of data inside.
        widths: `{variable: d}`, in the order of the columns; empty without rows.
        tensors: float64 on the CPU: `shift` `[Σ d]` was subtracted from every row; `sum` `[Σ d]` of
            shifted rows; and `0`, `1`, … the products of blocks of shifted columns.
    """

    n: int
    parts: frozenset[str]
    widths: Mapping[str, int]
    tensors: Mapping[str, torch.Tensor]


class RowBuffer:
    """Memory for float64 rows, which accumulators that take turns may share.

    Fresh memory costs more time than what is written to it.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._numbers = torch.empty(0, dtype=torch.float64, device=device)

    def rows(self, n: int, width: int) -> torch.Tensor:
        """Float64 `[n, width]` with anything in it; what was asked for before is gone."""
        if len(self._numbers) < n * width:
            self._numbers = self._numbers.new_empty(n * width)
        return self._numbers[: n * width].view(n, width)


class Accumulator:
    """Moments in the making: rows go in, in any number of pieces and in constant memory.

    Variables lie side by side in one matrix, so that a grid of pairs is a few wide products, not
    many small ones.
    """

    def __init__(self, pairs: Iterable[Pair], buffer: RowBuffer | None = None) -> None:
        """`pairs`: which second moments are wanted. `buffer`: None for one of its own, here."""
        self._pairs = tuple(dict.fromkeys(pairs))
        self._buffer = buffer or RowBuffer()
        self._parts: set[str] = set()
        self._n = 0
        self._columns: dict[str, slice] = {}
        self._shift = self._sum = self._buffer.rows(0, 0)
        self._products: list[tuple[_Block, torch.Tensor]] = []

    @classmethod
    def for_folds(
        cls, pairs: Iterable[Pair], folds: int, buffer: RowBuffer | None = None
    ) -> list[Accumulator]:
        """One for each fold; they take turns in one buffer, and products are where it is."""
        wanted, buffer = tuple(pairs), buffer or RowBuffer()
        return [cls(wanted, buffer) for _ in range(folds)]

    def add(self, variables: Mapping[str, torch.Tensor | Picked], *parts: str) -> None:
        """Take in some parts of the data at once: products of a few thousand rows are the fastest.

        Args:
            variables: `{name: [n, d]}` of any real dtype, all with the same n; what is picked lies
                where products are made.
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

    def _add_rows(self, variables: Mapping[str, torch.Tensor | Picked], n: int) -> None:
        columns = self._columns or _side_by_side(self._pairs, variables)
        width = max(span.stop for span in columns.values())
        rows_ND = self._buffer.rows(n, width)
        for name, span in columns.items():
            rows = variables[name]
            if isinstance(rows, Picked):
                rows.copy_to(rows_ND[:, span])
            else:  # moved as they are stored: in float64 they would be four times as much
                rows_ND[:, span] = rows.to(rows_ND.device)
        shift = self._shift if self._columns else rows_ND[:SHIFT_ROWS].mean(0)
        rows_ND -= shift
        total = rows_ND.sum(0)
        if not bool(torch.isfinite(total).all()):
            raise _not_finite(variables, n)
        if not self._columns:
            self._columns, self._shift, self._sum = columns, shift, torch.zeros_like(total)
            self._products = [
                (block, rows_ND.new_empty(block.height, block.width))
                for block in _blocks(self._pairs, columns)
            ]
        for block, product in self._products:
            left, right = rows_ND[:, block.left].T, rows_ND[:, block.right]
            if self._n:
                product.addmm_(left, right)
            else:
                torch.mm(left, right, out=product)
        self._n += n
        self._sum += total

    def sums(self) -> Sums:
        """All it holds; tensors on the CPU are shared."""
        tensors = {"shift": self._shift, "sum": self._sum} if self._n else {}
        tensors |= {str(number): product for number, (_, product) in enumerate(self._products)}
        return Sums(
            self._n,
            frozenset(self._parts),
            {name: span.stop - span.start for name, span in self._columns.items()},
            {name: tensor.cpu() for name, tensor in tensors.items()},
        )

    def take_up(self, sums: Sums) -> None:
        """Go on from what an accumulator of the same pairs held; it must be empty."""
        assert not self._parts, "there are rows already"
        self._n, self._parts = sums.n, set(sums.parts)
        if not sums.n:
            return
        # Copied: how a product is rounded may depend on how its memory is aligned, and what is
        # mapped from a file is not aligned as memory of its own is.
        device = self._buffer.device
        tensors = {name: tensor.to(device, copy=True) for name, tensor in sums.tensors.items()}
        self._columns = _spans(sums.widths)
        self._shift, self._sum = tensors["shift"], tensors["sum"]
        self._products = [
            (block, tensors[str(number)])
            for number, block in enumerate(_blocks(self._pairs, self._columns))
        ]

    def freeze(self) -> Moments:
        """The moments of all rows so far, as copies on the CPU."""
        if self._n == 0:
            return Moments(parts=frozenset(self._parts))
        shifted_mean = self._sum / self._n
        second = {}
        for block, product in self._products:
            for a, b in block.pairs:
                left, right = self._columns[a], self._columns[b]
                piece = product[_within(left, block.left), _within(right, block.right)]
                centred = torch.addr(piece, shifted_mean[left] * -self._n, shifted_mean[right])
                second[a, b] = centred.contiguous().cpu()
        mean = (self._shift + shifted_mean).cpu()
        return Moments(
            self._n,
            frozenset(self._parts),
            {name: mean[span].clone() for name, span in self._columns.items()},
            {pair: second[pair] for pair in self._pairs},
        )


@dataclass(frozen=True)
class _Block:
    """Pairs whose second moments are one product: columns `left` with columns `right`."""

    pairs: tuple[Pair, ...]
    left: slice
    right: slice

    @property
    def height(self) -> int:
        return int(self.left.stop - self.left.start)

    @property
    def width(self) -> int:
        return int(self.right.stop - self.right.start)


def _side_by_side(
    pairs: Sequence[Pair], variables: Mapping[str, torch.Tensor | Picked]
) -> dict[str, slice]:
    """Columns of each variable: left ones of pairs first, then the others as pairs name them."""
    crossed = [(a, b) for a, b in pairs if a != b]
    order = dict.fromkeys([*(a for a, _ in crossed), *(b for _, b in crossed), *variables])
    return _spans({name: variables[name].shape[1] for name in order})


def _spans(widths: Mapping[str, int]) -> dict[str, slice]:
    """The columns of variables that lie side by side."""
    ends = itertools.accumulate(widths.values())
    return {
        name: slice(end - width, end)
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }


def _blocks(pairs: Sequence[Pair], columns: Mapping[str, slice]) -> list[_Block]:
    """The pairs in as few blocks as their columns allow."""
    rights: dict[str, list[str]] = {}
    for a, b in pairs:
        if a != b:
            rights.setdefault(a, []).append(b)
    blocks = [_Block(((a, b),), columns[a], columns[b]) for a, b in pairs if a == b]
    lefts = sorted(rights, key=lambda name: columns[name].start)
    for targets, sources in itertools.groupby(lefts, key=lambda name: frozenset(rights[name])):
        # A group's left variables are neighbours, since all left variables come first.
        group = list(sources)
        for run in _runs(sorted(targets, key=lambda name: columns[name].start), columns):
            blocks.append(
                _Block(
                    tuple((a, b) for a in group for b in run),
                    slice(columns[group[0]].start, columns[group[-1]].stop),
                    slice(columns[run[0]].start, columns[run[-1]].stop),
                )
            )
    return blocks


def _runs(names: Sequence[str], columns: Mapping[str, slice]) -> list[list[str]]:
    """Names whose columns are neighbours, together."""
    runs: list[list[str]] = []
    for name in names:
        if runs and columns[runs[-1][-1]].stop == columns[name].start:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs


def _within(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)


def _not_finite(variables: Mapping[str, torch.Tensor | Picked], n: int) -> ValueError:
    for name, given in variables.items():
        rows = given.gathered() if isinstance(given, Picked) else given
        bad = (~torch.isfinite(rows)).any(1).nonzero()
        if len(bad):
            return NonFiniteError(name, int(bad[0]))
    return ValueError(
        f"values are too large: {n} rows of {', '.join(variables)} overflow a float64"
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
    mean, offsets = {}, {}
    for name, origin in first.mean.items():
        means = torch.stack([item.mean[name] for item in held]) - origin
        offset = (means * (weights / n)).sum(0)
        mean[name] = origin + offset
        offsets[name] = means - offset
    second = {}
    for a, b in first.second:
        total = first.second[a, b] + held[1].second[a, b]
        for item in held[2:]:
            total.add_(item.second[a, b])
        second[a, b] = total.addmm_((offsets[a] * weights).T, offsets[b])
    return Moments(n, parts, mean, second)
