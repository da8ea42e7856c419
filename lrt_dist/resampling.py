"""Resampling of what a mean effect varies with: items, contrast pairs, and documents of the map.

Items that share a question or a template are one cluster and are drawn together. Contrast pairs
enter as effects under vectors of resampled pairs, documents as effects under maps that were fitted
without one fold. The same arguments give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Counts of a bootstrap are made in blocks of at most this many entries (32 MiB).
_BLOCK_ENTRIES = 1 << 22


def resampled_items(clusters: Sequence[int], draws: int, seed: int) -> Tensor:
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


def numbered(clusters: Sequence[int], items: int) -> tuple[Tensor, int]:
    """The number of each item's cluster, int64 `[items]`, and how many clusters there are.

    Raises:
        ValueError: no labels, or not one for each item.
    """
    if len(clusters) == 0 or len(clusters) != items:
        raise ValueError(f"{len(clusters)} cluster labels for {items} items; at least one each")
    number = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    return torch.tensor([number[label] for label in clusters]), len(number)


@dataclass(frozen=True)
class JointDraws:
    """What replicate b consists of, the same for every arm.

    Attributes:
        counts: float64 `[draws, items]`, how often each item is drawn.
        vector: int64 `[draws]`, which resample of the contrast pairs.
        fold: float64 `[draws, folds]`, standard normal weights of the folds left out of the map.
    """

    counts: Tensor
    vector: Tensor
    fold: Tensor

    @classmethod
    def make(
        cls, clusters: Sequence[int], draws: int, seed: int, *, vectors: int = 0, folds: int = 0
    ) -> JointDraws:
        """Draw.

        Args:
            clusters: a label for each item, as in `resampled_items`.
            draws: replicates.
            seed: of all three; more vectors or folds leave the items drawn as they are.
            vectors: resamples of the contrast pairs, 0 for none.
            folds: of the map, 0 for none.

        Raises:
            ValueError: no items or no draws.
        """
        counts = resampled_items(clusters, draws, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        vector = torch.randint(max(1, vectors), (draws,), generator=generator)
        fold = torch.randn(draws, folds, generator=generator, dtype=torch.float64)
        return cls(counts, vector, fold)


def joint_replicates(
    items: Tensor,
    draws: JointDraws,
    *,
    vector_deltas: Tensor | None = None,
    without_fold: Tensor | None = None,
) -> Tensor:
    """Replicates of a mean effect in which items, contrast pairs and the map's documents vary.

    Replicate b is the mean, over its resampled items, of the effects plus

    - the deltas under vector `draws.vector[b]`: what another draw of contrast pairs would change;
    - `Σ_k ξ_bk (θ_k - θ̄) √((K-1)/K)`, with ξ = `draws.fold` and θ_k the effects under the map
      fitted without fold k: normal noise with the covariance of the delete-one-fold jackknife
      (Efron and Tibshirani 1993, chapter 11).

    With the same `draws`, replicate b of two arms has the same items and the same contrast pairs,
    so that what both share cancels in a ratio. Each source counts alone if the others are None.

    Args:
        items: `[items]`, effects that were measured.
        draws: made once for all arms.
        vector_deltas: `[vectors, items]`, effects predicted under a vector of resampled pairs, less
            those under the vector itself. None for an arm whose vector does not vary.
        without_fold: `[folds, items]`, effects predicted under each map without one fold. None for
            an arm without a map.

    Returns:
        float64 `[draws]`, in units of the effects.

    Raises:
        ValueError: shapes that do not fit the items or the draws, or a single fold.
    """
    counts = draws.counts
    count = counts.shape[1]
    if items.shape != (count,):
        raise ValueError(f"effects {list(items.shape)} of draws for {count} items")
    weights = counts / counts.sum(1, keepdim=True)
    means = weights @ items.double()
    if vector_deltas is not None:
        vectors = len(vector_deltas)
        if vector_deltas.shape != (vectors, count) or int(draws.vector.max()) >= vectors:
            raise ValueError(
                f"deltas {list(vector_deltas.shape)} are not [vectors, {count}] with the "
                f"{int(draws.vector.max()) + 1} vectors that were drawn"
            )
        per_vector = weights @ vector_deltas.double().T  # [draws, vectors]
        means = means + per_vector.gather(1, draws.vector[:, None])[:, 0]
    if without_fold is not None:
        folds = draws.fold.shape[1]
        if without_fold.shape != (folds, count) or folds < 2:
            raise ValueError(
                f"effects without a fold {list(without_fold.shape)} are not [{folds}, {count}] "
                "with at least two folds"
            )
        left_out = without_fold.double()
        noise = (left_out - left_out.mean(0)) * math.sqrt((folds - 1) / folds)
        means = means + ((weights @ noise.T) * draws.fold).sum(1)
    return means


def further_covariance(arms: Sequence[tuple[Tensor | None, Tensor | None]]) -> Tensor:
    """Covariance of the arms' mean effects from contrast pairs and documents alone, items fixed.

    What `lrt_dist.intervals` adds to the spread of items: over vectors the sample covariance of
    mean deltas, over folds the jackknife's, both as in `joint_replicates`.

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
