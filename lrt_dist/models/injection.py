"""Steering hidden states: what is done to them, at which layers and positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lrt_dist.errors import UserError
from lrt_dist.registry import Registry


@dataclass(frozen=True)
class Parts:
    """What the tokens of a sequence are: the prompt, special tokens first, then what follows.

    Attributes:
        tokens: of the sequence.
        prompt: how many of them, from the first on, are the prompt; 0 where the text has none.
        special: how many of them, from the first on, are special ones that the tokenizer puts in
            front of every text, such as `<bos>`.
    """

    tokens: int
    prompt: int
    special: int


@dataclass(frozen=True)
class Positions:
    """Which positions of a sequence are steered.

    Attributes:
        choose: `parts -> indices`.
        needs_prompt: whether the choice means nothing for text that has no prompt, such as the
            neutral text on which the price of steering is measured.
    """

    choose: Callable[[Parts], Sequence[int]]
    needs_prompt: bool = False


POSITIONS: Registry[Positions] = Registry(
    "choice of positions", lambda choice: isinstance(choice, Positions), "an injection.Positions"
)


def all_positions(parts: Parts) -> range:
    """Every token, of the prompt and of what follows, as in LRT (arXiv 2506.00653)."""
    return range(parts.tokens)


def all_but_special(parts: Parts) -> range:
    """Every token behind the special ones, whose states are often unlike all others."""
    return range(parts.special, parts.tokens)


def from_prompt_end(parts: Parts) -> range:
    """The last token of the prompt, where what follows is predicted, and all behind it, as in CAA
    (arXiv 2312.06681, §3)."""
    return range(parts.prompt - 1, parts.tokens)


def last_of_prompt(parts: Parts) -> range:
    """The last token of the prompt alone."""
    return range(parts.prompt - 1, parts.prompt)


def answer(parts: Parts) -> range:
    """What follows the prompt."""
    return range(parts.prompt, parts.tokens)


POSITIONS.add("all")(Positions(all_positions))
POSITIONS.add("all_but_special")(Positions(all_but_special))
POSITIONS.add("from_prompt_end")(Positions(from_prompt_end, needs_prompt=True))
POSITIONS.add("last")(Positions(last_of_prompt, needs_prompt=True))
POSITIONS.add("answer")(Positions(answer, needs_prompt=True))


def chosen_positions(positions: Positions, parts: Parts) -> Sequence[int]:
    """Which tokens of a sequence are steered, as indices.

    Raises:
        UserError: a position outside the sequence.
    """
    chosen = list(positions.choose(parts))
    if any(not 0 <= position < parts.tokens for position in chosen):
        raise UserError(
            f"positions: {positions.choose.__name__} chose {chosen} in a sequence of "
            f"{parts.tokens} tokens, {parts.prompt} of them the prompt, {parts.special} special"
        )
    return chosen


@dataclass(frozen=True)
class Operator:
    """What is done to a hidden state h by a displacement δ = α s v̂.

    Attributes:
        times: `(there, α) -> factor`: how many times δ is added to h, given how many times it is
            there already, `h·δ / δ·δ`; float32 `[..., T, 1]` and `[..., 1, 1]`.
        displaces: whether h comes to lie 2 δ apart at α and at -α, whatever it is, so that
            gradients predict effects.
    """

    times: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    displaces: bool = True


OPERATORS: Registry[Operator] = Registry(
    "operator", lambda choice: isinstance(choice, Operator), "an injection.Operator"
)


def add(there: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """`h + α s v̂`, as in LRT, L-Cross and CAA."""
    return torch.ones_like(strength)


def ablate(there: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """`h + α (h·v̂) v̂`: -1 removes the component, which is directional ablation (Arditi et al.,
    arXiv 2406.11717, §2.4), and 1 doubles it."""
    return strength * there


def clamp(there: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """`h + (α s - h·v̂) v̂`: the component becomes α s in every state."""
    return 1 - there


OPERATORS.add("add")(Operator(add))
OPERATORS.add("ablate")(Operator(ablate, displaces=False))
OPERATORS.add("clamp")(Operator(clamp))


@dataclass(frozen=True, eq=False)  # `==` of tensors is no truth value
class Steering:
    """What is done to hidden states under each of N conditions.

    Attributes:
        operator: the same for all.
        displacements: float32 `[N, D]`; a zero row is no steering.
        strengths: α, float32 `[N, 1]`.
    """

    operator: Operator
    displacements: torch.Tensor
    strengths: torch.Tensor

    @classmethod
    def adding(cls, displacements_ND: torch.Tensor) -> Steering:
        """Of displacements that are added as they are."""
        strengths = torch.ones(len(displacements_ND), 1)
        return cls(OPERATORS.find("add"), displacements_ND, strengths)

    def __len__(self) -> int:
        return len(self.displacements)

    def __getitem__(self, index: Any) -> Steering:
        """Some conditions, or the same ones with further dimensions before the last."""
        return replace(
            self, displacements=self.displacements[index], strengths=self.strengths[index]
        )

    @property
    def contents(self) -> list[bytes]:
        """What tells each condition from others; empty where nothing is steered."""
        rows = self.displacements
        if not self.operator.displaces:
            rows = torch.cat([rows, self.strengths], dim=1)
        steered = self.displacements.any(dim=1).tolist()
        return [row.numpy().tobytes() if s else b"" for row, s in zip(rows, steered, strict=True)]


@dataclass(frozen=True, eq=False)
class Intervention:
    """What is done at the outputs of one layer or of several, under each of N conditions.

    Attributes:
        by_layer: what is done at each of them; all of N conditions.
    """

    by_layer: Mapping[int, Steering]

    def __len__(self) -> int:
        return len(next(iter(self.by_layer.values())))

    def __getitem__(self, index: Any) -> Intervention:
        """Some conditions, or the same ones with further dimensions before the last."""
        return Intervention({layer: each[index] for layer, each in self.by_layer.items()})

    @property
    def first(self) -> int:
        """The lowest layer: those before it are the same under all conditions."""
        return min(self.by_layer)

    @property
    def layers(self) -> str:
        """The layers as they are written: `9` or `8,9,10`."""
        return ",".join(map(str, sorted(self.by_layer)))

    @property
    def contents(self) -> list[bytes]:
        """What tells each condition from others at the same layers; empty where nothing is
        steered."""
        by_layer = [self.by_layer[layer].contents for layer in sorted(self.by_layer)]
        if len(by_layer) > 1:  # a layer without steering has its place among the others
            marked = [[b"\0" + c if c else b"" for c in of_layer] for of_layer in by_layer]
            return [b"|".join(c) if any(c) else b"" for c in zip(*marked, strict=True)]
        return by_layer[0]


def inject(
    hidden_BTD: torch.Tensor, steering: Steering, mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Steer hidden states at the positions of a mask.

    Args:
        hidden_BTD: `[..., B, T, D]`.
        steering: of a shape that broadcasts against `[..., B, T, D]`.
        mask_BT: bool `[B, T]`; None for every position.
    """
    displacement = steering.displacements.to(hidden_BTD.device)
    along = torch.einsum("...d,...d->...", hidden_BTD.to(torch.float32), displacement)
    there = along / displacement.square().sum(-1).clamp_min(1e-30)
    times = steering.operator.times(there.unsqueeze(-1), steering.strengths.to(there.device))
    change = (times * displacement).to(hidden_BTD)
    if mask_BT is not None:
        change = change * mask_BT.to(hidden_BTD).unsqueeze(-1)
    return hidden_BTD + change
