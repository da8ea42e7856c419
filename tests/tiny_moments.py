"""Moments of one piece of data at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from lrt_dist.linear.moments import Accumulator, Moments, Pair


def moments_of(variables: Mapping[str, torch.Tensor], pairs: Iterable[Pair], part: str) -> Moments:
    accumulator = Accumulator(pairs)
    accumulator.add(variables, part)
    return accumulator.freeze()
