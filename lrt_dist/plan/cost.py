"""Bytes on disk and floating-point operations, from counts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PROCESS_BYTES = 512 * 2**20
"""Python and its libraries, for one worker process."""
GPU_FLOPS = 2.0e14
"""Operations a second assumed of one GPU: about half of what an A100 does in bfloat16 GEMMs."""
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def store_bytes(rows: int, widths: Mapping[int, int], logical_dtype: str) -> int:
    """Bytes of an uncompressed activation store: states and norms of every layer."""
    return sum(rows * (width * NUMBER_BYTES[logical_dtype] + 4) for width in widths.values())


def forward_flops(tokens: int, block_parameters: Sequence[int], last_layer: int) -> int:
    """Operations of running blocks `0 … last_layer`: two per weight and token (Kaplan et al.,
    arXiv 2001.08361, §2.1, without attention's quadratic term)."""
    return 2 * tokens * sum(block_parameters[: last_layer + 1])


def moments_flops(rows: int, entries: int) -> int:
    """Operations of accumulating second moments of so many numbers in all."""
    return 2 * rows * entries


def accumulate_bytes(
    moments: int,
    numbers: int,
    multiplied: int,
    rows_at_once: int,
    number_bytes: int,
    folds: int,
) -> int:
    """Memory of a task that accumulates or merges.

    Args:
        moments: bytes of its moments, of all folds.
        numbers: numbers read for each row.
        multiplied: numbers multiplied for each row, mismatched ones included.
        rows_at_once: rows of a block.
        number_bytes: bytes of a number in the store.

    The moments and a copy of one fold, two more folds while merging; three blocks of rows as they
    are stored; one fold of a block in float64, mismatched rows included; the process.
    """
    held = moments + 3 * moments // folds
    read = rows_at_once * 3 * numbers * number_bytes
    shifted = 8 * rows_at_once * multiplied * 2 // folds
    return held + read + shifted + PROCESS_BYTES


def solve_bytes(d: int, e: int, folds: int, draws: int) -> int:
    """Memory of a task that solves all maps from width d to width e, one after the other.

    All of it is float64. Each term counts the tensors of that size that are held at once.
    """
    own_moments = folds * d * d  # S_xx of each fold
    eigenvectors = folds * d * d  # V of each fold's training rows
    held_out = folds * d * d  # G of each fold
    all_rows = 4 * d * d  # S_xx and V of all rows, and what eigh works in
    crossed = (1 + draws) * folds * d * e  # S_xy of each fold, true and mismatched
    projected = 2 * folds * d * e  # B and C of each fold
    working = folds * d * e + (7 + draws) * d * e  # training sums; Z; weights of all maps
    target_moments = folds * e * e  # S_yy of each fold
    numbers = own_moments + eigenvectors + held_out + all_rows
    numbers += crossed + projected + working + target_moments
    return 8 * numbers + PROCESS_BYTES


def cores_of_task(width: int, node_cores: float) -> int:
    """Cores of a task whose matrices have that width: one up to 1023, as long as there are some."""
    return max(1, min(width // 512, int(node_cores)))
