"""What sizes of units and batches are proposed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lrt_dist import api
from lrt_dist.clusterfile import load_cluster
from lrt_dist.commands._sizes import Work, better_sizes
from lrt_dist.runfile import load_run
from lrt_dist.runtime.progress import Progress
from lrt_dist.sites import Sided
from lrt_dist.workspace.folder import RunFolder

Run = Callable[..., api.Run]
ROWS, TOKENS = "extract.rows_per_unit", "extract.batch_tokens"


@pytest.fixture
def described(write_run: Callable[..., Path], tmp_path: Path) -> Run:
    """A run on one node of eight GPUs that nobody has started."""
    machines = "{nodes: 1, cpus: 8, memory: 64GiB, gpus: 8, gpu: H100}"

    def make(*settings: str) -> api.Run:
        cluster = tmp_path / "cluster.yaml"
        cluster.write_text(machines)
        config = load_run(write_run(cluster={"address": "auto"}), settings)
        return api.Run(RunFolder(tmp_path / "out", config), Progress(), load_cluster(cluster))

    return make


def work(longest: int = 48) -> Work:
    drawn = random.Random(0)
    lengths = [min(longest, 8 + int(drawn.expovariate(1 / 60))) for _ in range(20_000)]
    sites = [length // 2 for length in lengths]
    return Work(10**7, sites, Sided(lengths, lengths), Sided(1.0, 2.0), replicas=8)


@pytest.mark.parametrize("tokens", [64, 1024])
def test_what_is_proposed_is_well(described: Run, tokens: int) -> None:
    present = [f"{TOKENS}={tokens}", f"{ROWS}=65536"]
    found = better_sizes(described(*present), work())
    assert found[TOKENS] > tokens
    followed = [f"{key}={value}" for key, value in found.items()]
    assert better_sizes(described(*present, *followed), work()) == {}


def test_a_batch_has_room_for_the_longest_segment(described: Run) -> None:
    """The second has units of a batch or two, for which the fewest tokens would do."""
    for rows in (65_536, 64):
        settings = ["corpus.max_tokens=4096", f"{TOKENS}=64", f"{ROWS}={rows}"]
        found = better_sizes(described(*settings), work(longest=4096))
        assert found.get(TOKENS, 4096) >= 4096
    short = ["corpus.max_tokens=1024", f"{TOKENS}=64", f"{ROWS}=1024"]
    assert better_sizes(described(*short), work(longest=1024))[TOKENS] < 4096


def test_replicas_that_a_user_chose_play_no_part(described: Run) -> None:
    settings = [f"{TOKENS}=2048", f"{ROWS}=16384"]
    chosen = better_sizes(described(*settings, "cluster.replicas=1"), work())
    assert chosen == better_sizes(described(*settings), work())
