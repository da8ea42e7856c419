"""Bytes on disk and floating-point operations, from counts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def store_bytes(rows: int, widths: Mapping[int, int], logical_dtype: str) -> int:
    """Bytes of an uncompressed activation store: states and norms of every layer."""
    return sum(rows * (width * NUMBER_BYTES[logical_dtype] + 4) for width in widths.values())


def forward_flops(tokens: int, block_parameters: Sequence[int], last_layer: int) -> int:
    """Operations of running blocks `0 … last_layer`: two per weight and token (Kaplan et al.,
    arXiv 2001.08361, §2.1, without attention's quadratic term)."""
    return 2 * tokens * sum(block_parameters[: last_layer + 1])


def moments_flops(rows: int, source_widths: Sequence[int], target_widths: Sequence[int]) -> int:
    """Operations of all second moments: each S_xx, S_yy, S_xy, and S_xy of the shuffled null."""
    own = sum(d * d for d in (*source_widths, *target_widths))
    cross = sum(a * b for a in source_widths for b in target_widths)
    return 2 * rows * (own + 2 * cross)


def moments_bytes(source_widths: Sequence[int], target_widths: Sequence[int], folds: int) -> int:
    """Bytes of the float64 second moments of all folds."""
    own = sum(d * d for d in (*source_widths, *target_widths))
    cross = sum(a * b for a in source_widths for b in target_widths)
    return 8 * folds * (own + 2 * cross)
