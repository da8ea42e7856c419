"""Bytes on disk and floating-point operations, from counts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PROCESS_BYTES = 512 * 2**20
"""Python and its libraries, for one worker process."""
GPU_FLOPS = 2.0e14
"""Operations a second assumed of one GPU: about half of what an A100 does in bfloat16 GEMMs."""
EIGH, SVD = 10, 21
"""Operations of an eigendecomposition over d³, and of a singular value decomposition over
d·e·min(d, e), if they were as fast as products: 9.0 … 11.2 and 19.8 … 20.8 on one core, with
vectors, at widths of 512 … 2048."""
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def store_bytes(rows: int, widths: Mapping[int, int], logical_dtype: str) -> int:
    """Bytes of an uncompressed activation store: states and norms of every layer."""
    return sum(rows * (width * NUMBER_BYTES[logical_dtype] + 4) for width in widths.values())


def forward_flops(tokens: int, active_parameters: Sequence[int], last_layer: int) -> int:
    """Operations of running blocks `0 … last_layer`: two per token and weight that it is multiplied
    by (Kaplan et al., arXiv 2001.08361, §2.1, without attention's quadratic term)."""
    return 2 * tokens * sum(active_parameters[: last_layer + 1])


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

    The moments and the process; and either a copy of one fold, three blocks of rows as they are
    stored, and one fold of a block in float64, mismatched rows included; or, while merging, three
    folds.
    """
    read = rows_at_once * 3 * numbers * number_bytes
    shifted = 8 * rows_at_once * multiplied * 2 // folds
    fold = moments // folds
    return moments + max(fold + read + shifted, 3 * fold) + PROCESS_BYTES


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


def eigh_flops(d: int) -> int:
    """Operations of an eigendecomposition of width d; see `EIGH`."""
    return EIGH * d**3


def svd_flops(d: int, e: int) -> int:
    """Operations of a singular value decomposition of d × e; see `SVD`."""
    return SVD * d * e * min(d, e)


def solve_flops(
    d: int, e: int, ends: int, folds: int, draws: int, *, penalised: bool = True, solution: int = 0
) -> int:
    """Operations of a task that solves all maps from width d to some ends of width e: its matrix
    products (docstring of `linear.ridge`) and decompositions.

    Args:
        penalised: whether λ is chosen.
        solution: operations of each solution of the method, beside those of ridge regression.
    """
    decomposed = (folds + 1) * eigh_flops(d)  # without each fold, and of all rows
    held_out = folds * 4 * d**3  # G of each fold
    # B, C, the errors, and K for each fold; B and the errors of each fold and draw; all maps.
    products = (3 + penalised) * folds + 2 * draws * folds + 2 * (1 + draws)
    solutions = folds * (1 + draws) + 1 + draws
    return decomposed + held_out + ends * (products * 2 * d * d * e + solutions * solution)


def curve_flops(d: int, e: int, folds: int, *, penalised: bool = True, solution: int = 0) -> int:
    """Operations of a learning curve, from width d to width e; see `solve_flops`."""
    sizes = max(0, (folds - 2).bit_length())
    products = 2 * 4 * d**3 + (5 + penalised) * 2 * d * d * e
    return sizes * (eigh_flops(d) + products + solution)


def solve_reads(d: int, e: int, ends: int, folds: int, draws: int) -> int:
    """Bytes of moments that such a task reads: of its beginning, and of each end."""
    return 8 * folds * (d * d + ends * ((1 + draws) * d * e + e * e))


def cores_of_task(width: int, node_cores: float) -> int:
    """Cores of a task whose matrices have that width: one up to 1023, as long as there are some."""
    return max(1, min(width // 512, int(node_cores)))
