"""Resampling of what a mean effect varies with: items, contrast pairs, and documents of the map.

Items that share a question or a template are one cluster and are drawn together. Contrast pairs
enter as effects under vectors of resampled pairs, documents as effects under maps that were fitted
without one fold. The same arguments give equal bits.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

# Counts of a bootstrap are made in blocks of at most this many entries (32 MiB).
_BLOCK_ENTRIES = 1 << 22


def resampled_items(clusters: Sequence[Hashable], draws: int, seed: int) -> Tensor:
    """How often each item occurs in resamples of whole clusters with replacement.

    Any statistic of weighted sums is then matrix products: the mean of `values [items]` is
    `counts @ values / counts.sum(1)`.

    Args:
        clusters: a label for each item; `range(items)` makes each its own cluster.
        draws: resamples.
        seed: of the resampling.

    Returns:
        float64 `[draws, items]`; items of one cluster have equal counts.

    Raises:
        ValueError: no items or no draws.
    """
    cluster, count = numbered(clusters, len(clusters))
    return torch.cat([counts[:, cluster] for counts in cluster_counts(count, draws, seed)])


def cluster_counts(clusters: int, draws: int, seed: int) -> Iterator[Tensor]:
    """How often each cluster is drawn: float64 `[block, clusters]`, block by block for memory.

    Raises:
        ValueError: no draws.
    """
    if draws < 1:
        raise ValueError(f"a bootstrap needs at least one draw, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    per_block = max(1, _BLOCK_ENTRIES // clusters)
    for first in range(0, draws, per_block):
        rows = min(per_block, draws - first)
        index = torch.randint(clusters, (rows, clusters), generator=generator)
        counts = torch.zeros(rows, clusters, dtype=torch.float64)
        yield counts.scatter_add_(1, index, torch.ones_like(counts))


def numbered(clusters: Sequence[Hashable], items: int) -> tuple[Tensor, int]:
    """The number of each item's cluster, int64 `[items]`, and how many clusters there are.

    Raises:
        ValueError: no labels, or not one for each item.
    """
    if len(clusters) == 0 or len(clusters) != items:
        raise ValueError(f"{len(clusters)} cluster labels for {items} items; at least one each")
    number = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    return torch.tensor([number[label] for label in clusters]), len(number)


def further_covariance(arms: Sequence[tuple[Tensor | None, Tensor | None]]) -> Tensor:
    """Covariance of the arms' mean effects from contrast pairs and documents alone, items fixed.

    What `lrt_dist.intervals` adds to the spread of items: over vectors the sample covariance of
    mean deltas, over folds that of the delete-one-fold jackknife (Efron and Tibshirani 1993,
    chapter 11), `(K-1)/K Σ_k (θ_k - θ̄)²`.

    Args:
        arms: `(vector_deltas, without_fold)` of each arm, None where nothing varies.

    Returns:
        float64 `[arms, arms]`, in squared units of the effects.

    Raises:
        ValueError: arms that disagree in the number of vectors or folds, or have a single one.
    """
    total = torch.zeros(len(arms), len(arms), dtype=torch.float64)
    for source in (0, 1):
        given = {number: arm[source] for number, arm in enumerate(arms)}
        means = {number: v.double().mean(1) for number, v in given.items() if v is not None}
        lengths = {len(mean) for mean in means.values()}
        if not lengths:
            continue
        if len(lengths) > 1 or min(lengths) < 2:
            raise ValueError(
                f"{('vectors', 'folds')[source]} of the arms must be equally many and at least "
                f"two, got {sorted(lengths)}"
            )
        (count,) = lengths
        nothing = torch.zeros(count, dtype=torch.float64)
        rows = torch.stack([means.get(number, nothing) for number in range(len(arms))])
        rows = rows - rows.mean(1, keepdim=True)
        total += rows @ rows.T * ((count - 1) / count if source else 1 / (count - 1))
    return total
