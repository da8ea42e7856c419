"""Rows of Hugging Face datasets; the package `datasets` is only imported if one is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lrt_dist.errors import UserError


def dataset_rows(dataset: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a dataset, streamed, each with its place for errors.

    Args:
        dataset: `NAME`, `NAME:SPLIT` or `NAME:CONFIG:SPLIT`.

    Raises:
        UserError: the package is not installed, or there is no such dataset.
    """
    name, *rest = dataset.split(":")
    if len(rest) > 2:
        raise UserError(f"dataset {dataset!r}: write NAME, NAME:SPLIT or NAME:CONFIG:SPLIT")
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"dataset {dataset} needs the package `datasets`: pip install 'lrt-dist[datasets]'"
        ) from error
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise UserError(f"dataset {dataset} cannot be loaded: {error}") from error
    yield from ((f"dataset {dataset}, row {number}", row) for number, row in enumerate(rows))
